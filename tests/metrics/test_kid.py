"""The kernel distance against torchmetrics and what an unbiased estimate must do."""

import math

import pytest
import torch
from torch import nn

from gan.metrics import kernel_distance
from gan.metrics.kid import _subsets, squared_mmd


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Flat(nn.Module):
    num_features = 48

    def forward(self, images):
        return images.flatten(1).double()


def torchmetrics_distance(real, fake):
    """Of all images at once: subsets as large as the sets leave nothing to chance."""
    from torchmetrics.image.kid import KernelInceptionDistance

    metric = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=len(real), normalize=True)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()[0].item()


@pytest.mark.parametrize("num", [2, 10, 700])  # 700 x 700 takes more than one block
def test_against_torchmetrics(num):
    real = 3 * torch.rand(num, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    fake = 3 * torch.rand(num, 3, 4, 4, generator=torch.Generator().manual_seed(1)).square()
    ours = squared_mmd(real.flatten(1).double(), fake.flatten(1).double()).item()
    assert ours == pytest.approx(torchmetrics_distance(real, fake), rel=1e-9, abs=1e-12)


def test_mean_and_deviation_over_the_same_subsets_as_torchmetrics():
    real = torch.rand(90, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    fake = torch.rand(70, 3, 4, 4, generator=torch.Generator().manual_seed(1)).square()
    generator = torch.Generator().manual_seed(3)
    chosen = _subsets(90, 30, 7, generator), _subsets(70, 30, 7, generator)
    expected = torch.tensor([torchmetrics_distance(real[a], fake[b]) for a, b in zip(*chosen, strict=True)])
    mean, std = kernel_distance(real.flatten(1), fake.flatten(1), subsets=7, subset_size=30, seed=3)
    assert mean == pytest.approx(expected.mean().item(), abs=1e-6)
    assert std == pytest.approx(expected.std(correction=0).item(), abs=1e-6)


def test_sets_of_different_sizes():
    # By hand, over all pairs: the diagonal is left out within a set and kept between the sets.
    x, y = draw(5, 3), draw(8, 3, seed=1)
    kernel = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
    within = [
        sum(kernel(a, b) for i, a in enumerate(each) for j, b in enumerate(each) if i != j)
        / (len(each) * (len(each) - 1))
        for each in (x, y)
    ]
    between = sum(kernel(a, b) for a in x for b in y) / 40
    assert squared_mmd(x, y).item() == pytest.approx(sum(within) - 2 * between, rel=1e-12)


def test_it_is_unbiased_at_any_size():
    # Of equal distributions the mean is 0, even over sets of 8; counting the diagonal would make it .6.
    for num in (8, 50):
        distances = torch.tensor(
            [kernel_distance(draw(num, 4, seed=i), draw(num, 4, seed=-i - 1), subsets=4)[0] for i in range(200)]
        )
        assert abs(distances.mean()) < 4 * distances.std() / 200**0.5


def test_a_small_set_still_has_a_deviation():
    # Subsets of all 60 images would be one and the same; of halves, the mean is that of all.
    x, y = draw(60, 8), draw(60, 8, seed=1) + 0.3
    mean, std = kernel_distance(x, y)
    assert mean == pytest.approx(squared_mmd(x, y).item(), rel=0.1)
    assert std > 0.05 * mean
    assert kernel_distance(x, y, subset_size=30) == (mean, std)


def test_subsets_use_all_images_before_one_comes_again():
    generator = torch.Generator().manual_seed(0)
    subsets = _subsets(100, 20, 12, generator)
    assert [len(set(subset.tolist())) for subset in subsets] == [20] * 12
    assert sorted(torch.cat(subsets[:5]).tolist()) == sorted(torch.cat(subsets[5:10]).tolist()) == list(range(100))
    assert not torch.equal(torch.cat(subsets[:5]), torch.cat(subsets[5:10]))


def test_it_draws_from_its_own_generator():
    x, y = draw(50, 3), draw(50, 3, seed=1)
    state = torch.get_rng_state()
    first = kernel_distance(x, y, subsets=2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert kernel_distance(x, y, subsets=2, seed=1) == first
    assert kernel_distance(x, y, subsets=2, seed=2) != first


def test_float32_features_are_computed_in_float64():
    # In float32, kernel values of 1e7 would leave nothing of the difference.
    x, y = draw(200, 16, dtype=torch.float32) + 15, draw(200, 16, seed=1, dtype=torch.float32) + 15
    assert kernel_distance(x, y) == kernel_distance(x.double(), y.double())


def test_constant_images():
    assert kernel_distance(torch.ones(10, 4), torch.ones(10, 4)) == pytest.approx((0, 0), abs=1e-12)
    # All pairs alike: k(a, a) + k(b, b) - 2 k(a, b), with a.b / D = 2.
    mean, std = kernel_distance(torch.ones(10, 4), 2 * torch.ones(10, 4))
    assert mean == pytest.approx(2**3 + 5**3 - 2 * 3**3, rel=1e-12)
    assert std == pytest.approx(0, abs=1e-12)


def test_fewer_images_than_dimensions():
    mean, std = kernel_distance(draw(4, 100), draw(5, 100, seed=1), subsets=5)
    assert math.isfinite(mean)
    assert math.isfinite(std)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subsets": 0}, "subsets must be at least 1"),
        ({"subset_size": 1}, "subset_size must be at least 2 images"),
        ({"features1": torch.zeros(1, 3)}, "features1: at least 4 rows are needed, got 1"),
        ({"features2": torch.zeros(3, 3)}, "features2: at least 4 rows are needed, got 3"),
        ({"features2": torch.tensor([[0.0, 0, torch.nan]] * 4)}, "features2: 4 of 4 rows have NaN"),
        ({"features2": torch.zeros(9, 4)}, "features1 and features2 must have as many columns, got 3 and 4"),
        ({"features1": torch.zeros(9)}, r"features1 must have the shape \(N, D\), got \(9,\)"),
    ],
)
def test_wrong_arguments(arguments, message):
    defaults = {"features1": torch.zeros(9, 3), "features2": torch.zeros(9, 3)}
    with pytest.raises(ValueError, match=message):
        kernel_distance(**(defaults | arguments))
