"""DCGAN: strided convolutions, Radford et al. 2015 (arXiv:1511.06434), cut to two doublings for small images.

Below, B is `base_channels`.

Initialisation: the paper's. Weights are N(0, 0.02), scales of a normalisation N(1, 0.02), biases 0.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.networks.layers import Norm, normalization, normalize_weights, quarter
from gan.networks.network import Discriminator, Generator


class DCGANGenerator(Generator):
    """Latents `(N, latent_dim)` to images `(N, C, H, W)` in [-1, 1] by two transposed convolutions.

    Args:
        image_shape: Channels, height and width of an image; height and width multiples of 4, at least 8.
        latent_dim: Size of a latent vector, at least 1.
        base_channels: Channels at half the image's resolution; twice as many at a quarter of it.
        norm: Normalisation before each ReLU.

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
        bias = norm != "batch"  # batch norm subtracts it again
        # Here the bias stays: it differs by position, and batch norm subtracts one mean per channel.
        self.project = nn.Linear(latent_dim, math.prod(self.grid))
        self.norm1 = normalization(norm, 2 * base_channels)
        self.up1 = nn.ConvTranspose2d(2 * base_channels, base_channels, 4, stride=2, padding=1, bias=bias)
        self.norm2 = normalization(norm, base_channels)
        self.up2 = nn.ConvTranspose2d(base_channels, self.image_shape[0], 4, stride=2, padding=1)
        initialize(self)
        normalize_weights(self, norm)
        self.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z).unflatten(1, self.grid)  # (N, 2B, H/4, W/4)
        x = F.relu(self.norm1(x))
        x = self.up1(x)  # (N, B, H/2, W/2)
        x = F.relu(self.norm2(x))
        x = self.up2(x)  # (N, C, H, W)
        return torch.tanh(x)


class DCGANDiscriminator(Discriminator):
    """Images `(N, C, H, W)` in [-1, 1] to logits `(N,)` by three strided convolutions.

    Args:
        image_shape: Channels, height and width of an image; height and width multiples of 4, at least 8.
        base_channels: Channels at half the image's resolution; doubled at each further halving.
        norm: Normalisation before each LeakyReLU except the first, as in the paper. With "batch" a logit
            depends on the rest of its batch, which per-sample gradient penalties (R1, WGAN-GP) do not allow.

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
        bias = norm != "batch"  # batch norm subtracts it again
        self.down1 = nn.Conv2d(self.image_shape[0], base_channels, 4, stride=2, padding=1)
        self.down2 = nn.Conv2d(base_channels, 2 * base_channels, 4, stride=2, padding=1, bias=bias)
        self.norm2 = normalization(norm, 2 * base_channels)
        self.down3 = nn.Conv2d(2 * base_channels, 4 * base_channels, 4, stride=2, padding=1, bias=bias)
        self.norm3 = normalization(norm, 4 * base_channels)
        self.output = nn.Linear(4 * base_channels * (height // 2) * (width // 2), 1)
        initialize(self)
        normalize_weights(self, norm)
        self.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.features(images)).squeeze(1)  # (N,)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer judges by: (N, features)."""
        x = F.leaky_relu(self.down1(images), 0.2)  # (N, B, H/2, W/2)
        x = self.norm2(self.down2(x))  # (N, 2B, H/4, W/4)
        x = F.leaky_relu(x, 0.2)
        x = self.norm3(self.down3(x))  # (N, 4B, H/8, W/8), rounded down: 28 -> 14 -> 7 -> 3
        x = F.leaky_relu(x, 0.2)
        return x.flatten(1)  # (N, 4B * H/8 * W/8)


def initialize(network: nn.Module) -> None:
    """The initialisation of the module docstring."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02)
        if isinstance(bias := getattr(layer, "bias", None), Tensor):
            nn.init.zeros_(bias)
