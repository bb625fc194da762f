"""Muon: orthogonal steps of matrices and kernels, Adam's of vectors."""

import math

import pytest
import torch
from torch import nn
from torch.optim import Adam

from gan.muon import Muon, orthogonal

SHAPES = [(4, 9), (9, 4), (5, 5), (6, 3, 4, 4), (3, 8, 2, 2), (1, 7)]


def random(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_are_about_the_same(shape):
    """And those of the gradient's own directions: what is orthogonal to it on either side stays so."""
    gradient = random(shape)
    matrix, of_gradient = orthogonal(gradient).flatten(1), gradient.flatten(1)
    values = torch.linalg.svdvals(matrix) / (0.2 * max(matrix.shape) ** 0.5)
    assert values.min() > 0.6
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(of_gradient, full_matrices=False)
    turned = left.T @ matrix @ right.T
    torch.testing.assert_close(turned, turned.diag().diag(), atol=1e-4, rtol=0)
    assert turned.diag().min() > 0


def test_of_a_gradient_that_is_zero():
    assert torch.equal(orthogonal(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_updates_have_the_size_of_adams():
    """So that one learning rate fits matrices, kernels and vectors."""
    for shape in ((64, 32, 4, 4), (128, 64)):
        assert orthogonal(random(shape)).square().mean().sqrt() == pytest.approx(0.2, rel=0.3)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has a Muon since 2.9")
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_of_matrices_as_torch_has_it(shape):
    """Which computes in bfloat16."""
    ours, theirs = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
    own = Muon([ours], lr=1.0, momentum=0.8)
    other = torch.optim.Muon([theirs], lr=1.0, momentum=0.8, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for seed in range(4):
        ours.grad, theirs.grad = random(shape, seed), random(shape, seed)
        own.step()
        other.step()
    torch.testing.assert_close(ours, theirs, atol=0.06, rtol=0.06)


def test_of_kernels_as_of_the_matrices_that_they_are():
    kernel, matrix = nn.Parameter(torch.zeros(6, 3, 4, 4)), nn.Parameter(torch.zeros(6, 48))
    optimizer = Muon([kernel, matrix])
    for seed in range(3):
        kernel.grad = random((6, 3, 4, 4), seed)
        matrix.grad = kernel.grad.flatten(1)
        optimizer.step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_of_vectors_it_is_adam():
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    own, adam = Muon([ours], lr=0.1, betas=(0.5, 0.9)), Adam([theirs], lr=0.1, betas=(0.5, 0.9))
    for seed in range(4):
        ours.grad, theirs.grad = random((5,), seed), random((5,), seed)
        own.step()
        adam.step()
    torch.testing.assert_close(ours, theirs)


def test_a_parameter_without_a_gradient_stays():
    still = nn.Parameter(torch.ones(2, 2))
    assert Muon([still]).step(lambda: 3.0) == 3.0
    assert torch.equal(still, torch.ones(2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be at least 0, got -1.0"),
        ({"lr": math.inf}, "lr must be at least 0, got inf"),
        ({"betas": (0.5,)}, r"betas must be two numbers, at least 0 and below 1, got \(0.5,\)"),
        ({"eps": math.inf}, "eps must be above 0, got inf"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"betas": (0.5, 1.0)}, r"betas must be two numbers, at least 0 and below 1, got \(0.5, 1.0\)"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=f"Muon: {message}"):
        Muon([nn.Parameter(torch.ones(1))], **settings)
