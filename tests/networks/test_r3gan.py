"""R3GAN's networks: sizes as published, the filter by its closed form, and how they start."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gan.networks import (
    ConditionalR3GANGenerator,
    GroupedBlock,
    ProjectionR3GANDiscriminator,
    R3GANDiscriminator,
    R3GANGenerator,
)
from gan.networks.r3gan import DiscriminativeBasis, Downsample, GenerativeBasis, Upsample

MNIST = (1, 28, 28)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def in_a_block(c: int, g: int) -> int:
    """1x1 to 2c channels, 3x3 of groups of g, 1x1 back, and biases before both leaky ReLUs."""
    return c * 2 * c + 9 * 2 * c * g + 2 * c * c + 2 * 2 * c


@pytest.mark.parametrize(("channels", "group"), [(8, 16), (16, 4), (96, 16), (768, 16)])
def test_parameters_of_a_block(channels, group):
    assert size(GroupedBlock(channels, group)) == in_a_block(channels, group)


def test_parameters_of_networks_of_the_papers_widths():
    """Those for CIFAR-10 and FFHQ-256, layer by layer."""
    with torch.device("meta"):
        cifar, faces = R3GANGenerator((3, 32, 32), 64, 768, 768), R3GANGenerator((3, 256, 256), 64, 96, 768)
        judge = R3GANDiscriminator((3, 32, 32), 768, 768)
    assert size(cifar) == 8 * in_a_block(768, 16) + 768 * 16 + 64 * 768 + 3 * 768 == 20_732_160
    assert size(judge) == 8 * in_a_block(768, 16) + 3 * 768 + 768 * 16 + 768
    widths = [768, 768, 768, 768, 384, 192, 96]
    between = 768 * 384 + 384 * 192 + 192 * 96
    assert size(faces) == sum(2 * in_a_block(c, 16) for c in widths) + between + 768 * 16 + 64 * 768 + 3 * 96
    assert round(size(faces) / 1e6, 2) == 23.06


def tent(channels: int, gain: float) -> torch.Tensor:
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    return (gain * line[:, None] * line / 16).expand(channels, 1, 3, 3)


@pytest.mark.parametrize("shape", [(7, 7), (4, 6)])
def test_resampling_is_that_filter(shape):
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    wanted = F.conv_transpose2d(x, tent(3, 4), stride=2, padding=1, output_padding=1, groups=3)
    torch.testing.assert_close(Upsample(3, 3)(x), wanted)
    x = torch.randn(2, 3, 2 * shape[0], 2 * shape[1], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(Downsample(3, 3)(x), F.conv2d(x, tent(3, 1), stride=2, padding=1, groups=3))
    small = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: Downsample(1, 1)(x).square(), small)


def test_ends_are_a_map_for_each_channel():
    """The end is a depthwise convolution over the whole map; the beginning the maps, scaled."""
    end, x = DiscriminativeBasis(3, (4, 5)), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(end(x), F.conv2d(x, end.maps[:, None], groups=3).flatten(1))
    start, z = GenerativeBasis(6, 3, (4, 5)), torch.randn(2, 6)
    torch.testing.assert_close(start(z), torch.einsum("nz,cz,chw->nchw", z, start.scales.weight, start.maps))


# ---------------------------------------------------------------------- how they start


@pytest.mark.parametrize("cls", [R3GANGenerator, R3GANDiscriminator])
def test_blocks_start_as_the_identity(cls):
    blocks = [m for m in cls((3, 64, 64), base_channels=8).modules() if isinstance(m, GroupedBlock)]
    assert len(blocks) == 2 * 5
    for block in blocks:
        x = torch.randn(2, block.conv1.in_channels, 6, 6)
        assert torch.equal(block(x), x)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("cls", [R3GANGenerator, R3GANDiscriminator])
def test_what_all_blocks_would_add_is_as_large_as_what_they_are_added_to(cls, blocks):
    """Were their last layers not zero, of L blocks each would add 1/L of the variance."""
    network = cls(MNIST, base_channels=64, blocks=blocks)
    every = [m for m in network.modules() if isinstance(m, GroupedBlock)]
    for block in every:
        x = torch.randn(8, block.conv1.in_channels, 12, 12)
        nn.init.normal_(block.conv3.weight, 0.0, 1 / math.sqrt(block.conv3.in_channels))
        added = (block(x) - x)[:, :, 1:-1, 1:-1]  # without the zeros beyond the edge
        assert float(added.square().mean()) * len(every) == pytest.approx(1, rel=0.25)


@pytest.mark.parametrize("image_shape", [MNIST, (3, 64, 64), (3, 128, 128)])
def test_a_forward_pass_keeps_the_variance(image_shape):
    """But for what resampling takes: the maps of the beginning are white, and means of them have less."""
    generator = R3GANGenerator(image_shape, base_channels=16, max_channels=128)
    start = generator.basis(torch.randn(256, 64))
    assert float(start.var()) == pytest.approx(1, rel=0.15)
    one_size = nn.Sequential(*[layer for layer in generator.layers if isinstance(layer, GroupedBlock)][:2])
    assert torch.equal(one_size(start), start)
    images = generator(torch.randn(32, 64))
    assert 0.2 < images.std() < 0.9
    judge = R3GANDiscriminator(image_shape, base_channels=16, max_channels=128)
    flat = torch.randn(32, image_shape[0], 1, 1).expand(-1, -1, *image_shape[1:])  # resampling leaves it as it is
    inside = []
    x = flat
    for layer in (judge.input, *judge.layers):
        x = layer(x)
        inside.append(float(x[:, :, 1:-1, 1:-1].var()))
    assert min(inside) > 0.2
    assert max(inside) < 5


# ---------------------------------------------------------------------- conditions, and what is refused


def test_a_class_is_told_to_both():
    generator = ConditionalR3GANGenerator(MNIST, 4, 8, base_channels=8, blocks=1).double()
    z = torch.randn(1, 8, dtype=torch.float64).expand(4, 8)
    images = generator(z, torch.arange(4))
    assert images.shape == (4, *MNIST)
    assert (images[1:] - images[0]).abs().amax((1, 2, 3)).min() > 1e-3
    judge = ProjectionR3GANDiscriminator(MNIST, 4, base_channels=8, blocks=1).double()
    logits = judge(images[:1].expand(4, *MNIST), torch.arange(4))
    assert logits.shape == (4,)
    features = judge.output(judge.features(images[:1]))
    torch.testing.assert_close(logits, (features * judge.vectors.weight).sum(1))


@pytest.mark.parametrize("cls", [R3GANGenerator, R3GANDiscriminator])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_channels": 12}, "group_channels must divide 24, twice the 12 channels of a block, got 16"),
        ({"group_channels": 0}, "group_channels must divide"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"base_channels": 0}, "base_channels must be at least 1"),
        ({"max_channels": 8}, "max_channels must be at least base_channels=32, got 8"),
    ],
)
def test_what_cannot_be_is_a_line(cls, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        cls(MNIST, **settings)
    assert "\n" not in str(caught.value)


def test_classes_that_nobody_states_are_a_line():
    for make in (ConditionalR3GANGenerator, ProjectionR3GANDiscriminator):
        with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
            make(MNIST, 0)
