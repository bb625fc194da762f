"""Two networks that mathematics by hand can follow, a batch for them, and that mathematics."""

import math

import pytest
import torch
from torch import Tensor, nn

SHAPE = (1, 4, 4)


class Pipe(nn.Module):
    """Any layers as a network: latents to images, or images to logits."""

    def __init__(self, *layers: nn.Module, shape: tuple[int, ...] = ()):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1)).reshape(len(x), *self.shape)


def linear_pair(dtype=torch.float64) -> tuple[Pipe, Pipe]:
    torch.manual_seed(1)
    generator = Pipe(nn.Linear(3, 5), nn.Linear(5, 16), shape=SHAPE)
    return generator.to(dtype), Pipe(nn.Linear(16, 6), nn.Linear(6, 1)).to(dtype)


def batch(num=8, latent_dim=3, shape=SHAPE, dtype=torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(2)
    return {
        "real": torch.rand(num, *shape, dtype=dtype) * 2 - 1,
        "latents": torch.randn(num, latent_dim, dtype=dtype),
        "mix": torch.rand(num, *(1,) * len(shape), dtype=dtype),
    }


def close(measured, expected, rtol=1e-9):
    assert measured == pytest.approx(expected, rel=rtol, abs=0)


def by_hand(objective: Tensor, network: nn.Module) -> tuple[float, dict[str, float]]:
    for parameter in network.parameters():
        parameter.grad = None
    objective.backward()
    norms = {
        name: parameter.grad.double().norm().item()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    return math.hypot(*norms.values()), norms
