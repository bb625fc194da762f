"""Residual networks: the blocks of He et al. 2015 (arXiv:1512.03385), resampled between the blocks.

As in that paper's ImageNet networks no block runs at the image's own resolution, where it costs the most. There is a
block at half of it, and one at each further halving, until the shorter side is 4 to 7 pixels: 7x7 for 28x28 by two
halvings, 4x4 for 256x256 by six. Below, B is `base_channels`, and k the number of halvings. Feature maps have B
channels at half the image's resolution, and twice as many at each further halving, up to `max_channels`.

Initialisation: He et al. 2015 (arXiv:1502.01852), that is weights of variance 2/fan_in before a ReLU,
2/(1.04 fan_in) before a LeakyReLU(0.2) and 1/fan_in in the output layer and in attention; biases 0. A residual
sum adds the mean squares of its two terms, so without normalisation the signal grows with every block. With
norm="none" the last convolution of each residual branch therefore starts at zero, as in Fixup (Zhang et al. 2019,
arXiv:1901.09321): a block starts as its shortcut alone, and the first convolution of its branch has a zero
gradient in the first step, and only there.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.networks.layers import (
    MinibatchStd,
    Norm,
    SelfAttention,
    channel_plan,
    halved,
    halvings,
    level_of,
    normalization,
    normalize_weights,
)
from gan.networks.network import Discriminator, Generator


class ResidualBlock(nn.Module):
    """`activation(shortcut(x) + residual(x))`; `(N, in_channels, H, W)` to `(N, out_channels, H, W)`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output. If it differs from `in_channels`, the shortcut is a 1x1
            convolution, else the identity.
        norm: Normalisation after each convolution.
        slope: Slope of the (leaky) ReLU for negative inputs.

    `condition` is what its normalisations take beside `x`: nothing, or labels (N,).
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Norm, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope
        bias = norm != "batch"  # batch norm subtracts it again
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
        self.norm1 = normalization(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias)
        self.norm2 = normalization(norm, out_channels)
        self.shortcut = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=bias), normalization(norm, out_channels)
            )

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        residual = self.norm1(self.conv1(x), *condition)  # (N, out_channels, H, W)
        residual = F.leaky_relu(residual, self.slope)
        residual = self.norm2(self.conv2(residual), *condition)  # (N, out_channels, H, W)
        return F.leaky_relu(self.shortcut(x) + residual, self.slope)


class ResNetGenerator(Generator):
    """Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1] by residual blocks, one a doubling.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        latent_dim: Size of a latent vector, at least 1.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation after each layer but the last.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        attention_resolution: Shorter side, in pixels, of the feature maps that self-attention (SAGAN) looks over, such
            as 32; none if not given.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is unknown, `max_channels` is below
            `base_channels`, or no feature maps are of `attention_resolution`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 100,
        base_channels: int = 32,
        norm: Norm = "batch",
        max_channels: int | None = None,
        attention_resolution: int | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim)
        self.depth = halvings(self.image_shape)
        self.attention_level = level_of(attention_resolution, self.image_shape)
        self.channels = channel_plan(base_channels, self.depth, max_channels)[::-1]
        self.grid = (self.channels[0], *halved(self.image_shape, self.depth))
        self.project = nn.Linear(latent_dim, math.prod(self.grid))
        self.norm = normalization(norm, self.channels[0])
        for number, (wide, narrow) in enumerate(pairwise([self.channels[0], *self.channels]), start=1):
            self.add_module(f"block{number}", ResidualBlock(wide, narrow, norm))
            if self.attention_level == self.depth - number + 1:
                self.attention = SelfAttention(narrow)
        self.output = nn.Conv2d(base_channels, self.image_shape[0], 3, padding=1)
        initialize(self, norm, slope=0.0)
        normalize_weights(self, norm)
        self.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores

    def forward(self, z: Tensor) -> Tensor:
        return self.draw(z)

    def draw(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Images of latents; `condition` is what the normalisations take beside their input: nothing, or labels."""
        x = self.project(z).unflatten(1, self.grid)  # (N, 2^(k-1) B, H/2^k, W/2^k): for 28x28, (N, 2B, 7, 7)
        x = F.relu(self.norm(x, *condition))
        for number in range(1, self.depth + 1):
            block = self.get_submodule(f"block{number}")
            x = block(x, *condition)  # half the channels, but in the first; (N, B, H/2, W/2) in the last
            if self.attention_level == self.depth - number + 1:
                x = self.attention(x)
            x = F.interpolate(x, scale_factor=2)  # twice the resolution, nearest neighbour
        x = self.output(x)  # (N, C, H, W)
        return torch.tanh(x)


class ResNetDiscriminator(Discriminator):
    """Images `(N, C, H, W)` in [-1, 1] to logits `(N,)` by a strided convolution and residual blocks, one a halving.

    Args:
        image_shape: Channels, height and width of an image, which is halved until its shorter side is 4 to 7 pixels.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation after each convolution but the first. With "batch" a logit depends on the rest of
            its batch, which per-sample gradient penalties (R1, WGAN-GP) do not allow.
        max_channels: Channels at any resolution, at most; 16 times `base_channels` if not given.
        attention_resolution: Shorter side, in pixels, of the feature maps that self-attention (SAGAN) looks over, such
            as 32; none if not given.
        minibatch_std: Tell the last block how much the 4 images of a group differ (PGGAN); logits then depend on the
            rest of the group.

    Raises:
        ValueError: If `image_shape` cannot be halved like that, `norm` is unknown, `max_channels` is below
            `base_channels`, or no feature maps are of `attention_resolution`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        base_channels: int = 32,
        norm: Norm = "none",
        max_channels: int | None = None,
        attention_resolution: int | None = None,
        minibatch_std: bool = False,
    ) -> None:
        super().__init__(image_shape)
        self.depth = halvings(self.image_shape)
        self.attention_level = level_of(attention_resolution, self.image_shape)
        plan = channel_plan(base_channels, self.depth, max_channels)
        self.stem = nn.Conv2d(self.image_shape[0], base_channels, 4, stride=2, padding=1)
        for number, (narrow, wide) in enumerate(pairwise([base_channels, *plan]), start=1):
            more = minibatch_std and number == self.depth
            self.add_module(f"block{number}", ResidualBlock(narrow + more, wide, norm, slope=0.2))
            if self.attention_level == number:
                self.attention = SelfAttention(wide)
        self.minibatch_std = MinibatchStd() if minibatch_std else None
        self.output = nn.Linear(plan[-1] * math.prod(halved(self.image_shape, self.depth)), 1)
        initialize(self, norm, slope=0.2)
        normalize_weights(self, norm)
        self.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.features(images)).squeeze(1)  # (N,)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer judges by: (N, features)."""
        x = F.leaky_relu(self.stem(images), 0.2)  # (N, B, H/2, W/2)
        for number in range(1, self.depth + 1):
            if number > 1:
                x = F.avg_pool2d(x, 2)  # half the resolution
            if self.minibatch_std is not None and number == self.depth:
                x = self.minibatch_std(x)  # one channel more
            block = self.get_submodule(f"block{number}")
            x = block(x)  # twice the channels, but in the first: (N, B, H/2, W/2), (N, 2B, H/4, W/4), and so on
            if self.attention_level == number:
                x = self.attention(x)
        return x.flatten(1)  # (N, 2^(k-1) B * H/2^k * W/2^k): for 28x28, (N, 2B * 7 * 7)


def initialize(network: ResNetGenerator | ResNetDiscriminator, norm: Norm, slope: float) -> None:
    """The initialisation of the module docstring, for a network whose last layer is called `output`."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=slope)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    nn.init.kaiming_normal_(network.output.weight, nonlinearity="linear")
    if network.attention_level is not None:
        network.attention.initialize()
    if norm == "none":
        for block in network.modules():
            if isinstance(block, ResidualBlock):
                nn.init.zeros_(block.conv2.weight)
