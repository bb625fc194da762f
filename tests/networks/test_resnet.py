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
        for shape, depth in ((MNIST, 2), ((3, 64, 64), 4)):
            blocks = [m for m in cls(shape, base_channels=8, norm=norm).modules() if isinstance(m, ResidualBlock)]
            assert [starts_as_shortcut(block) for block in blocks] == [norm == "none"] * depth, norm


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group"])
@pytest.mark.parametrize("image_shape", [MNIST, (3, 64, 64), (3, 128, 128)])
def test_residual_pair_starts_at_unit_scale(norm, image_shape):
    images = ResNetGenerator(image_shape, base_channels=16, norm=norm)(torch.randn(16, 100))
    assert 0.2 < images.std() < 0.9  # neither flat nor saturated
    logits = ResNetDiscriminator(image_shape, base_channels=16, norm=norm)(torch.randn(16, *image_shape))
    assert 0.1 < logits.square().mean().sqrt() < 4
