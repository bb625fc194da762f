"""FID: sums against NumPy's moments; the Frechet distance against closed forms, SciPy's matrix root, torchmetrics."""

import numpy as np
import pytest
import torch
from torch import nn

from gan.metrics import FID, fid_infinity, frechet_distance, mean_and_covariance


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(dim, seed=0):
    return torch.linalg.qr(draw(dim, dim, seed=seed)).Q


def covariance(dim, rank=None, seed=0):
    root = draw(dim, rank or dim, seed=seed)
    return root @ root.T


def moments(values):
    return of(*values.split(250)).moments(real=True)


def of(*batches):
    fid = FID(batches[0].shape[1])
    for batch in batches:
        fid.update(batch, real=True)
    return fid


def scipy_distance(mean1, cov1, mean2, cov2):
    from scipy.linalg import sqrtm

    root = sqrtm((cov1 @ cov2).numpy())
    return float(((mean1 - mean2) ** 2).sum() + cov1.trace() + cov2.trace() - 2 * np.trace(root).real)


# -- sums --------------------------------------------------------------------------------------------------


def features(num=300, dim=7, seed=0):
    values, mix = (draw(rows, dim, seed=seed + rows) for rows in (num, dim))
    return values @ mix + 2


def assert_moments(fid, values, rtol=1e-12):
    values = values.double().numpy()
    mean, cov = fid.moments(real=True)
    np.testing.assert_allclose(mean, values.mean(0), rtol=rtol)
    expected = np.cov(values, rowvar=False)
    np.testing.assert_allclose(cov, expected, rtol=0, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_against_numpy_in_uneven_batches(dtype):
    values = features().to(dtype)
    fid = of(*values.split([1, 0, 128, 100, 71]))
    assert fid.real_num == 300
    assert_moments(fid, values)
    assert {part.dtype for part in fid.moments(real=True)} == {torch.float64}
    for part, whole in zip(mean_and_covariance(values), fid.moments(real=True), strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)


def test_a_large_mean_costs_no_accuracy_that_matters():
    values = features(num=5000) + torch.tensor([1e3, -1e3, 1e3, 0, 1, 1e2, 10])
    assert_moments(of(*values.split(64)), values, rtol=1e-8)


def test_moments_of_fewer_vectors_than_dimensions():
    values = features(num=3, dim=20)
    assert_moments(of(values), values)


def test_sums_add_up():
    values = features()
    whole, share = of(values), of(values[:10])
    for other in (of(values[10:]), FID(7)):
        share.merge_state(other)
    assert share.real_num == 300
    for part, expected in zip(share.moments(real=True), whole.moments(real=True), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-13, atol=1e-13)


def test_the_covariance_is_symmetric_bit_for_bit():
    _, cov = of(features(dim=33)).moments(real=True)
    assert torch.equal(cov, cov.T)


def test_gradients_are_not_kept():
    values = features().requires_grad_()
    assert not of(values).moments(real=True)[1].requires_grad
    assert not mean_and_covariance(values)[1].requires_grad


def test_too_few():
    fid = FID(2)
    with pytest.raises(ValueError, match="a covariance needs at least 2 real feature vectors, got 0"):
        fid.moments(real=True)
    fid.update(torch.ones(1, 2), real=True)
    with pytest.raises(ValueError, match="a covariance needs at least 2 real feature vectors, got 1"):
        fid.compute()
    fid.update(torch.ones(1, 2), real=True)
    assert fid.moments(real=True)[0].tolist() == [1, 1]
    with pytest.raises(ValueError, match="a covariance needs at least 2 fake feature vectors, got 0"):
        fid.compute()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_vector_is_found_after_the_exchange_by_all(bad):
    values = features()
    good, spoilt = of(values), of(values.clone())
    good.moments(real=True)
    row = values[:1].clone()
    row[0, 3] = bad
    spoilt.update(row, real=True)  # does not raise: the other processes would wait for this one
    good.merge_state(spoilt)
    assert good.real_num == 601
    with pytest.raises(ValueError, match="a covariance needs finite features, but some of 601 real"):
        good.moments(real=True)
    good.update(values, real=False)
    with pytest.raises(ValueError, match="a covariance needs finite features, but some of 601 real"):
        good.compute()


def test_features_of_a_wrong_shape():
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        FID(0)
    for wrong in (torch.zeros(3), torch.zeros(3, 5), torch.zeros(3, 4, 1)):
        with pytest.raises(ValueError, match=r"shape \(N, 4\), got"):
            FID(4).update(wrong, real=False)


# -- closed forms ------------------------------------------------------------------------------------------


def test_one_dimension():
    one, two = (torch.tensor([1.0]), torch.tensor([[4.0]])), (torch.tensor([-2.0]), torch.tensor([[9.0]]))
    assert frechet_distance(*one, *two) == pytest.approx(3**2 + (2 - 3) ** 2, rel=1e-12)


def test_commuting_covariances():
    axes = rotation(6)
    values1, values2 = torch.arange(1.0, 7).double(), torch.tensor([5, 0.1, 2, 2, 30, 1e-3]).double()
    mean = draw(6, seed=1)
    expected = mean.square().sum() + (values1.sqrt() - values2.sqrt()).square().sum()
    cov1, cov2 = axes @ values1.diag() @ axes.T, axes @ values2.diag() @ axes.T
    assert frechet_distance(mean, cov1, 0 * mean, cov2) == pytest.approx(expected.item(), rel=1e-10)


def test_two_dimensions_that_do_not_commute():
    # The root of a 2 x 2 matrix P has the trace sqrt(tr P + 2 sqrt(det P)).
    cov1, cov2 = torch.tensor([[2.0, 1], [1, 3]]).double(), torch.tensor([[5.0, -2], [-2, 1]]).double()
    product = cov1 @ cov2
    assert not torch.allclose(product, product.T)
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    zero = torch.zeros(2)
    expected = (cov1.trace() + cov2.trace() - 2 * root).item()
    assert frechet_distance(zero, cov1, zero, cov2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_linear_map_of_one_gaussian_into_another(rank):
    # From N(0, C) to N(0, A C A) with A symmetric and positive, x -> A x is optimal: E |x - A x|^2.
    cov1, a = covariance(8, rank), covariance(8, seed=1) + torch.eye(8, dtype=torch.float64)
    cov2 = a @ cov1 @ a
    away = torch.eye(8, dtype=torch.float64) - a
    expected = (away @ cov1 @ away).trace().item()
    zero = torch.zeros(8)
    assert frechet_distance(zero, cov1, zero, (cov2 + cov2.T) / 2) == pytest.approx(expected, rel=1e-6)


def test_orthogonal_supports():
    cov1, cov2 = torch.diag(torch.tensor([1.0, 2, 0, 0])), torch.diag(torch.tensor([0.0, 0, 3, 4]))
    assert frechet_distance(torch.zeros(4), cov1, torch.zeros(4), cov2) == pytest.approx(10, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 5, 40, 64])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_equal_gaussians_are_at_0_whatever_the_rank(rank, scale):
    cov = scale * covariance(64, rank)
    distance = frechet_distance(draw(64), cov, draw(64), cov)
    assert 0 <= distance <= 1e-12 * cov.trace()


# -- oracles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 10, 64])
def test_against_scipy(dim):
    arguments = draw(dim), covariance(dim, seed=1), draw(dim, seed=2), covariance(dim, 2 * dim, seed=3)
    ours = frechet_distance(*arguments)
    assert ours == pytest.approx(scipy_distance(*arguments), rel=1e-6)
    assert frechet_distance(*arguments[2:], *arguments[:2]) == pytest.approx(ours, rel=1e-12)


@pytest.mark.parametrize("num", [20, 500])  # fewer and more than the 48 dimensions
def test_against_torchmetrics(num):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Extractor(nn.Module):
        num_features = 48

        def forward(self, images):
            return images.flatten(1).double()

    reference = FrechetInceptionDistance(feature=Extractor(), normalize=True)
    real = torch.rand(num, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    fake = torch.rand(num + 7, 3, 4, 4, generator=torch.Generator().manual_seed(1)).square()
    reference.update(real, real=True)
    reference.update(fake, real=False)
    ours = FID(48)
    for images, is_real in ((real, True), (fake, False)):
        for batch in images.flatten(1).split(7):
            ours.update(batch, real=is_real)
    assert ours.compute().item() == pytest.approx(reference.compute().item(), rel=1e-6)
    by_moments = frechet_distance(*moments(real.flatten(1)), *moments(fake.flatten(1)))
    assert ours.compute().item() == pytest.approx(by_moments, rel=1e-9)


# -- what images can do ------------------------------------------------------------------------------------


def test_constant_images():
    mean, cov = moments(draw(500, 16) + 1)
    for value in (0.0, 0.1, 1e3):
        constant = moments(torch.full((50_000, 16), value))  # .1 has no exact sum, and round-off grows
        expected = ((mean - torch.tensor(value)) ** 2).sum() + cov.trace()
        assert frechet_distance(*constant, mean, cov) == pytest.approx(expected.item(), rel=1e-9)
        assert frechet_distance(*constant, *constant) == pytest.approx(0, abs=1e-9 * (1 + value**2))


def test_fewer_images_than_dimensions():
    # Of n vectors, the root of the product has the nuclear norm of the centred data's product for its trace.
    one, two = draw(5, 30), draw(7, 30, seed=1) + 1
    a, b = (one - one.mean(0)) / 4**0.5, (two - two.mean(0)) / 6**0.5
    overlap = torch.linalg.matrix_norm(a @ b.T, "nuc")
    expected = (one.mean(0) - two.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap
    assert frechet_distance(*moments(one), *moments(two)) == pytest.approx(expected.item(), rel=1e-9)


def test_float32_comes_near_float64():
    arguments = draw(10), covariance(10, seed=1), draw(10, seed=2), covariance(10, seed=3)
    narrow = [argument.float() for argument in arguments]
    assert frechet_distance(*narrow) == pytest.approx(frechet_distance(*arguments), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.tensor([0, torch.nan, 0])}, "mean1: 1 of 1 row has NaN"),
        ({3: torch.full((3, 3), torch.inf)}, "covariance2: 3 of 3 rows have NaN"),
        ({0: torch.zeros(4)}, r"mean1 and covariance1 must have the shapes \(D,\) and \(D, D\), got \(4,\)"),
        ({3: torch.eye(3)[:2]}, "mean2 and covariance2 must have the shapes"),
        ({2: torch.zeros(4), 3: torch.eye(4)}, "means must have one length, got 3 and 4"),
        ({1: torch.eye(3).roll(1, 0)}, "covariance1 must be symmetric"),
        ({1: -torch.eye(3)}, "covariance1 must be positive semi-definite, but has the eigenvalue -1"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {0: torch.zeros(3), 1: torch.eye(3), 2: torch.zeros(3), 3: torch.eye(3)} | change
    with pytest.raises(ValueError, match=message):
        frechet_distance(*(arguments[index] for index in range(4)))


# -- extrapolation -----------------------------------------------------------------------------------------


def test_fid_infinity_removes_the_bias():
    # N(.1, 1.21 I) against N(0, I): the distance is known, and 1,000 images come out well above it.
    dim = 16
    mean, cov = torch.zeros(dim), torch.eye(dim)
    exact = dim * (0.1**2 + 0.1**2)
    biased, extrapolated = [], []
    for seed in range(20):
        fake = 0.1 + 1.1 * draw(1000, dim, seed=seed)
        biased.append(frechet_distance(*moments(fake), mean, cov))
        extrapolated.append(fid_infinity(fake, mean, cov, seed=seed))
    biased, extrapolated = torch.tensor(biased), torch.tensor(extrapolated)
    assert biased.mean() > 1.2 * exact
    assert extrapolated.mean() == pytest.approx(exact, rel=0.05)
    assert extrapolated.std() < 0.3 * exact


def test_fid_infinity_is_the_intercept_of_a_fit():
    fake, mean, cov = draw(200, 3), torch.ones(3), torch.eye(3)
    generator = torch.Generator().manual_seed(5)
    sizes, distances = [20, 110, 200], []
    for size in sizes:
        subset = fake[torch.randperm(200, generator=generator)[:size]]
        distances.append(scipy_distance(*moments(subset), mean.double(), cov.double()))
    expected = np.polyfit(1 / np.array(sizes), distances, 1)[1]
    assert fid_infinity(fake, mean, cov, points=3, seed=5) == pytest.approx(expected, rel=1e-8)


def test_fid_infinity_draws_from_its_own_generator():
    fake, mean, cov = draw(100, 3), torch.zeros(3), torch.eye(3)
    state = torch.get_rng_state()
    first = fid_infinity(fake, mean, cov, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert fid_infinity(fake, mean, cov, seed=1) == first
    assert fid_infinity(fake, mean, cov, seed=2) != first


def test_fid_infinity_does_not_fit_the_curve_of_few_images():
    # Subsets of fewer images than dimensions would bring the estimate far below 0.
    dim = 16
    mean, cov = torch.zeros(dim), torch.eye(dim)
    distances = torch.tensor([fid_infinity(draw(6 * dim, dim, seed=seed), mean, cov, seed=seed) for seed in range(20)])
    biased = torch.tensor([frechet_distance(*moments(draw(6 * dim, dim, seed=seed)), mean, cov) for seed in range(20)])
    assert abs(distances.mean()) < 0.15 * biased.mean()
    with pytest.raises(ValueError, match="features: at least 64 rows are needed, got 63: use more images"):
        fid_infinity(draw(63, dim), mean, cov)


def test_fid_infinity_of_constant_images():
    constant = fid_infinity(torch.full((100, 4), 0.1), torch.zeros(4), torch.eye(4))
    assert constant == pytest.approx(4 * 0.1**2 + 4, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": 1}, "points must be at least 2"),
        ({"features": torch.zeros(19, 3)}, "features: at least 20 rows are needed, got 19"),
        ({"features": torch.full((30, 3), torch.nan)}, "features: 30 of 30 rows have NaN"),
        ({"features": torch.zeros(30, 4)}, "features and covariance must have as many columns, got 4 and 3"),
        ({"covariance": -torch.eye(3)}, "covariance must be positive semi-definite"),
    ],
)
def test_fid_infinity_wrong_arguments(arguments, message):
    defaults = {"features": torch.zeros(30, 3), "mean": torch.zeros(3), "covariance": torch.eye(3)}
    with pytest.raises(ValueError, match=message):
        fid_infinity(**(defaults | arguments))
