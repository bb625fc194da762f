"""What the convolutional networks share: normalisation of activations and of weights, and sizes that can be halved."""

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from gan.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    Norm,
    ResNetDiscriminator,
    ResNetGenerator,
)
from gan.networks.layers import normalization

MNIST = (1, 28, 28)
NORMS = get_args(Norm)
CONVOLUTIONAL = (DCGANGenerator, DCGANDiscriminator, ResNetGenerator, ResNetDiscriminator)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def weighted_layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]


@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_spectral_norm_holds_every_weight_at_one(cls):
    for layer in weighted_layers(cls(MNIST, norm="spectral", base_channels=8)):
        assert parametrize.is_parametrized(layer, "weight")
        nn.init.normal_(layer.parametrizations.weight.original, std=3)
        for _ in range(100):
            _ = layer.weight  # one power iteration, as in a forward in training mode
        transposed = isinstance(layer, nn.ConvTranspose2d)
        matrix = (layer.weight.transpose(0, 1) if transposed else layer.weight).flatten(1)
        assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "spectral"])
@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_weights_are_left_alone_unless_spectral(cls, norm):
    assert not any(parametrize.is_parametrized(m) for m in cls(MNIST, norm=norm).modules())


def test_no_bias_before_batch_norm():
    for cls in CONVOLUTIONAL:
        network = cls(MNIST, norm="batch")
        without = [name for name, m in network.named_modules() if getattr(m, "bias", "") is None]
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        after_linear = cls in (DCGANGenerator, ResNetGenerator)  # whose bias differs by position
        assert len(without) == len(norms) - after_linear
        assert all(layer.bias is not None for layer in weighted_layers(cls(MNIST, norm="none")))


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8, 12, 32, 64, 100])
def test_groups_hold_at_least_two_channels(channels):
    layer = normalization("group", channels)
    assert channels % layer.num_groups == 0
    assert layer.num_groups <= 8
    assert layer.num_groups == 1 or channels // layer.num_groups >= 2
    assert layer(torch.randn(2, channels, 3, 3)).shape == (2, channels, 3, 3)


def test_error_says_which_size_would_do():
    with pytest.raises(ValueError, match=r"\(1, 30, 5\).* to 32x8, or use MLPGenerator"):
        DCGANGenerator((1, 30, 5))
    MLPGenerator((1, 30, 5))(torch.randn(2, 100))
    MLPDiscriminator((1, 30, 5))(torch.randn(2, 1, 30, 5))


@pytest.mark.parametrize("cls", CONVOLUTIONAL)
def test_unknown_norm_lists_the_known(cls):
    with pytest.raises(ValueError, match="batch, layer, group, spectral, none, got 'instance'"):
        cls(MNIST, norm="instance")
