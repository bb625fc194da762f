"""Norms against torch's and against sums that are exact; updates; gradients set aside."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Adam

from gan.gradients import updates, weights
from gan.gradients.clip import ByNorm, Gradients
from gan.gradients.norms import gradients_set_aside, total_norm, unscale
from gradients.pairs import close


def tensors(scale: float = 1.0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    convolution = torch.randn(6, 5, 3, 3).to(memory_format=torch.channels_last)
    several = [torch.randn(400, 3000), convolution, torch.randn(7), torch.randn(()), torch.zeros(0, 3)]
    return [(scale * tensor.double()).to(dtype) for tensor in several]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e18, 1e30])
def test_total_norm_is_torchs_in_float64(scale, dtype):
    """Also where the squares of float32 are 0 or infinite, and of many values, which torch adds up one by one."""
    several = tensors(scale, dtype)
    expected = get_total_norm([tensor.double() for tensor in several]).item()
    assert total_norm(several) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_total_norm_of_what_is_not_finite(bad):
    several = tensors()
    several[1][2, 3, 1, 1] = bad
    assert not math.isfinite(total_norm(several))
    assert total_norm([]) == 0
    assert total_norm([torch.zeros(3), torch.zeros(0)]) == 0


def test_sparse_gradients_are_counted_once_and_scaled():
    """Of an embedding of classes, where one class came twice."""
    embedding = nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1, 1, 4])).sum().backward()
    gradients = Gradients(embedding)
    expected = embedding.weight.grad.to_dense().norm().item()
    assert gradients.norm() == pytest.approx(expected)
    assert gradients.finite()
    gradients.scale(0.5)
    assert gradients.norm() == pytest.approx(expected / 2)
    embedding.weight.grad._values()[0] = math.inf
    assert not gradients.finite()


def test_updates():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1, bias=False)).double()
    network[2].weight.requires_grad_(False)
    before = weights(network)
    with torch.no_grad():
        network[0].weight.mul_(1.25)
        network[0].bias.mul_(1.25)
        network[1].bias.add_(0.5)
        network[2].weight.mul_(9.0)  # frozen
    total, ratios = updates(network, before, ["0", "1"])
    close(ratios["0"], 0.25)
    close(ratios["1"], 0.5)  # 4 values of .5, over 4 scales of 1
    linear = torch.cat([weight.flatten() for weight in before[:2]]).norm().item()
    close(total, math.hypot(0.25 * linear, 1.0) / math.hypot(linear, 2.0))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    total, ratios = updates(network, weights(network), ["0", "1"])
    assert math.isnan(total)
    assert ratios == {}


def test_gradients_in_waiting_are_set_aside():
    network, gradient = nn.Linear(2, 1), torch.ones(1, 2)
    network.weight.grad = gradient
    with gradients_set_aside([network]):
        assert network.weight.grad is None
        network(torch.zeros(1, 2)).sum().backward()
    assert network.weight.grad is gradient
    assert network.bias.grad is None


@pytest.mark.parametrize("optimizer", [partial(SGD, lr=0.1), partial(Adam, lr=0.1, fused=True)])
def test_unscale(optimizer):
    """Once, whoever asks first; and the step is the one of gradients without a scale."""
    modules = [nn.Linear(3, 2), nn.Linear(3, 2)]
    modules[1].load_state_dict(modules[0].state_dict())
    for module, scale in zip(modules, (1.0, 1024.0), strict=True):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        stepping = optimizer(module.parameters())
        scaler.scale(module(torch.ones(4, 3)).square().sum()).backward()
        for _ in range(2):
            unscale(stepping, scaler)
        ByNorm(0.5)(Gradients(module))
        assert Gradients(module).norm() == pytest.approx(0.5, rel=1e-5)
        scaler.step(stepping)
        scaler.update()
    for parameter, other in zip(*(module.parameters() for module in modules), strict=True):
        torch.testing.assert_close(parameter, other)
    unscale(stepping, None)
