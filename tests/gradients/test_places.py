"""Tensors in their places: whether others have come there, and the way back to those that were."""

import math

import pytest
import torch
from torch import nn

from gan.gradients.places import Places


class Level(nn.Module):
    """Weights that are tied, a buffer that each pass replaces, one that it moves, and one that is empty."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.level = 0.9 * self.level + 0.1 * x.mean()
        self.count += 1
        return self.second(self.first(x))


def replace_weight(network):
    network.first.weight = nn.Parameter(network.first.weight.detach() + 1)


def replace_both(network):
    replace_weight(network)
    network.second.weight = network.first.weight


@torch.no_grad()
def move(network):
    network.first.weight.add_(1)
    network.count.add_(1)


def run(network):
    network(torch.ones(1, 2))


def values(network) -> list:
    return [tensor.tolist() for tensor in (network.first.weight, network.second.weight, network.level, network.count)]


@pytest.mark.parametrize(
    ("action", "kinds", "expected"),
    [
        (run, {}, True),
        (run, {"buffers": False}, False),
        (replace_weight, {}, True),
        (replace_weight, {"parameters": False}, False),
        (replace_both, {}, True),
        (move, {}, False),
    ],
)
def test_another_tensor_in_a_place_is_seen(action, kinds, expected):
    network = Level()
    places = Places([nn.Sequential(network), nn.Linear(2, 2)], **kinds)
    assert places.changed()  # nobody has asked before
    assert not places.changed()
    for _ in range(2):
        action(network)
        assert places.changed() == expected
        assert not places.changed()


@pytest.mark.parametrize("action", [run, replace_weight, replace_both, move], ids=lambda action: action.__name__)
def test_what_was_there_comes_back(action):
    """The very tensors, which an optimizer knows, with their values; as often as it is wanted."""
    network = Level()
    run(network)
    tensors, before = [*network.parameters(), *network.buffers()], values(network)
    kept = Places([network]).keep()
    for _ in range(2):
        action(network)
        assert values(network) != before
        kept.restore()
        assert values(network) == before
        assert all(
            one is other for one, other in zip(tensors, [*network.parameters(), *network.buffers()], strict=True)
        )
        assert network.first.weight is network.second.weight


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_finite_may_stay(bad):
    """Whether a pass has put a bad buffer there, or has spoilt the one that there was."""
    network = Level()
    run(network)
    before = float(network.level)
    for spoil in (lambda: network(torch.full((1, 2), bad)), lambda: network.level.fill_(bad)):
        kept = Places([network], parameters=False).keep()
        spoil()
        moved = int(network.count)
        kept.restore(only_bad=True)
        assert float(network.level) == before
        assert int(network.count) == moved
