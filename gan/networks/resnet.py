"""Residual networks: the blocks of He et al. 2015 (arXiv:1512.03385), resampled between the blocks.

As in that paper's ImageNet networks no block runs at the image's own resolution, where it costs the most.
Below, B is `base_channels`.

Initialisation: He et al. 2015 (arXiv:1502.01852), that is weights of variance 2/fan_in before a ReLU,
2/(1.04 fan_in) before a LeakyReLU(0.2) and 1/fan_in in the output layer; biases 0. A residual sum adds the
mean squares of its two terms, so without normalisation the signal grows with every block. With norm="none"
the last convolution of each residual branch therefore starts at zero, as in Fixup (Zhang et al. 2019,
arXiv:1901.09321): a block starts as its shortcut alone, and the first convolution of its branch has a zero
gradient in the first step, and only there.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.networks.layers import Norm, normalization, normalize_weights, quarter
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
    """Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1] by two residual blocks.

    Args:
        image_shape: Channels, height and width of an image; height and width multiples of 4, at least 8.
        latent_dim: Size of a latent vector, at least 1.
        base_channels: Channels at half the image's resolution; twice as many at a quarter of it.
        norm: Normalisation after each layer but the last.

    Raises:
        ValueError: If `image_shape` cannot be halved twice, or `norm` is unknown.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int = 100,
        base_channels: int = 32,
        norm: Norm = "batch",
    ) -> None:
        super().__init__(image_shape, latent_dim)
        self.grid = (2 * base_channels, *quarter(self.image_shape))
        self.project = nn.Linear(latent_dim, math.prod(self.grid))
        self.norm = normalization(norm, 2 * base_channels)
        self.block1 = ResidualBlock(2 * base_channels, 2 * base_channels, norm)
        self.block2 = ResidualBlock(2 * base_channels, base_channels, norm)
        self.output = nn.Conv2d(base_channels, self.image_shape[0], 3, padding=1)
        initialize(self, norm, slope=0.0)
        normalize_weights(self, norm)
        self.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z).unflatten(1, self.grid)  # (N, 2B, H/4, W/4)
        x = F.relu(self.norm(x))
        x = self.block1(x)  # (N, 2B, H/4, W/4)
        x = F.interpolate(x, scale_factor=2)  # (N, 2B, H/2, W/2), nearest neighbour
        x = self.block2(x)  # (N, B, H/2, W/2)
        x = F.interpolate(x, scale_factor=2)  # (N, B, H, W)
        x = self.output(x)  # (N, C, H, W)
        return torch.tanh(x)


class ResNetDiscriminator(Discriminator):
    """Images `(N, C, H, W)` in [-1, 1] to logits `(N,)` by a strided convolution and two residual blocks.

    Args:
        image_shape: Channels, height and width of an image; height and width multiples of 4, at least 8.
        base_channels: Channels at half the image's resolution; twice as many at a quarter of it.
        norm: Normalisation after each convolution but the first. With "batch" a logit depends on the rest of
            its batch, which per-sample gradient penalties (R1, WGAN-GP) do not allow.

    Raises:
        ValueError: If `image_shape` cannot be halved twice, or `norm` is unknown.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        base_channels: int = 32,
        norm: Norm = "none",
    ) -> None:
        super().__init__(image_shape)
        height, width = quarter(self.image_shape)
        self.stem = nn.Conv2d(self.image_shape[0], base_channels, 4, stride=2, padding=1)
        self.block1 = ResidualBlock(base_channels, base_channels, norm, slope=0.2)
        self.block2 = ResidualBlock(base_channels, 2 * base_channels, norm, slope=0.2)
        self.output = nn.Linear(2 * base_channels * height * width, 1)
        initialize(self, norm, slope=0.2)
        normalize_weights(self, norm)
        self.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.features(images)).squeeze(1)  # (N,)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer judges by: (N, features)."""
        x = F.leaky_relu(self.stem(images), 0.2)  # (N, B, H/2, W/2)
        x = self.block1(x)  # (N, B, H/2, W/2)
        x = F.avg_pool2d(x, 2)  # (N, B, H/4, W/4)
        x = self.block2(x)  # (N, 2B, H/4, W/4)
        return x.flatten(1)  # (N, 2B * H/4 * W/4)


def initialize(network: ResNetGenerator | ResNetDiscriminator, norm: Norm, slope: float) -> None:
    """The initialisation of the module docstring, for a network whose last layer is called `output`."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=slope)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    nn.init.kaiming_normal_(network.output.weight, nonlinearity="linear")
    if norm == "none":
        for block in network.modules():
            if isinstance(block, ResidualBlock):
                nn.init.zeros_(block.conv2.weight)
