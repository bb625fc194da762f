"""The kernel distance, KID (Binkowski et al. 2018, arXiv:1801.01401)."""

from typing import Any

import torch
from torch import Tensor

from gan.errors import GANError
from gan.metrics.base import FeaturesMetric
from gan.metrics.checks import check_same_width, checked
from gan.metrics.threads import in_threads

BLOCK = 2**17  # kernel values in memory at a time; more is slower on a CPU, out of its caches


class KID(FeaturesMetric):
    """The kernel distance between real and generated features: torchmetrics' KernelInceptionDistance of features.

    Args:
        dim: Values of a feature vector, D.
        subsets: Number of subsets.
        subset_size: Images of each set in a subset, at most; see `kernel_distance`.
        seed: Of the choice of subsets.
        reset_real_features: Whether `reset` forgets the real features too.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = False

    def __init__(
        self,
        dim: int,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
        reset_real_features: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, reset_real_features, **kwargs)
        _check(subsets, subset_size)
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and population standard deviation over the subsets, float64 () each.

        Raises:
            ValueError: If there are fewer than 4 images of a kind, or values are not finite.
        """
        real, fake = self.rows("real_features"), self.rows("fake_features")
        mean, std = kernel_distance(real, fake, self.subsets, self.subset_size, self.seed)
        return self.score(mean), self.score(std)


def kernel_distance(
    features1: Tensor, features2: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / D + 1)^3, over subsets of images.

    Its expectation does not depend on the number of images, unlike the Frechet distance's: it can be compared
    between sets of any size, and tells more where there are few images.

    A subset is drawn without replacement, and consecutive ones share no image as long as the images last, so
    that N / `subset_size` subsets use each image once. Their mean is as good as the estimate from all pairs
    of images, unless the distance is about 0; with ten times as many subsets, it is everywhere.

    A subset holds at most half of the smaller set. More would make the subsets nearly the same images, whose
    spread is about 0 whatever the error is; and being unbiased, the mean does not change with the size.

    Args:
        features1: (N, D).
        features2: (M, D).
        subsets: Number of subsets.
        subset_size: Images of each set in a subset, at most.
        seed: Of the choice of subsets, which uses a generator of its own.

    Returns:
        Mean and population standard deviation over the subsets. The mean of equal distributions is about 0
        and often below. The standard error of the mean is about the deviation over the root of
        N / `subset_size`, or less; the root of `subsets` promises too much, since subsets share images.

    Raises:
        ValueError: If there are fewer than 4 images of a kind, fewer than 1 subset or a `subset_size` below 2,
            shapes do not fit, or values are not finite.
    """
    _check(subsets, subset_size)
    features1, features2 = checked(features1, "features1", at_least=4), checked(features2, "features2", at_least=4)
    check_same_width(features1, features2, "features1 and features2")
    size = min(subset_size, len(features1) // 2, len(features2) // 2)
    generator = torch.Generator().manual_seed(seed)
    draws = zip(*(_subsets(len(each), size, subsets, generator) for each in (features1, features2)), strict=True)
    distances = in_threads(lambda rows: squared_mmd(features1[rows[0]], features2[rows[1]]), draws, features1.device)
    distances = torch.stack(distances)
    return distances.mean().item(), distances.std(correction=0).item()


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of (n, D) and (m, D), n and m >= 2, in their own type: ()."""
    x, y = (torch.cat([each / x.shape[1] ** 0.5, torch.ones_like(each[:, :1])], 1) for each in (x, y))
    within = [_cubes_within(each) / (len(each) * (len(each) - 1)) for each in (x, y)]
    return sum(within) - 2 * _cubes(x, y) / (len(x) * len(y))


def _cubes(x: Tensor, y: Tensor) -> Tensor:
    """Sum of (x_i . y_j)^3 over all pairs: ()."""
    total = x.new_zeros(())
    rows = max(1, BLOCK // len(y))
    products, squares = x.new_empty(rows * len(y)), x.new_empty(rows * len(y))
    for block in x.split(rows):
        num = len(block) * len(y)
        torch.mm(block, y.T, out=products[:num].view(len(block), len(y)))
        torch.mul(products[:num], products[:num], out=squares[:num])
        total += torch.dot(squares[:num], products[:num])
    return total


def _cubes_within(x: Tensor) -> Tensor:
    """Sum of (x_i . x_j)^3 over all ordered pairs of two: (). Products are symmetric, so one of each pair is made."""
    total = x.new_zeros(())
    rows = max(1, min(BLOCK // len(x), len(x) // 8))
    for start in range(0, len(x), rows):
        block, rest = x[start : start + rows], x[start + rows :]
        total += _cubes(block, block) - block.square().sum(1).pow(3).sum()
        if len(rest) > 0:
            total += 2 * _cubes(block, rest)
    return total


def _subsets(num: int, size: int, subsets: int, generator: torch.Generator) -> list[Tensor]:
    """Indices below `num` of each subset, from one random order of all after another."""
    chosen: list[Tensor] = []
    while len(chosen) < subsets:
        order = torch.randperm(num, generator=generator)
        chosen.extend(order[start : start + size] for start in range(0, num - size + 1, size))
    return chosen[:subsets]


def _check(subsets: int, subset_size: int) -> None:
    if not subsets >= 1:
        raise GANError(f"subsets must be at least 1, got {subsets}")
    if not subset_size >= 2:
        raise GANError(f"subset_size must be at least 2 images, got {subset_size}")
