"""The Inception network of published FID scores, from a weights file of the user's.

A poor judge of digits and slow, about 5 images a second and CPU core, but the only way to a number that compares with a
paper's. Everything of the protocol that changes the score is here: the grey levels, the resize, the network.
"""

import hashlib
import textwrap
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from gan.errors import GANError
from gan.metrics.checks import read_weights
from gan.paths import local_path

SIZE = 299  # pixels a side of what the network takes
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FILE = (
    "It must be pt_inception-2015-12-05-6726825d.pth (96 MB), from the releases of mseitzer/pytorch-fid, or the same "
    "file by torch-fidelity's name, weights-inception-2015-12-05-6726825d.pth. It is the Inception network that FID is "
    "defined by, TensorFlow's of 5 December 2015, for PyTorch; 6726825d begins its SHA-256. Nothing here downloads "
    "or replaces it"
)


class Inception(Inception3):
    """Pool features of the Inception v3 that FID is defined by (Heusel et al. 2017, arXiv:1706.08500).

    The protocol is that of Lucic et al. 2018 (arXiv:1711.10337): grey images become three equal channels, each value
    one of 256 levels, and TensorFlow 1's bilinear resize makes 299 x 299 of them. With 10,000 generated images against
    the 10,000 of the test set, scores compare with that paper's.

    It is frozen and stays in evaluation mode: `train` does nothing. Its state dict has the keys of the file.

    Args:
        weights: Path of the file pt_inception-2015-12-05-6726825d.pth, from the releases of mseitzer/pytorch-fid.

    Raises:
        ValueError: If there is no such file, or it is damaged, holds another network or anything but plain tensors.
    """

    def __init__(self, weights: str) -> None:
        path = local_path(weights, "weights")
        state = read_weights(path, "the weights of Inception", FILE)
        with torch.device("meta"):  # no weights but the file's, and no random number drawn from the run's
            blocks = [BasicConv2d, _InceptionA, InceptionB, _InceptionC, InceptionD, _InceptionE, InceptionAux]
            super().__init__(num_classes=1008, aux_logits=False, init_weights=False, inception_blocks=blocks)
            self.Mixed_7c = _InceptionE(2048, pool=_maximum)
        try:
            self.load_state_dict(state, assign=True)
        except Exception as error:  # no dictionary, other keys, other shapes, no tensors
            reason = textwrap.shorten(str(error), 300)
            raise GANError(f"{weights} holds something else than Inception's weights. {FILE}. {reason}") from error
        _warn_of_others(path)
        self.float().to(memory_format=torch.channels_last).requires_grad_(False)  # 1.4 times as fast on a CPU
        super().train(False)

    def train(self, mode: bool = True) -> "Inception":
        """Does nothing: batch norm over generated images would score them by statistics of their own."""
        return self

    def forward(self, images: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] # features alone
        """The features that FID compares.

        Args:
            images: float32 (N, C, H, W) in [-1, 1], C = 1 or 3, of any size; values beyond are clamped.

        Returns:
            float32 (N, 2048), >= 0.

        Raises:
            ValueError: If `images` are not of that shape, or integers.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
            raise GANError(
                "Inception takes float images (N, C, H, W) in [-1, 1] with C = 1 or 3, "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        with torch.autocast(images.device.type, enabled=False):  # in bfloat16 it is another metric
            levels = images.float().add(1).mul(127.5).round().clamp(0, 255)  # rounded: a cast would darken 63 levels
            x = (_resize(levels) - 128) / 128  # (N, C, 299, 299)
            x = x.expand(-1, 3, -1, -1)  # (N, 3, 299, 299)
            x = self.Conv2d_1a_3x3(x)  # (N, 32, 149, 149)
            x = self.Conv2d_2a_3x3(x)  # (N, 32, 147, 147)
            x = self.maxpool1(self.Conv2d_2b_3x3(x))  # (N, 64, 73, 73)
            x = self.Conv2d_3b_1x1(x)  # (N, 80, 73, 73)
            x = self.maxpool2(self.Conv2d_4a_3x3(x))  # (N, 192, 35, 35)
            x = self.Mixed_5b(x)  # (N, 256, 35, 35)
            x = self.Mixed_5d(self.Mixed_5c(x))  # (N, 288, 35, 35)
            x = self.Mixed_6a(x)  # (N, 768, 17, 17)
            x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))  # (N, 768, 17, 17)
            x = self.Mixed_7a(x)  # (N, 1280, 8, 8)
            x = self.Mixed_7c(self.Mixed_7b(x))  # (N, 2048, 8, 8)
            return x.mean((2, 3))  # (N, 2048)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, 1008) of features (N, 2048), without the bias: the code of the Inception score leaves it out too.

        See Salimans et al. 2016, arXiv:1606.03498, and openai/improved-gan.
        """
        return F.linear(features, self.fc.weight)


# ---------------------------------------------------------------------- what differs from torchvision's network

# TensorFlow's average leaves the padding out. The maximum in the last block is taken for an error in the network of
# 2015, which every FID has shared since.
_average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)


class _InceptionA(InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(_average(x)),
        ]


class _InceptionC(InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        wide = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(wide)),
            self.branch_pool(_average(x)),
        ]


class _InceptionE(InceptionE):
    def __init__(self, in_channels: int, pool: Callable[[Tensor], Tensor] = _average, **options: Any) -> None:
        super().__init__(in_channels, **options)
        self.pool = pool

    def _forward(self, x: Tensor) -> list[Tensor]:
        narrow, wide = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            self.branch3x3_2a(narrow),
            self.branch3x3_2b(narrow),
            self.branch3x3dbl_3a(wide),
            self.branch3x3dbl_3b(wide),
            self.branch_pool(self.pool(x)),
        ]


# ---------------------------------------------------------------------- input


def _warn_of_others(path: Path) -> None:
    """Weights of the right layout give a number, whatever they are."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != SHA256:
        warnings.warn(
            f"{path} has SHA-256 {sha256[:8]}..., and the weights that FID is defined by have {SHA256[:8]}...: if it "
            "holds others, the scores compare with no paper's",
            stacklevel=3,
        )


def _resize(images: Tensor) -> Tensor:
    """Bilinear from (N, C, H, W) to (N, C, 299, 299) as by TensorFlow 1: pixel i is at i * H / 299, without antialias.

    `F.interpolate` takes (i + 1/2) * H / 299 - 1/2, which moves 28 x 28 digits by 11 grey levels on average.
    """
    for dim in (3, 2):
        last = images.shape[dim] - 1
        at = torch.arange(SIZE, dtype=torch.float32, device=images.device) * (images.shape[dim] / SIZE)
        index = at.long()
        low, high = images.index_select(dim, index), images.index_select(dim, (index + 1).clamp(max=last))
        fraction = (at - index).view(-1, *(1,) * (3 - dim))  # along `dim`
        images = low + (high - low) * fraction
    return images
