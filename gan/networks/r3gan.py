"""R3GAN's networks: grouped residual blocks without normalisation, Huang et al. 2024 (arXiv:2501.05441).

Both have the same shape, turned round. A stage of blocks runs at each resolution, the image's own included; between
stages the map is resampled by the filter [1, 2, 1], and a 1x1 convolution changes its channels where they differ. The
generator begins with a learnt map for each channel, scaled by the latent, and the discriminator ends in a weight for
each place of each channel. The paper's begin at 4x4; here it is what is left when an image has been halved until its
shorter side is 4 to 7 pixels: 7x7 for 28x28. Below, B is `base_channels`, k the number of halvings, L the number of
blocks in a network. Feature maps have B channels at the image's resolution, and twice as many at each halving, up to
`max_channels`: its FFHQ-256 networks have B = 96 and at most 768, those for CIFAR-10 768 throughout.

Initialisation: the paper's, after Fixup (Zhang et al. 2019, arXiv:1901.09321). Weights have variance 1/fan_in; those of
the first two convolutions of a block 2/(1.04 fan_in sqrt(L)), so that what L blocks add would have the variance of what
they are added to, but the last one starts at zero: a block starts as the identity. Biases are 0, and stand in front of
leaky ReLUs alone.

A tanh at the end keeps images in [-1, 1], where the paper's are unbounded.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.errors import GANError
from gan.networks.conditional import at_least_one
from gan.networks.layers import channel_plan, halved, halvings
from gan.networks.network import Discriminator, Generator

SLOPE = 0.2
EXPANSION = 2  # channels within a block, for each outside


class GroupedBlock(nn.Module):
    """`x + residual(x)`, of `(N, channels, H, W)`: 1x1 to twice as many channels, 3x3 by groups, 1x1 back.

    It has `c e + 9 e g + e c + 2 e` parameters, where e is twice its channels c, and g the channels of a group.

    Args:
        channels: Channels of input and output.
        group_channels: Channels of each group, a divisor of twice as many.

    Raises:
        ValueError: If it is none.
    """

    def __init__(self, channels: int, group_channels: int) -> None:
        super().__init__()
        inner = EXPANSION * channels
        if not (group_channels >= 1 and inner % group_channels == 0):
            raise GANError(
                f"group_channels must divide {inner}, twice the {channels} channels of a block, got {group_channels}: "
                "take a smaller power of 2, and powers of 2 for base_channels and max_channels"
            )
        self.conv1 = nn.Conv2d(channels, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group_channels)
        self.conv3 = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.leaky_relu(self.conv1(x), SLOPE)  # (N, 2 channels, H, W)
        residual = F.leaky_relu(self.conv2(residual), SLOPE)  # (N, 2 channels, H, W)
        return x + self.conv3(residual)


class Upsample(nn.Module):
    """`(N, in_channels, H, W)` to `(N, out_channels, 2H, 2W)`: a value between two is their mean, beyond the edge 0."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = resized(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = F.pad(self.conv(x), (0, 1, 0, 1))
        size = (2 * height + 1, 2 * width + 1)
        return F.interpolate(x, size, mode="bilinear", align_corners=True)[:, :, :-1, :-1]


class Downsample(nn.Module):
    """`(N, in_channels, H, W)` to `(N, out_channels, H/2, W/2)`: every second value of the means [1, 2, 1] / 4."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = resized(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        # By slices, whose second derivatives cost a CPU less than those of a convolution or of pooling.
        even, odd = x[:, :, ::2], x[:, :, 1::2]
        x = even + (odd + F.pad(odd[:, :, :-1], (0, 0, 1, 0))) / 2
        even, odd = x[..., ::2], x[..., 1::2]
        return self.conv((even + (odd + F.pad(odd[..., :-1], (1, 0))) / 2) / 4)  # (N, out_channels, H/2, W/2)


class GenerativeBasis(nn.Module):
    """Latents `(N, latent_dim)` to `(N, channels, H, W)`: a learnt map for each channel, scaled by the latent."""

    def __init__(self, latent_dim: int, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(channels, *grid))
        self.scales = nn.Linear(latent_dim, channels, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        return self.scales(z)[:, :, None, None] * self.maps


class DiscriminativeBasis(nn.Module):
    """`(N, channels, H, W)` to `(N, channels)`: a weighted sum over the places of each channel."""

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(channels, *grid) / math.sqrt(math.prod(grid)))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.maps).sum((2, 3))


def resized(in_channels: int, out_channels: int) -> nn.Module:
    """A 1x1 convolution to another number of channels; nothing for the same."""
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, bias=False)


class R3GANGenerator(Generator):
    """Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1] by grouped residual blocks.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        latent_dim: Size of a latent vector, at least 1.
        base_channels: Channels at the image's resolution; doubled at each halving.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        blocks: Residual blocks at each resolution, at least 1.
        group_channels: Channels of each group of a block's 3x3 convolution.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `max_channels` is below `base_channels`, `blocks` is
            below 1, or `group_channels` does not divide twice the channels.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 64,
        base_channels: int = 32,
        max_channels: int | None = None,
        blocks: int = 2,
        group_channels: int = 16,
    ) -> None:
        super().__init__(image_shape, latent_dim)
        depth, plan = levels(self.image_shape, base_channels, max_channels, blocks)
        self.basis = GenerativeBasis(latent_dim, plan[-1], halved(self.image_shape, depth))
        self.layers = nn.Sequential()
        for number, (wide, narrow) in enumerate(pairwise([plan[-1], *plan[::-1]])):
            if number:
                self.layers.append(Upsample(wide, narrow))
            self.layers.extend(GroupedBlock(narrow, group_channels) for _ in range(blocks))
        self.output = nn.Conv2d(base_channels, self.image_shape[0], 1, bias=False)
        initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        return self.draw(z)

    def draw(self, z: Tensor) -> Tensor:
        """Images of latents, with what stands beside them in a conditional network."""
        x = self.basis(z)  # (N, 2^k B, H/2^k, W/2^k): for 28x28, (N, 4B, 7, 7)
        x = self.layers(x)  # (N, B, H, W)
        return torch.tanh(self.output(x))  # (N, C, H, W)


class R3GANDiscriminator(Discriminator):
    """Images `(N, C, H, W)` in [-1, 1] to logits `(N,)` by grouped residual blocks.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        base_channels: Channels at the image's resolution; doubled at each halving.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        blocks: Residual blocks at each resolution, at least 1.
        group_channels: Channels of each group of a block's 3x3 convolution.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `max_channels` is below `base_channels`, `blocks` is
            below 1, or `group_channels` does not divide twice the channels.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        base_channels: int = 32,
        max_channels: int | None = None,
        blocks: int = 2,
        group_channels: int = 16,
    ) -> None:
        super().__init__(image_shape)
        depth, plan = levels(self.image_shape, base_channels, max_channels, blocks)
        self.input = nn.Conv2d(self.image_shape[0], base_channels, 1, bias=False)
        self.layers = nn.Sequential()
        for number, (narrow, wide) in enumerate(pairwise([*plan, plan[-1]])):
            self.layers.extend(GroupedBlock(narrow, group_channels) for _ in range(blocks))
            if number < depth:
                self.layers.append(Downsample(narrow, wide))
        self.basis = DiscriminativeBasis(plan[-1], halved(self.image_shape, depth))
        self.output = nn.Linear(plan[-1], 1, bias=False)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.features(images)).squeeze(1)  # (N,)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer judges by: (N, features)."""
        x = self.layers(self.input(images))  # (N, 2^k B, H/2^k, W/2^k): for 28x28, (N, 4B, 7, 7)
        return self.basis(x)  # (N, 2^k B)


class ConditionalR3GANGenerator(R3GANGenerator):
    """Latents `(N, latent_dim)` and labels `(N,)` to images `(N, C, H, W)` in [-1, 1].

    As in the paper, a learnt vector of the class stands beside the latent.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        num_classes: Labels are 0 to `num_classes - 1`.
        latent_dim: Size of a latent vector, at least 1.
        base_channels: Channels at the image's resolution; doubled at each halving.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        blocks: Residual blocks at each resolution, at least 1.
        group_channels: Channels of each group of a block's 3x3 convolution.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `num_classes` is below 1, `max_channels` is below
            `base_channels`, `blocks` is below 1, or `group_channels` does not divide twice the channels.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        latent_dim: int = 64,
        base_channels: int = 32,
        max_channels: int | None = None,
        blocks: int = 2,
        group_channels: int = 16,
    ) -> None:
        super().__init__(image_shape, latent_dim, base_channels, max_channels, blocks, group_channels)
        self.num_classes = num_classes
        self.vectors = class_vectors(num_classes, latent_dim)
        channels, *grid = self.basis.maps.shape
        self.basis = GenerativeBasis(2 * latent_dim, channels, (grid[0], grid[1]))
        normal(self.basis.scales)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.draw(torch.cat([z, self.vectors(condition)], 1))  # (N, C, H, W)


class ProjectionR3GANDiscriminator(R3GANDiscriminator):
    """Images `(N, C, H, W)` in [-1, 1] and their labels `(N,)` to logits `(N,)`.

    As in the paper a logit is the inner product of what is seen with the vector of the class, and nothing beside.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        num_classes: Labels are 0 to `num_classes - 1`.
        base_channels: Channels at the image's resolution; doubled at each halving.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        blocks: Residual blocks at each resolution, at least 1.
        group_channels: Channels of each group of a block's 3x3 convolution.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `num_classes` is below 1, `max_channels` is below
            `base_channels`, `blocks` is below 1, or `group_channels` does not divide twice the channels.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        base_channels: int = 32,
        max_channels: int | None = None,
        blocks: int = 2,
        group_channels: int = 16,
    ) -> None:
        super().__init__(image_shape, base_channels, max_channels, blocks, group_channels)
        features = self.output.in_features
        self.output = nn.Linear(features, features, bias=False)
        self.vectors = class_vectors(num_classes, features)
        normal(self.output)

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (self.output(self.features(images)) * self.vectors(condition)).sum(1)  # (N,)


def levels(
    image_shape: tuple[int, int, int], base_channels: int, max_channels: int | None, blocks: int
) -> tuple[int, list[int]]:
    """How often an image is halved, and the channels at its resolution and after each halving.

    Raises:
        ValueError: If the image cannot be halved so, or a setting is out of range.
    """
    if not base_channels >= 1:
        raise GANError(f"base_channels must be at least 1, got {base_channels}")
    if not blocks >= 1:
        raise GANError(f"blocks must be at least 1 at each resolution, got {blocks}")
    depth = halvings(image_shape)
    return depth, channel_plan(base_channels, depth + 1, max_channels)


def class_vectors(num_classes: int, size: int) -> nn.Embedding:
    """Vectors of the classes, (num_classes, size), of variance 1/num_classes, as a matrix for one-hot vectors has."""
    vectors = nn.Embedding(at_least_one(num_classes), size)
    nn.init.normal_(vectors.weight, 0.0, 1 / math.sqrt(num_classes))
    return vectors


def normal(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> None:
    """Weights of variance gain^2 / fan_in, and biases of 0."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def initialize(network: nn.Module) -> None:
    """The initialisation of the module docstring."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            normal(layer)
    blocks = [block for block in network.modules() if isinstance(block, GroupedBlock)]
    for block in blocks:
        # A branch of two layers before the last: the fourth root, of each one's deviation, makes 1/L of its variance.
        gain = math.sqrt(2 / (1 + SLOPE**2)) / len(blocks) ** 0.25
        normal(block.conv1, gain)
        normal(block.conv2, gain)
        nn.init.zeros_(block.conv3.weight)
    network.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores
