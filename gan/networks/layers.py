"""What the convolutional networks share: normalisations, depth and channels by the image's size, attention, groups."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan.errors import GANError

Norm = Literal["batch", "layer", "group", "spectral", "none"]


def normalization(norm: Norm, channels: int, affine: bool = True) -> nn.Module:
    """A layer that normalises `(N, channels, H, W)`; the identity for "spectral" and "none".

    If `affine`, it then scales and shifts each channel.

    - "batch": over the batch and the positions, per channel (Ioffe & Szegedy 2015, arXiv:1502.03167). The
      only one under which, in training mode, an image's output depends on the rest of its batch.
    - "layer": over everything in one image (Ba et al. 2016, arXiv:1607.06450).
    - "group": over up to 8 groups of at least 2 channels in one image (Wu & He 2018, arXiv:1803.08494).
    - "spectral": no layer but a bound on each weight, see `normalize_weights`.

    Raises:
        ValueError: If `norm` is none of these.
    """
    match norm:
        case "batch":
            return nn.BatchNorm2d(channels, affine=affine)
        case "layer":
            return nn.GroupNorm(1, channels, affine=affine)
        case "group":
            return nn.GroupNorm(max(1, math.gcd(16, channels) // 2), channels, affine=affine)
        case "spectral" | "none":
            return nn.Identity()
    raise GANError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")


def unscaled(norm: Norm, channels: int, why: str) -> nn.Module:
    """The same layer without scales and shifts of its own, which are chosen elsewhere.

    Raises:
        ValueError: If `norm` normalises no channels, with `why` that is needed.
    """
    layer = normalization(norm, channels, affine=False)
    if isinstance(layer, nn.Identity):
        raise GANError(f"norm must be one of batch, layer, group, whose channels {why}, got {norm!r}")
    return layer


class SelfModulation(nn.Module):
    """A normalisation of `(N, channels, H, W)`, then a scale and a shift for each channel that the latents choose.

    Chen et al. 2019 (arXiv:1810.01365): what each image's channels are worth is computed from its own latents, by a
    layer of ReLUs and a linear one, whose weights start at N(0, 0.02): scales near 1, shifts near 0.

    Args:
        norm: "batch", "layer" or "group".
        channels: Channels.
        latent_dim: Size of a latent vector.
        hidden: ReLUs, at least 1.

    Raises:
        ValueError: If `norm` is another, or `hidden` below 1.
    """

    def __init__(self, norm: Norm, channels: int, latent_dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = unscaled(norm, channels, "are modulated")
        if not hidden >= 1:
            raise GANError(f"modulation must be at least 1 hidden unit, got {hidden}; leave it out for none")
        self.hidden = nn.Linear(latent_dim, hidden)
        self.scale_and_shift = nn.Linear(hidden, 2 * channels)
        self.initialize()

    def initialize(self) -> None:
        """The hidden layer as torch has it: with weights of 0.02, latents would hardly reach through it."""
        self.hidden.reset_parameters()
        nn.init.normal_(self.scale_and_shift.weight, 0.0, 0.02)
        nn.init.zeros_(self.scale_and_shift.bias)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift(F.relu(self.hidden(z))).chunk(2, 1)  # (N, channels)
        return self.norm(x) * (1 + scale)[:, :, None, None] + shift[:, :, None, None]


def normalize_weights(network: nn.Module, norm: Norm) -> None:
    """Under "spectral", divide the weight of each layer, embeddings included, by its largest singular value.

    Miyato et al. 2018 (arXiv:1802.05957): a discriminator whose layers stretch little has bounded gradients.
    A convolution's weight counts as the matrix `(out, in * kernel area)`. Each forward in training mode
    improves the estimate of the singular value by one power iteration.
    """
    if norm != "spectral":
        return
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
            spectral_norm(layer)  # the parametrization: torch.nn.utils.spectral_norm breaks deepcopy, hence EMA


def halvings(image_shape: tuple[int, int, int]) -> int:
    """How often a network that follows the image halves it: until the shorter side is 4 to 7 pixels, at least twice.

    So both sides are multiples of 4 up to 31 pixels of the shorter one, of 8 from 32, of 16 from 64, of 32 from 128,
    and of 64 from 256: 28x28 is halved twice, to 7x7, 48x64 three times, to 6x8, and 256x256 six times, to 4x4.

    Raises:
        ValueError: If a side is no such multiple, or below 8.
    """
    _, *size = image_shape
    times = halvings_by(min(size))
    if min(size) < 8 or any(side % 2**times for side in size):
        nearest = " or ".join(f"{height}x{width}" for height, width in nearest_sizes(size))
        raise GANError(
            f"image_shape={tuple(image_shape)}: this network halves images until the shorter side is 4 to 7 pixels, so "
            f"height and width must be multiples of {2**times}, and at least 8. Resize or pad the images to {nearest}, "
            "or use MLPGenerator and MLPDiscriminator, which take any size."
        )
    return times


def halved(image_shape: tuple[int, int, int], times: int) -> tuple[int, int]:
    """Height and width after so many halvings, rounded down."""
    return image_shape[1] >> times, image_shape[2] >> times


def halvings_by(side: int) -> int:
    """How often a shorter side of so many pixels is halved."""
    return max(2, (side // 4).bit_length() - 1)


def nearest_sizes(size: Sequence[int]) -> list[tuple[int, ...]]:
    """The next smaller height and width that can be halved, if there are, and the next larger ones."""
    times = halvings_by(min(size))
    smaller = tuple(side >> times << times for side in size)
    # Rounded up, a side may be one that is halved once more.
    larger = [tuple(max(8, -(-side >> more << more)) for side in size) for more in (times, times + 1)]
    fitting = [up for up in larger if all(side % 2 ** halvings_by(min(up)) == 0 for side in up)]
    return [smaller] * (min(smaller) >= 8) + fitting[:1]


def channel_plan(base_channels: int, num: int, max_channels: int | None) -> list[int]:
    """Channels of the feature maps after 1, 2, ... `num` halvings of an image: doubled each time, up to a cap.

    Args:
        base_channels: After the first halving.
        num: How many there are.
        max_channels: The cap; 16 times `base_channels` if not given.

    Raises:
        ValueError: If the cap is below `base_channels`.
    """
    most = 16 * base_channels if max_channels is None else max_channels
    if not most >= base_channels:
        raise GANError(f"max_channels must be at least base_channels={base_channels}, got {max_channels}")
    return [min(base_channels * 2**level, most) for level in range(num)]


def level_of(attention_resolution: int | None, image_shape: tuple[int, int, int]) -> int | None:
    """How often an image is halved before its shorter side has so many pixels; None for None.

    Raises:
        ValueError: If no feature maps are of that size.
    """
    if attention_resolution is None:
        return None
    sides = [min(halved(image_shape, level)) for level in range(1, halvings(image_shape) + 1)]
    if attention_resolution not in sides:
        known = ", ".join(map(str, sides))
        raise GANError(
            f"attention_resolution must be the shorter side of feature maps, {known} for images of "
            f"{image_shape[1]}x{image_shape[2]}, got {attention_resolution}; leave it out for no attention"
        )
    return 1 + sides.index(attention_resolution)


class SelfAttention(nn.Module):
    """Each position of `(N, channels, H, W)` looks at all others: Zhang et al. 2018, SAGAN (arXiv:1805.08318).

    Queries and keys have an eighth of the channels, values half, and as in the authors' code keys and values are the
    largest of 2x2 positions. What is seen is added to the input times `gamma`, which starts at 0: the layer starts as
    the identity, and its convolutions move from the second step on. Under norm="spectral" they are normalised like any
    other layer; `gamma` is not, and attention has no Lipschitz constant anyway (Kim et al. 2020, arXiv:2006.04710), so
    that a discriminator with it is bounded no more by its weights alone.

    Memory grows with the fourth power of the resolution: H*W * H*W/4 weights an image, 1 MB at 32x32, 16 MB at 64x64.

    Args:
        channels: Channels of the input and the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        few, half = max(1, channels // 8), max(1, channels // 2)
        self.query = nn.Conv2d(channels, few, 1, bias=False)
        self.key = nn.Conv2d(channels, few, 1, bias=False)
        self.value = nn.Conv2d(channels, half, 1, bias=False)
        self.output = nn.Conv2d(half, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.initialize()

    def initialize(self) -> None:
        """Weights of variance 1/fan_in, since no ReLU follows: what is asked and told is of the input's scale."""
        for conv in (self.query, self.key, self.value, self.output):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # (N, channels/8, HW)
        key = F.max_pool2d(self.key(x), 2, ceil_mode=True).flatten(2)  # (N, channels/8, HW/4)
        value = F.max_pool2d(self.value(x), 2, ceil_mode=True).flatten(2)  # (N, channels/2, HW/4)
        # By hand: torch's scaled_dot_product_attention cannot be differentiated twice, as penalties are.
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=2)  # (N, HW, HW/4)
        seen = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])  # (N, channels/2, H, W)
        return x + self.gamma * self.output(seen)


class MinibatchStd(nn.Module):
    """`(N, channels, H, W)` and one channel more, which tells how much the images of a group differ.

    Karras et al. 2018, PGGAN (arXiv:1710.10196): the standard deviation of each value over a group of images, averaged
    over all values. A discriminator that sees it tells a batch of look-alikes from a batch of data.

    A group is 4 images in a row, of those that are judged together; what is left over at the end is measured among the
    last 4. A batch is divided among passes (`model.accumulate`) and processes in a row too: groups, logits and
    gradients are the same however it is divided, as long as `data.batch_size`, the images of one pass on one process,
    is a multiple of 4. Of fewer than 4 images all are one group; a single one differs by 0.
    """

    mixes_batch = True  # see `gan.penalties`
    group = 4

    def forward(self, x: Tensor) -> Tensor:
        size = min(self.group, len(x))
        left = len(x) % size
        whole = len(x) - left
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        groups = wide[:whole].unflatten(0, (-1, size))  # (groups, 4, channels, H, W)
        if left:
            groups = torch.cat([groups, wide[None, -size:]])
        stds = (groups.var(1, correction=0) + 1e-8).sqrt().flatten(1).mean(1)  # (groups,)
        of_each = stds.repeat_interleave(size)
        if left:
            of_each = torch.cat([of_each[:whole], of_each[-left:]])  # (N,)
        return torch.cat([x, of_each.to(x.dtype)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)
