"""Streaming moments against NumPy's two-pass ones."""

import numpy as np
import pytest
import torch

from gan.metrics import Moments


def features(num=300, dim=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values, mix = (torch.randn(rows, dim, generator=generator, dtype=torch.float64) for rows in (num, dim))
    return values @ mix + 2


def of(*batches):
    moments = Moments(batches[0].shape[1])
    for batch in batches:
        moments.update(batch)
    return moments


def assert_moments(moments, values, rtol=1e-12):
    values = values.double().numpy()
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=rtol)
    expected = np.cov(values, rowvar=False)
    np.testing.assert_allclose(moments.covariance, expected, rtol=0, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_against_numpy_in_uneven_batches(dtype):
    values = features().to(dtype)
    moments = of(*values.split([1, 0, 128, 100, 71]))
    assert moments.num == 300
    assert_moments(moments, values)
    assert moments.mean.dtype == moments.covariance.dtype == torch.float64


def test_a_large_mean_costs_no_accuracy_that_matters():
    values = features(num=5000) + torch.tensor([1e3, -1e3, 1e3, 0, 1, 1e2, 10])
    assert_moments(of(*values.split(64)), values, rtol=1e-8)


def test_fewer_vectors_than_dimensions():
    values = features(num=3, dim=20)
    assert_moments(of(values), values)


def test_processes_add_up():
    values = features()
    whole, shares = of(values), [of(values[:10]), of(values[10:]), Moments(7)]
    for tensors in zip(*(share.tensors() for share in shares), strict=True):
        total = sum(tensor.clone() for tensor in tensors)
        for tensor in tensors:
            assert tensor.dtype == torch.float64
            tensor.copy_(total)
    for share in shares:
        assert share.num == 300
        torch.testing.assert_close(share.mean, whole.mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(share.covariance, whole.covariance, rtol=1e-13, atol=1e-13)


def test_the_covariance_is_symmetric_bit_for_bit():
    covariance = of(features(dim=33)).covariance
    assert torch.equal(covariance, covariance.T)


def test_gradients_are_not_kept():
    values = features().requires_grad_()
    assert not of(values).covariance.requires_grad


def test_too_few():
    moments = Moments(2)
    with pytest.raises(ValueError, match="a mean needs at least 1 feature vectors, got 0"):
        _ = moments.mean
    moments.update(torch.ones(1, 2))
    assert moments.mean.tolist() == [1, 1]
    with pytest.raises(ValueError, match="a covariance needs at least 2 feature vectors, got 1"):
        _ = moments.covariance


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_vector_is_found_after_the_exchange_by_all(bad):
    values = features()
    good, spoilt = of(values), of(values.clone())
    assert good.is_finite
    row = values[:1].clone()
    row[0, 3] = bad
    spoilt.update(row)  # does not raise: the other processes would wait for this one
    for ours, theirs in zip(good.tensors(), spoilt.tensors(), strict=True):
        ours += theirs
    assert good.num == 601
    assert not good.is_finite
    for name in ("mean", "covariance"):
        with pytest.raises(ValueError, match=f"a {name} needs finite features, but some of 601"):
            getattr(good, name)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="dim must be at least 1, got 0"):
        Moments(0)
    for wrong in (torch.zeros(3), torch.zeros(3, 5), torch.zeros(3, 4, 1)):
        with pytest.raises(ValueError, match=r"shape \(N, 4\), got"):
            Moments(4).update(wrong)
