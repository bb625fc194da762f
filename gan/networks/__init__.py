"""Generators and discriminators: read `mlp` first, then `dcgan` and `resnet`; `network` is the contract."""

from gan.networks.checks import check_pair
from gan.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from gan.networks.deep import DeepMLPDiscriminator, DeepMLPGenerator, hidden_layers
from gan.networks.layers import Norm
from gan.networks.mlp import MLPDiscriminator, MLPGenerator
from gan.networks.modes import evaluating, frozen, in_own_precision
from gan.networks.network import Discriminator, Generator, Network, slerp
from gan.networks.resnet import ResidualBlock, ResNetDiscriminator, ResNetGenerator

__all__ = [
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DeepMLPDiscriminator",
    "DeepMLPGenerator",
    "Discriminator",
    "Generator",
    "MLPDiscriminator",
    "MLPGenerator",
    "Network",
    "Norm",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "ResidualBlock",
    "check_pair",
    "evaluating",
    "frozen",
    "hidden_layers",
    "in_own_precision",
    "slerp",
]
