"""Precision, recall, density and coverage against the authors' package; nearest images against brute force."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from gan.metrics import nearest, neighbour_scores, prdc


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks, and a short one at the end, for a few hundred images."""
    monkeypatch.setattr(prdc, "BLOCK", 10_000)
    monkeypatch.setattr(prdc, "TILE", (90, 70))


# -- precision, recall, density, coverage ------------------------------------------------------------------


@pytest.mark.parametrize(("num_real", "num_fake"), [(300, 200), (170, 333)])
@pytest.mark.parametrize(("dim", "shift", "spread"), [(2, 0.5, 1.0), (8, 0.3, 0.7), (64, 0.0, 1.2), (300, 0.0, 1.0)])
@pytest.mark.usefixtures("small_blocks")
def test_against_prdc(num_real, num_fake, dim, shift, spread):
    from prdc import compute_prdc

    real, fake = draw(num_real, dim), spread * draw(num_fake, dim, seed=1) + shift
    three, five = (compute_prdc(real.numpy(), fake.numpy(), nearest_k=k) for k in (3, 5))
    scores = neighbour_scores(real, fake)
    assert scores.precision == pytest.approx(three["precision"], abs=1e-9)
    assert scores.recall == pytest.approx(three["recall"], abs=1e-9)
    assert scores.density == pytest.approx(five["density"], abs=1e-9)
    assert scores.coverage == pytest.approx(five["coverage"], abs=1e-9)
    other = neighbour_scores(real, fake, manifold_k=5, density_k=3)
    expected = five["precision"], five["recall"], three["density"], three["coverage"]
    assert other == pytest.approx(expected, abs=1e-9)
    assert neighbour_scores(real + 1e4, fake + 1e4) == scores  # the round-off of large norms would show


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.usefixtures("small_blocks")
def test_copies_lie_on_the_edge_of_balls_and_not_inside(dtype, offset):
    # All real images in another order: each ball holds its centre and k - 1 more, the k-th is on its edge.
    real = draw(307, 24, dtype=dtype) + offset
    fake = real[torch.randperm(307, generator=torch.Generator().manual_seed(1))]
    for k in (1, 3, 5):
        assert neighbour_scores(real, fake, manifold_k=k, density_k=k) == (1, 1, 1, 1)


def test_a_missing_mode_lowers_recall_and_coverage_alone():
    real = torch.cat([draw(200, 4), draw(200, 4, seed=1) + 50])
    precision, recall, density, coverage = neighbour_scores(real, draw(400, 4, seed=2))
    assert precision > 0.8
    assert density > 0.7
    assert recall <= 0.5
    assert coverage <= 0.5


def test_disjoint_sets():
    assert neighbour_scores(draw(50, 4), draw(60, 4, seed=1) + 100) == (0, 0, 0, 0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e3])
def test_constant_images(value):
    real, constant = draw(60, 8), torch.full((40, 8), value, dtype=torch.float64)
    assert neighbour_scores(constant, constant[:30]) == (0, 0, 0, 0)
    assert neighbour_scores(constant, constant[:30] + 1) == (0, 0, 0, 0)
    assert neighbour_scores(real, constant).recall == 0


def test_a_collapsed_generator_on_one_real_image():
    real = draw(60, 8)
    precision, recall, _, coverage = neighbour_scores(real, real[7].expand(40, -1))
    assert (precision, recall) == (1, 0)
    assert coverage < 0.5


def test_fewer_images_than_dimensions():
    scores = neighbour_scores(draw(6, 100), draw(4, 100, seed=1))
    assert all(0 <= score < 2 for score in scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"manifold_k": 0}, "manifold_k and density_k must be at least 1, got 0 and 5"),
        ({"real": torch.zeros(5, 3)}, "real: at least 6 rows are needed, got 5"),
        ({"fake": torch.zeros(1, 3)}, "fake: at least 4 rows are needed, got 1"),
        ({"fake": torch.tensor([[0, torch.inf, 0]] * 7)}, "fake: 7 of 7 rows have NaN"),
        ({"fake": torch.zeros(9, 4)}, "real and fake must have as many columns, got 3 and 4"),
    ],
)
def test_wrong_arguments(arguments, message):
    defaults = {"real": torch.zeros(9, 3), "fake": torch.zeros(9, 3)}
    with pytest.raises(ValueError, match=message):
        neighbour_scores(**(defaults | arguments))


@pytest.mark.slow
def test_memory_of_ten_thousand_images():
    # In a process of its own: the peak of a process never falls.
    program = """
import resource, torch
from gan.metrics import neighbour_scores
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
neighbour_scores(torch.randn(100, 64), torch.randn(100, 64))
before = peak()
neighbour_scores(torch.randn(10_000, 64), torch.randn(10_000, 64))
print(peak() - before)
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True).stdout
    assert int(output) < 250  # MB; two blocks and the features are 60


def test_blocks_bound_the_memory():
    for tile in (None, prdc.TILE):
        sizes = [block.numel() for *_, block in prdc._blocks(draw(2000, 2), draw(3000, 2), tile=tile)]
        assert max(sizes) <= prdc.BLOCK
        assert sum(sizes) == 2000 * 3000


# -- nearest -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("small_blocks")
def test_nearest_against_brute_force(dtype):
    from scipy.spatial.distance import cdist

    query, base = draw(33, 20, dtype=dtype) + 3, draw(1111, 20, seed=1, dtype=dtype) + 3
    expected = cdist(query.numpy(), base.numpy())
    distances, indices = nearest(query, base)
    assert indices.tolist() == expected.argmin(1).tolist()
    np.testing.assert_allclose(distances, expected.min(1), rtol=1e-12)
    assert distances.dtype == torch.float64


@pytest.mark.usefixtures("small_blocks")
def test_a_copy_is_at_0_exactly():
    base = draw(1000, 50) + 100  # in float64: products of float32 numbers have no round-off there
    chosen = torch.tensor([999, 0, 500, 7, 7])
    distances, indices = nearest(base[chosen], base)
    assert indices.equal(chosen)
    assert distances.tolist() == [0] * 5


def test_nearest_more_queries_than_base():
    distances, indices = nearest(draw(100, 3), torch.zeros(1, 3))
    assert indices.tolist() == [0] * 100
    torch.testing.assert_close(distances, draw(100, 3).norm(dim=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": torch.zeros(0, 3)}, "query: at least 1 row is needed"),
        ({"base": torch.zeros(0, 3)}, "base: at least 1 row is needed"),
        ({"base": torch.full((9, 3), torch.nan)}, "base: 9 of 9 rows have NaN"),
        ({"query": torch.full((9, 3), torch.nan)}, "query: 9 of 9 rows have NaN"),
        ({"base": torch.zeros(9, 4)}, "query and base must have as many columns, got 3 and 4"),
        ({"base": torch.zeros(9, 3, 1)}, r"base must have the shape \(N, D\)"),
    ],
)
def test_nearest_wrong_arguments(arguments, message):
    defaults = {"query": torch.zeros(2, 3), "base": torch.zeros(9, 3)}
    with pytest.raises(ValueError, match=message):
        nearest(**(defaults | arguments))
