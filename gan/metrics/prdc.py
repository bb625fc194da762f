"""What nearest neighbours tell: fidelity and diversity apart, and copies of training images.

All works in blocks of rows: memory does not grow with the product of the numbers of images.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gan.errors import GANError
from gan.metrics.base import FeaturesMetric
from gan.metrics.checks import check_same_width, checked
from gan.metrics.threads import in_threads

BLOCK = 2**20  # distances in memory at a time, of each thread; more is slower on a CPU, out of its caches
TILE = 256, 1024  # rows and columns of a block that is gone through several times, and so has to fit a core's own cache
ROUND_OFF = 1e-12  # of squared norms: far more than float64 products err, far less than distances that differ


class PRDC(FeaturesMetric):
    """Improved precision and recall, density and coverage of real and generated features; see `neighbour_scores`.

    Args:
        dim: Values of a feature vector, D.
        manifold_k: Which neighbour sets the radius for precision and recall.
        density_k: Which neighbour sets the radius for density and coverage.
        reset_real_features: Whether `reset` forgets the real features too.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = True

    def __init__(
        self, dim: int, manifold_k: int = 3, density_k: int = 5, reset_real_features: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(dim, reset_real_features, **kwargs)
        _check(manifold_k, density_k)
        self.manifold_k, self.density_k = manifold_k, density_k

    def compute(self) -> dict[str, Tensor]:
        """`precision`, `recall`, `density` and `coverage`, float64 () each.

        Raises:
            ValueError: If a set does not have more images than k, or values are not finite.
        """
        real, fake = self.rows("real_features"), self.rows("fake_features")
        scores = neighbour_scores(real, fake, self.manifold_k, self.density_k)
        return {name: self.score(value) for name, value in scores._asdict().items()}


class NeighbourScores(NamedTuple):
    """See `neighbour_scores`."""

    precision: float
    """Share of generated images that are within the real ones, 0 to 1: fidelity."""
    recall: float
    """Share of real images that are within the generated ones, 0 to 1: diversity."""
    density: float
    """Real neighbourhoods around a generated image, over their expected number; about 1 at best, no bound."""
    coverage: float
    """Share of real images with a generated one in their neighbourhood, 0 to 1: diversity."""


def neighbour_scores(real: Tensor, fake: Tensor, manifold_k: int = 3, density_k: int = 5) -> NeighbourScores:
    """Improved precision and recall, density and coverage, from one computation of the distances.

    The neighbourhood of an image is the open ball around it that reaches to the k-th nearest other image of
    its own set. Precision is the share of generated images in the neighbourhood of any real one, recall the
    same with the sets exchanged (Kynkaanniemi et al. 2019, arXiv:1904.06991). Density counts the real
    neighbourhoods that each generated image is in, divided by k; coverage is the share of real neighbourhoods
    with a generated image in them (Naeem et al. 2020, arXiv:2002.09797).

    All depend on the numbers of images and on k. Of 10,000 and 10,000 images of one distribution with k = 5,
    density is about 1 and coverage .97, but precision and recall well below 1.

    The balls are open, so one of radius 0 holds nothing. Images that have k duplicates in their own set have
    such balls: a generator that always draws the same image has recall 0, and two constant sets score 0
    throughout, be they equal or not.

    Args:
        real: (N, D) features.
        fake: (M, D) features.
        manifold_k: Which neighbour sets the radius for precision and recall.
        density_k: Which neighbour sets the radius for density and coverage.

    Raises:
        ValueError: If a set does not have more images than k, k is below 1, shapes do not fit, or values are
            not finite.
    """
    _check(manifold_k, density_k)
    real = checked(real, "real", at_least=max(manifold_k, density_k) + 1)
    fake = checked(fake, "fake", at_least=manifold_k + 1)
    check_same_width(real, fake, "real and fake")
    centre = real.mean(0)  # small norms make small round-off
    real, fake = real - centre, fake - centre

    real_radii, wide_radii = _squared_radii(real, (manifold_k, density_k))
    (fake_radii,) = _squared_radii(fake, (manifold_k,))

    def within(rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Generated images in any ball of these real ones (M,), these in any ball of those, and how many in each."""
        part, radii, wide = real[rows], real_radii[rows, None], wide_radii[rows, None]
        precise = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
        recalled = torch.zeros(len(part), dtype=torch.bool, device=fake.device)
        inside = torch.zeros(len(part), dtype=torch.int64, device=fake.device)
        # A copy of a real image has the same distances as that one, and so lies exactly on balls. It is not
        # inside, and round-off must not decide: hence a little is added to these distances.
        for block, columns, squared in _blocks(part, fake, 1 + ROUND_OFF, TILE):
            # The least of the differences is found far sooner than whether any comparison is true.
            precise[columns] |= (squared - radii[block]).amin(0) < 0
            recalled[block] |= (squared - fake_radii[columns]).amin(1) < 0
            inside[block] += (squared < wide[block]).count_nonzero(1)
        return precise, recalled, inside

    parts = list(zip(*in_threads(within, _shares(len(real)), real.device), strict=True))
    precise, recalled, inside = torch.stack(parts[0]).any(0), torch.cat(parts[1]), torch.cat(parts[2])
    return NeighbourScores(
        precision=precise.double().mean().item(),
        recall=recalled.double().mean().item(),
        density=inside.sum().item() / (density_k * len(fake)),
        coverage=(inside > 0).double().mean().item(),
    )


def nearest(query: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest row of `base` for each row of `query`, by Euclidean distance.

    A block of `base` at a time is converted to float64, so it may be large.

    Args:
        query: (Q, D).
        base: (N, D), on the same device.

    Returns:
        Distances (Q,), float64 and exactly 0 for a copy; and indices (Q,), int64.

    Raises:
        ValueError: If a set is empty, shapes do not fit, or values are not finite.
    """
    query = checked(query, "query")
    check_same_width(query, base, "query and base")
    if len(base) == 0:
        raise GANError("base: at least 1 row is needed, got 0: use more images")
    best = torch.full((len(query),), torch.inf, dtype=torch.float64, device=query.device)
    index = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    rows = max(1, BLOCK // max(query.shape))
    for start in range(0, len(base), rows):
        part = checked(base[start : start + rows], "base")
        near = torch.cat([block.argmin(1) for *_, block in _blocks(query, part)])
        distance = (query - part[near]).square().sum(1).sqrt()  # the product's error would hide a copy
        closer = distance < best
        best = torch.where(closer, distance, best)
        index = torch.where(closer, near + start, index)
    return best, index


def _squared_radii(features: Tensor, ks: tuple[int, ...]) -> list[Tensor]:
    """For each k, the squared distance (N,) of each row to its k-th nearest other row."""
    most = max(ks) + 1  # a row is nearest to itself, or as near as its duplicates
    smallest = features.new_empty(len(features), most)

    def fill(rows: slice) -> None:
        for block, _, squared in _blocks(features[rows], features):
            smallest[rows][block] = squared.topk(most, largest=False).values

    in_threads(fill, _shares(len(features)), features.device)
    return list(smallest[:, list(ks)].unbind(1))


def _shares(num: int) -> list[slice]:
    """Rows below `num` in parts, a few for each thread, so that none ends long after the others."""
    size = max(TILE[0], -(-num // (4 * torch.get_num_threads())))
    return [slice(start, start + size) for start in range(0, num, size)]


def _blocks(
    x: Tensor, y: Tensor, weight: float = 1.0, tile: tuple[int, int] | None = None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances between rows of x (N, D) and of y (M, D): which rows, and their block.

    One product gives |x|^2 + |y|^2 - 2 x.y, and no further pass over the block: norms are columns. The next block is
    written over the one before.

    Args:
        x: (N, D).
        y: (M, D).
        weight: Of the norms.
        tile: Rows and columns of a block; by default it has all of y, and as many rows as `BLOCK` allows.
    """
    left = torch.cat([x, weight * x.square().sum(1, keepdim=True), torch.ones_like(x[:, :1])], 1)
    right = torch.cat([-2 * y, torch.ones_like(y[:, :1]), weight * y.square().sum(1, keepdim=True)], 1)
    height, width = tile or (max(1, BLOCK // len(y)), len(y))
    memory = x.new_empty(min(height, len(x)) * min(width, len(y)))  # new blocks would fragment it
    for top in range(0, len(x), height):
        for first in range(0, len(y), width):
            rows, columns = slice(top, top + height), slice(first, first + width)
            shape = len(left[rows]), len(right[columns])
            block = memory[: shape[0] * shape[1]].view(shape)
            yield rows, columns, torch.mm(left[rows], right[columns].T, out=block)


def _check(manifold_k: int, density_k: int) -> None:
    if not (manifold_k >= 1 and density_k >= 1):
        raise GANError(f"manifold_k and density_k must be at least 1, got {manifold_k} and {density_k}")
