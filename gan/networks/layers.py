"""What the convolutional networks share: the choice of a normalisation, and images that are halved twice."""

import math
from typing import Literal, get_args

from torch import nn
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


def quarter(image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """(H/4, W/4): the grid that images have after being halved twice.

    Raises:
        ValueError: If H or W is not a multiple of 4, or below 8.
    """
    _, height, width = image_shape
    if height % 4 or width % 4 or min(height, width) < 8:
        nearest = tuple(max(8, 4 * math.ceil(size / 4)) for size in (height, width))
        raise GANError(
            f"image_shape={tuple(image_shape)}: this network halves height and width twice, so both must be "
            f"multiples of 4 and at least 8. Resize or pad the images to {nearest[0]}x{nearest[1]}, or use "
            "MLPGenerator and MLPDiscriminator, which take any size."
        )
    return height // 4, width // 4
