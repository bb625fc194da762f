"""A pair that is told a source image: pix2pix, Isola et al. 2017 (arXiv:1611.07004), for small images too.

The generator makes an image of a source by a U-Net: what it sees at each size is at hand where it draws at that size.
The discriminator judges an image beside its source, patch by patch. A source of another size than the image's, as in
super-resolution, is resized to it first (bicubic).

Below, B is `base_channels`.

Initialisation: the paper's, which is DCGAN's. Weights are N(0, 0.02), scales of a normalisation N(1, 0.02), biases 0.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan.errors import GANError
from gan.networks.dcgan import initialize
from gan.networks.layers import Norm, normalization, normalize_weights
from gan.networks.network import Discriminator, Generator

HALVINGS = 4  # of a U-Net's source, at most
WIDEST = 8  # times `base_channels`, at most


class UNetGenerator(Generator):
    """Latents `(N, latent_dim)` and sources `(N, C', H', W')` in [-1, 1] to images `(N, C, H, W)` in [-1, 1].

    The source is halved while the image's height and width are even, at most 4 times: twice for 28x28. There the
    latents join it, the same ones at each position. The paper has dropout for them, and finds that either changes
    little of an image.

    Args:
        image_shape: Channels, height and width of an image; height and width even.
        condition_shape: Channels, height and width of a source image.
        latent_dim: Size of a latent vector, at least 1.
        base_channels: Channels at the image's own resolution; doubled at each halving, up to 8 times as many.
        norm: Normalisation after each convolution but the first and the last.

    Raises:
        ValueError: If `image_shape` cannot be halved, there is no `condition_shape`, or `norm` is unknown.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        condition_shape: tuple[int, int, int],
        latent_dim: int = 16,
        base_channels: int = 32,
        norm: Norm = "batch",
    ) -> None:
        super().__init__(image_shape, latent_dim)
        self.condition_shape = checked(condition_shape, self)
        depth = halvings(self.image_shape)
        widths = [base_channels * min(2**level, WIDEST) for level in range(depth + 1)]
        bottom = widths[-1]
        bias = norm != "batch"  # batch norm subtracts it again
        self.enter = nn.Conv2d(self.condition_shape[0], widths[0], 3, padding=1)
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wide, wider, 4, stride=2, padding=1, bias=bias), normalization(norm, wider))
            for wide, wider in pairwise(widths)
        )
        self.join = nn.Sequential(
            nn.Conv2d(bottom + latent_dim, bottom, 3, padding=1, bias=bias), normalization(norm, bottom)
        )
        self.ups = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(
                    bottom if level == depth else 2 * widths[level],
                    widths[level - 1],
                    4,
                    stride=2,
                    padding=1,
                    bias=bias,
                ),
                normalization(norm, widths[level - 1]),
            )
            for level in range(depth, 0, -1)
        )
        self.output = nn.Conv2d(2 * widths[0], self.image_shape[0], 3, padding=1)
        initialize(self)
        normalize_weights(self, norm)
        self.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = F.leaky_relu(self.enter(resized(condition, self.image_shape)), 0.2)  # (N, B, H, W)
        seen = []
        for down in self.downs:
            seen.append(x)
            x = F.leaky_relu(down(x), 0.2)  # (N, 2B, H/2, W/2), and so on
        x = torch.cat([x, z[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)
        x = F.relu(self.join(x))
        for up in self.ups:
            x = F.relu(up(x))  # the channels of what was seen at this size
            x = torch.cat([x, seen.pop()], dim=1)
        return torch.tanh(self.output(x))  # (N, C, H, W)


class PatchDiscriminator(Discriminator):
    """Images `(N, C, H, W)` and their sources `(N, C', H', W')`, both in [-1, 1], to logits `(N, 1, h, w)`.

    Each logit is of a patch of the image beside its source, which overlaps with its neighbours': of 16x16 pixels, from
    images of 64 on of 34x34, and from 128 on of the 70x70 that the paper settles on for 256.

    Args:
        image_shape: Channels, height and width of an image, of at least 6 pixels each.
        condition_shape: Channels, height and width of a source image.
        base_channels: Channels after the first convolution; doubled at each further one, up to 8 times as many.
        norm: Normalisation before each LeakyReLU except the first. The paper takes "batch", with which a logit depends
            on the rest of its batch; per-sample gradient penalties (R1, WGAN-GP) do not allow that.

    Raises:
        ValueError: If `image_shape` is too small, there is no `condition_shape`, or `norm` is unknown.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        condition_shape: tuple[int, int, int],
        base_channels: int = 32,
        norm: Norm = "none",
    ) -> None:
        super().__init__(image_shape)
        self.condition_shape = checked(condition_shape, self)
        channels, *size = self.image_shape
        if min(size) < 6:
            raise GANError(f"image_shape={self.image_shape}: PatchDiscriminator takes images of at least 6x6 pixels")
        bias = norm != "batch"  # batch norm subtracts it again
        halved = 1 + (min(size) >= 64) + (min(size) >= 128)
        self.enter = nn.Conv2d(channels + self.condition_shape[0], base_channels, 4, stride=2, padding=1)
        self.layers = nn.ModuleList()
        wide = base_channels
        for number in range(1, halved + 1):
            stride = 2 if number < halved else 1
            wider = base_channels * min(2**number, WIDEST)
            conv = nn.Conv2d(wide, wider, 4, stride=stride, padding=1, bias=bias)
            self.layers.append(nn.Sequential(conv, normalization(norm, wider)))
            wide = wider
        self.output = nn.Conv2d(wide, 1, 4, padding=1)
        initialize(self)
        normalize_weights(self, norm)
        self.to(memory_format=torch.channels_last)  # faster convolutions on CPUs and tensor cores

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = torch.cat([images, resized(condition, self.image_shape)], dim=1)  # (N, C + C', H, W)
        x = F.leaky_relu(self.enter(x), 0.2)  # (N, B, H/2, W/2)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return self.output(x)  # (N, 1, h, w): 12x12 for 28x28


def resized(sources: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Source images (N, C', H', W') at the height and width of an image, by bicubic interpolation if need be."""
    size = image_shape[1:]
    if sources.shape[2:] == size:
        return sources
    wide = sources.to(torch.promote_types(sources.dtype, torch.float32))  # CPUs do not resize in 16 bits
    return F.interpolate(wide, size, mode="bicubic", antialias=True).to(sources.dtype)


def halvings(image_shape: tuple[int, int, int]) -> int:
    """How often height and width can be halved, at most 4 times.

    Raises:
        ValueError: If they cannot be at all.
    """
    _, height, width = image_shape
    times = 0
    while times < HALVINGS and height % 2 == width % 2 == 0:
        times, height, width = times + 1, height // 2, width // 2
    if not times:
        raise GANError(
            f"image_shape={image_shape}: UNetGenerator halves height and width, so both must be even, and best are "
            "multiples of 4 and more: resize or pad the images"
        )
    return times


def checked(condition_shape: tuple[int, int, int] | None, network: nn.Module) -> tuple[int, int, int]:
    """The shape of a source image.

    Raises:
        ValueError: If it is none, or nobody has stated it.
    """
    name = type(network).__name__
    if condition_shape is None:
        raise GANError(
            f"{name} is told source images, and the data has none: take a data module that states condition_shape, "
            "their channels, height and width"
        )
    shape = tuple(condition_shape)
    if len(shape) != 3 or not all(isinstance(size, int) and size >= 1 for size in shape):
        raise GANError(
            f"{name}: condition_shape must be (channels, height, width) of a source image, three integers of at least "
            f"1, got {shape}"
        )
    return shape
