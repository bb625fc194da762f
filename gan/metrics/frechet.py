"""The Frechet distance between Gaussians, and its extrapolation to infinitely many images.

Heusel et al. 2017, arXiv:1706.08500 (FID); Chong & Forsyth 2020, arXiv:1911.07023 (FID infinity).
"""

import torch
from torch import Tensor

from gan.metrics.inputs import check_same_width, checked
from gan.metrics.moments import Moments


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the squared Wasserstein-2 distance of two Gaussians.

    The trace of the root is the nuclear norm of C1^(1/2) C2^(1/2): real by construction, and as exact where
    the covariances lack rank (fewer images than dimensions, dead dimensions, constant images) as elsewhere.

    Estimated covariances should be float64: the root of a rounding error is not small.

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

    The line is a good fit while the smallest subset has several times more images than dimensions. Below
    that a value is returned all the same, still too large.

    Args:
        features: (N, D) of generated images.
        mean: (D,) of real images.
        covariance: (D, D) of real images.
        points: Number of subsets, at least 2.
        seed: Of the choice of subsets, which uses a generator of its own.

    Returns:
        The intercept, which noise can bring below 0 if the distance is about 0.

    Raises:
        ValueError: If there are fewer than 20 images or 2 points, or as `frechet_distance`.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2 to fit a line, got {points}")
    features = checked(features, "features", at_least=20)
    real = _Gaussian(mean, covariance, "")
    check_same_width(features, real.root, "features and covariance")
    sizes = torch.linspace(len(features) / 10, len(features), points, dtype=torch.float64).round().long().tolist()
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for size in sizes:
        chosen = torch.randperm(len(features), generator=generator)[:size].to(features.device)
        moments = Moments(features.shape[1], features.device)
        moments.update(features[chosen])
        distances.append(_distance(_Gaussian(moments.mean, moments.covariance, "of a subset"), real))
    inverse = 1 / torch.tensor(sizes, dtype=torch.float64)
    line = torch.stack([torch.ones_like(inverse), inverse], 1)
    return torch.linalg.lstsq(line, torch.tensor(distances, dtype=torch.float64)[:, None]).solution[0].item()


class _Gaussian:
    """A mean, the trace of a covariance, and R with covariance = R R^T; the error calls it `which`."""

    def __init__(self, mean: Tensor, covariance: Tensor, which: str) -> None:
        name = f"covariance{which}"
        covariance = checked(covariance, name)
        if covariance.shape[0] != covariance.shape[1] or mean.shape != covariance.shape[:1]:
            raise ValueError(
                f"mean{which} and {name} must have the shapes (D,) and (D, D), "
                f"got {tuple(mean.shape)} and {tuple(covariance.shape)}"
            )
        self.mean = checked(mean[None], f"mean{which}")[0]
        self.trace = covariance.trace()
        scale = covariance.abs().max()
        if (covariance - covariance.T).abs().max() > 1e-5 * scale:
            raise ValueError(f"{name} must be symmetric")
        values, vectors = torch.linalg.eigh(covariance)
        if values[0] < -1e-5 * scale:
            raise ValueError(f"{name} must be positive semi-definite, but has the eigenvalue {values[0].item():.3g}")
        # The zero eigenvalues of a covariance without full rank come out as round-off of either sign. Their
        # roots, 1e-8 of the largest one, would add up over the dimensions.
        noise = len(values) * torch.finfo(torch.float64).eps * values[-1]
        values = torch.where(values > noise, values, 0)
        self.root = vectors * values.sqrt()


def _distance(one: _Gaussian, two: _Gaussian) -> float:
    if one.mean.shape != two.mean.shape:
        raise ValueError(f"the means must have one length, got {len(one.mean)} and {len(two.mean)}")
    overlap = torch.linalg.svdvals(one.root.T @ two.root).sum()
    distance = (one.mean - two.mean).square().sum() + one.trace + two.trace - 2 * overlap
    return max(distance.item(), 0.0)  # what is below 0 is the round-off of nearly equal Gaussians
