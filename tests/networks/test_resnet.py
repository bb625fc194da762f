"""The residual pair: how it starts."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from gan.networks import Norm, ResidualBlock, ResNetDiscriminator, ResNetGenerator

MNIST = (1, 28, 28)
NORMS = get_args(Norm)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("cls", [ResNetGenerator, ResNetDiscriminator])
def test_unnormalised_residual_blocks_start_as_their_shortcut(cls):
    def starts_as_shortcut(block):
        x = torch.randn(2, block.conv1.in_channels, 6, 6)
        return torch.equal(block(x), F.leaky_relu(block.shortcut(x), block.slope))

    for norm in NORMS:
        blocks = [m for m in cls(MNIST, norm=norm).modules() if isinstance(m, ResidualBlock)]
        assert [starts_as_shortcut(block) for block in blocks] == [norm == "none"] * 2, norm


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group"])
def test_residual_pair_starts_at_unit_scale(norm):
    images = ResNetGenerator(MNIST, norm=norm)(torch.randn(64, 100))
    assert 0.2 < images.std() < 0.9  # neither flat nor saturated
    logits = ResNetDiscriminator(MNIST, norm=norm)(torch.randn(64, *MNIST))
    assert 0.1 < logits.square().mean().sqrt() < 4
