"""Images made worse, by several ways and strengths: a score that is any good rises with each."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def noise(images: Tensor, labels: Tensor, size: int, strength: float, generator: torch.Generator) -> Tensor:
    """Images with normal noise."""
    images = images[:size]
    return (images + strength * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def blur(images: Tensor, labels: Tensor, size: int, strength: float, generator: torch.Generator) -> Tensor:
    """Images behind a Gaussian blur."""
    taps = torch.arange(-4, 5, dtype=torch.float32)
    taps = torch.softmax(-0.5 * (taps / strength).square(), dim=0)
    channels = images.shape[1]
    images = F.pad(images[:size], (4, 4, 4, 4), mode="replicate")
    images = F.conv2d(images, taps.view(1, 1, 9, 1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(images, taps.view(1, 1, 1, 9).repeat(channels, 1, 1, 1), groups=channels)


def contrast(images: Tensor, labels: Tensor, size: int, strength: float, generator: torch.Generator) -> Tensor:
    """Images that have lost contrast."""
    return (images[:size] + 1) * (1 - strength) - 1


def missing(images: Tensor, labels: Tensor, size: int, strength: float, generator: torch.Generator) -> Tensor:
    """Images of the classes that are left."""
    classes = int(labels.max()) + 1
    images = images[labels >= max(1, round(strength * classes))]
    return images[torch.arange(size) % len(images)]


def duplicates(images: Tensor, labels: Tensor, size: int, strength: float, generator: torch.Generator) -> Tensor:
    """A few images, each several times."""
    return images[torch.arange(size) % max(1, round(size / strength))]


def collapse(images: Tensor, labels: Tensor, size: int, strength: float, generator: torch.Generator) -> Tensor:
    """Images, some of which are all the same one."""
    images = images[:size].clone()
    collapsed = round(strength * size)
    images[:collapsed] = images[0]
    return (images + 0.01 * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


# what the card calls it; images (N, C, H, W), labels, how many to return, strength and generator to images; strengths
DAMAGES: list[tuple[str, Callable[..., Tensor], tuple[float, ...]]] = [
    ("normal noise, standard deviation (black is -1, white is 1)", noise, (0.05, 0.1, 0.2, 0.4)),
    ("Gaussian blur, standard deviation in pixels", blur, (0.5, 0.75, 1, 1.5)),
    ("contrast, share that is lost", contrast, (0.1, 0.3, 0.6)),
    ("classes missing, share", missing, (0.1, 0.3, 0.5)),
    ("each image repeated, times", duplicates, (2, 10, 100)),
    ("generator collapsed to one image, share of its images", collapse, (0.1, 0.4, 1)),
]
