"""Generators and discriminators: read `mlp` first, then `dcgan` and `resnet`; `network` is the contract."""

from gan.networks.checks import check_characters, check_pair
from gan.networks.conditional import (
    AuxiliaryDCGANDiscriminator,
    AuxiliaryResNetDiscriminator,
    ClassifierDCGANDiscriminator,
    ClassNorm,
    ConditionalDCGANGenerator,
    ConditionalResNetGenerator,
    ProjectionDCGANDiscriminator,
    ProjectionResNetDiscriminator,
)
from gan.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from gan.networks.deep import DeepMLPDiscriminator, DeepMLPGenerator, hidden_layers
from gan.networks.freezing import first_layers
from gan.networks.layers import MinibatchStd, Norm, SelfAttention, SelfModulation
from gan.networks.mlp import MLPDiscriminator, MLPGenerator
from gan.networks.modes import evaluating, frozen, in_own_precision
from gan.networks.network import (
    Discriminator,
    Generator,
    Network,
    classes_of,
    given,
    is_conditional,
    slerp,
    sources_of,
    trial_condition,
)
from gan.networks.r3gan import (
    ConditionalR3GANGenerator,
    GroupedBlock,
    ProjectionR3GANDiscriminator,
    R3GANDiscriminator,
    R3GANGenerator,
)
from gan.networks.resnet import ResidualBlock, ResNetDiscriminator, ResNetGenerator
from gan.networks.text import TextDiscriminator, TextGenerator
from gan.networks.translation import PatchDiscriminator, UNetGenerator

__all__ = [
    "AuxiliaryDCGANDiscriminator",
    "AuxiliaryResNetDiscriminator",
    "ClassNorm",
    "ClassifierDCGANDiscriminator",
    "ConditionalDCGANGenerator",
    "ConditionalR3GANGenerator",
    "ConditionalResNetGenerator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DeepMLPDiscriminator",
    "DeepMLPGenerator",
    "Discriminator",
    "Generator",
    "GroupedBlock",
    "MLPDiscriminator",
    "MLPGenerator",
    "MinibatchStd",
    "Network",
    "Norm",
    "PatchDiscriminator",
    "ProjectionDCGANDiscriminator",
    "ProjectionR3GANDiscriminator",
    "ProjectionResNetDiscriminator",
    "R3GANDiscriminator",
    "R3GANGenerator",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "ResidualBlock",
    "SelfAttention",
    "SelfModulation",
    "TextDiscriminator",
    "TextGenerator",
    "UNetGenerator",
    "check_characters",
    "check_pair",
    "classes_of",
    "evaluating",
    "first_layers",
    "frozen",
    "given",
    "hidden_layers",
    "in_own_precision",
    "is_conditional",
    "slerp",
    "sources_of",
    "trial_condition",
]
