"""FID, the Frechet distance between Gaussians of features, and its extrapolation to infinitely many images.

Heusel et al. 2017, arXiv:1706.08500 (FID); Chong & Forsyth 2020, arXiv:1911.07023 (FID infinity).
"""

from typing import Any

import torch
from torch import Tensor

from gan.errors import GANError
from gan.metrics.base import RealAndFakeMetric
from gan.metrics.checks import check_same_width, checked

PER_DIMENSION = 4  # images for each dimension that the line of `fid_infinity` needs


class FID(RealAndFakeMetric):
    """The Frechet distance between real and generated features: torchmetrics' FrechetInceptionDistance of features.

    Its states are float64 sums of features and of their outer products: memory and exchange do not grow with the
    number of images. Sums lose accuracy only where a mean is far larger than its standard deviation: at a ratio r,
    the covariance is right to 1e-12 * r^2 of itself.

    Features that are NaN or infinite are not refused by `update` but make every sum that they enter not finite, and
    `compute` raises. So after the sums are exchanged, all processes find the same thing, and none is left waiting
    for another that raised alone.

    Args:
        dim: Values of a feature vector, D.
        reset_real_features: Whether `reset` forgets the real features too.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If `dim` is below 1.
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(self, dim: int, reset_real_features: bool = True, **kwargs: Any) -> None:
        super().__init__(dim, reset_real_features, **kwargs)
        for images in ("real", "fake"):
            self.add_state(f"{images}_num", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state(f"{images}_sum", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{images}_outer", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, real: bool) -> None:
        """Adds feature vectors.

        Args:
            features: (N, dim) of any floating type; N may be 0.
            real: Whether they are of real images.

        Raises:
            ValueError: If they have another shape.
        """
        self.check(features)
        images = "real" if real else "fake"
        features = features.detach().to(self.home).double()
        # Not in place: a state that was reset in inference mode could not be written to outside of it.
        setattr(self, f"{images}_num", getattr(self, f"{images}_num") + len(features))
        setattr(self, f"{images}_sum", getattr(self, f"{images}_sum") + features.sum(0))
        setattr(self, f"{images}_outer", torch.addmm(getattr(self, f"{images}_outer"), features.T, features))

    def compute(self) -> Tensor:
        """The distance, float64 (), at least 0.

        Raises:
            ValueError: If there are fewer than 2 feature vectors of a kind, or one was NaN or infinite.
        """
        return self.score(frechet_distance(*self.moments(real=True), *self.moments(real=False)))

    def moments(self, real: bool) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of the features of this process, float64.

        The covariance is unbiased: divided by the number of vectors less 1.

        Raises:
            ValueError: If there are fewer than 2 feature vectors, or one was NaN or infinite.
        """
        images = "real" if real else "fake"
        num, total, outer = (getattr(self, f"{images}_{name}") for name in ("num", "sum", "outer"))
        if num < 2:
            raise GANError(f"a covariance needs at least 2 {images} feature vectors, got {int(num)}: use more images")
        if not outer.isfinite().all():
            raise GANError(
                f"a covariance needs finite features, but some of {int(num)} {images} vectors were NaN or infinite"
            )
        mean = total / num
        covariance = (outer - num * mean.outer(mean)) / (num - 1)
        return mean, (covariance + covariance.T) / 2  # the product of a matrix with itself may be off by a bit


def mean_and_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of feature vectors (N, D) at hand, in float64; see `FID.moments`.

    Raises:
        ValueError: If there are fewer than 2, or they have another rank or are not finite.
    """
    features = checked(features, "features", at_least=2)
    sums = FID(features.shape[1]).to(features.device)
    sums.update(features, real=True)
    return sums.moments(real=True)


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the squared Wasserstein-2 distance of two Gaussians.

    The trace of the root is the nuclear norm of C1^(1/2) C2^(1/2): real by construction, and as exact where
    the covariances lack rank (fewer images than dimensions, dead dimensions, constant images) as elsewhere.

    Estimated covariances should be float64: the root of a rounding error is not small. For that reason, a
    variance in some direction below 1e-11 of |mean|^2 counts as none: it would be round-off of the estimate.

    Args:
        mean1: (D,).
        covariance1: (D, D), symmetric and positive semi-definite.
        mean2: (D,).
        covariance2: (D, D), likewise.

    Returns:
        At least 0. Of equal Gaussians, it is 0 to about 1e-14 of the traces.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or a matrix is not a covariance.
    """
    return _distance(_Gaussian(mean1, covariance1, "1"), _Gaussian(mean2, covariance2, "2"))


def fid_infinity(features: Tensor, mean: Tensor, covariance: Tensor, points: int = 15, seed: int = 0) -> float:
    """The Frechet distance that infinitely many generated images would have (Chong & Forsyth 2020).

    The distance of N images is too large by about c / N, where c depends on the generator, so that two
    generators may not even be ranked by it. Here it is taken of `points` random subsets, of N/10 to all N
    images, and fitted by a line over 1 / size: the intercept is the estimate. Only the bias of the
    generated side is removed, so `mean` and `covariance` should be of many images.

    The bias is no line where a subset has hardly more images than dimensions, and the intercept then falls
    below 0 by more than the distance itself. So no subset has fewer than 3 D images.

    Args:
        features: (N, D) of generated images.
        mean: (D,) of real images.
        covariance: (D, D) of real images.
        points: Number of subsets, at least 2.
        seed: Of the choice of subsets, which uses a generator of its own.

    Returns:
        The intercept, which noise can bring below 0 if the distance is about 0.

    Raises:
        ValueError: If there are fewer than 4 D or 20 images, or 2 points, or as `frechet_distance`.
    """
    if not points >= 2:
        raise GANError(f"points must be at least 2 to fit a line, got {points}")
    real = _Gaussian(mean, covariance, "")
    dim = len(real.mean)
    features = checked(features, "features", at_least=max(20, PER_DIMENSION * dim))
    check_same_width(features, real.root, "features and covariance")
    smallest = max(len(features) / 10, 3 * dim)
    sizes = torch.linspace(smallest, len(features), points, dtype=torch.float64).round().long().tolist()
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for size in sizes:
        chosen = torch.randperm(len(features), generator=generator)[:size].to(features.device)
        distances.append(_distance(_Gaussian(*mean_and_covariance(features[chosen]), "of a subset"), real))
    inverse = 1 / torch.tensor(sizes, dtype=torch.float64)
    line = torch.stack([torch.ones_like(inverse), inverse], 1)
    return torch.linalg.lstsq(line, torch.tensor(distances, dtype=torch.float64)[:, None]).solution[0].item()


class _Gaussian:
    """A mean, the trace of a covariance, and R with covariance = R R^T; the error calls it `which`."""

    def __init__(self, mean: Tensor, covariance: Tensor, which: str) -> None:
        name = f"covariance{which}"
        covariance = checked(covariance, name)
        if covariance.shape[0] != covariance.shape[1] or mean.shape != covariance.shape[:1]:
            raise GANError(
                f"mean{which} and {name} must have the shapes (D,) and (D, D), "
                f"got {tuple(mean.shape)} and {tuple(covariance.shape)}"
            )
        self.mean = checked(mean[None], f"mean{which}")[0]
        if (covariance - covariance.T).abs().max() > 1e-5 * covariance.abs().max():
            raise GANError(f"{name} must be symmetric")
        values, vectors = torch.linalg.eigh(covariance)
        # Without full rank, the zero eigenvalues come out as round-off of either sign: that of the matrix, and
        # that of the mean's product which an estimate subtracts. Their roots, above 1e-8, would add up.
        noise = 1e-13 * values[-1].abs() + 1e-11 * self.mean.square().sum()
        if values[0] < -1e-5 * values.abs().max() - noise:
            raise GANError(f"{name} must be positive semi-definite, but has the eigenvalue {values[0].item():.3g}")
        values = torch.where(values > noise, values, 0)
        self.root, self.trace = vectors * values.sqrt(), values.sum()


def _distance(first: _Gaussian, second: _Gaussian) -> float:
    if first.mean.shape != second.mean.shape:
        raise GANError(f"the means must have one length, got {len(first.mean)} and {len(second.mean)}")
    overlap = torch.linalg.svdvals(first.root.T @ second.root).sum()
    distance = (first.mean - second.mean).square().sum() + first.trace + second.trace - 2 * overlap
    return max(distance.item(), 0.0)  # what is below 0 is the round-off of nearly equal Gaussians
