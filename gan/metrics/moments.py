"""Mean and covariance of features that come in batches, on one process or many."""

import torch
from torch import Tensor


class Moments:
    """Float64 sums of features and of their outer products.

    Memory and exchange do not grow with the number of images: D^2 + D + 1 numbers. Sums lose accuracy only
    where a mean is far larger than its standard deviation: at a ratio r, the covariance is right to 1e-12 * r^2
    of itself.

    Features that are NaN or infinite are not refused by `update` but make every sum that they enter not
    finite, and `mean` and `covariance` raise. So after the sums are exchanged, all processes find the same
    thing, and none is left waiting for another that raised alone.

    To add up over processes, sum each of `tensors()` in place:

        for tensor in moments.tensors():
            torch.distributed.all_reduce(tensor)

    Args:
        dim: Values per feature vector, D.
        device: Where the sums are. Features are moved there. It must support float64.

    Raises:
        ValueError: If `dim` is below 1.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self._count = torch.zeros((), dtype=torch.float64, device=device)
        self._sum = torch.zeros(dim, dtype=torch.float64, device=device)
        self._outer = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def update(self, features: Tensor) -> None:
        """Add feature vectors (N, D) of any floating type; N may be 0.

        Raises:
            ValueError: If they have another shape.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features must have the shape (N, {self.dim}), got {tuple(features.shape)}")
        features = features.detach().to(self._sum.device).double()
        self._count += len(features)
        self._sum += features.sum(0)
        self._outer.addmm_(features.T, features)

    def tensors(self) -> list[Tensor]:
        """The float64 tensors that processes add up in place: count (), sum (D,), sum of products (D, D)."""
        return [self._count, self._sum, self._outer]

    @property
    def num(self) -> int:
        """Feature vectors so far."""
        return int(self._count)

    @property
    def is_finite(self) -> bool:
        """Whether all features so far were finite, and small enough that the sums are."""
        return bool(self._outer.isfinite().all())

    @property
    def mean(self) -> Tensor:
        """Float64 (D,).

        Raises:
            ValueError: Without features, or if one was NaN or infinite.
        """
        self._check(1, "a mean")
        return self._sum / self._count

    @property
    def covariance(self) -> Tensor:
        """Float64 (D, D), unbiased: divided by the number of vectors less 1.

        Raises:
            ValueError: With fewer than 2 feature vectors, or if one was NaN or infinite.
        """
        self._check(2, "a covariance")
        mean = self._sum / self._count
        covariance = (self._outer - self._count * mean.outer(mean)) / (self._count - 1)
        return (covariance + covariance.T) / 2  # the product of a matrix with itself may be off by a bit

    def _check(self, at_least: int, what: str) -> None:
        if self.num < at_least:
            raise ValueError(f"{what} needs at least {at_least} feature vectors, got {self.num}: use more images")
        if not self.is_finite:
            raise ValueError(f"{what} needs finite features, but some of {self.num} vectors were NaN or infinite")
