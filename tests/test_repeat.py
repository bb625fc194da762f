"""Generators of any kind, states and batches: what tells whether a loader gives its batches again."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

from gan.repeat import digest, generators_of, keeps_place, loadable, parts, reseed, seed_of

GENERATORS = {
    "torch": (lambda seed: torch.Generator().manual_seed(seed), lambda g: torch.rand((), generator=g).item()),
    "numpy": (np.random.default_rng, lambda g: g.random()),
    "numpy, Philox": (lambda seed: np.random.Generator(np.random.Philox(seed)), lambda g: g.random()),
    "old numpy": (np.random.RandomState, lambda g: g.rand()),
    "python": (random.Random, lambda g: g.random()),
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_are_seeded_in_their_place(kind):
    make, draw = GENERATORS[kind]
    generator, other = make(1), make(2)
    assert seed_of(generator) == seed_of(make(1)) != seed_of(other)
    drawn = set()
    for each in (generator, other):
        draw(each)
        reseed(each, 2**63 - 1)
        drawn.add(draw(each))
    assert len(drawn) == 1
    reseed(other, 3)
    assert draw(other) not in drawn


def test_generators_are_found_where_loaders_have_them():
    class Flip:
        def __init__(self):
            self.rng = np.random.default_rng(0)

    dataset = TensorDataset(torch.zeros(4))
    dataset.transforms = [Flip(), Flip()]
    dataset.dataset = dataset  # a circle
    generator = torch.Generator()
    loader = DataLoader(Subset(dataset, [0, 1]), shuffle=True, generator=generator)
    found = generators_of(parts(loader))
    assert found.count(generator) == 1
    assert [type(each) for each in found] == [torch.Generator, np.random.Generator, np.random.Generator]


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(2, 3),
        [torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor(1)],
        {"image": torch.zeros(2, 3), "label": ["cat", "dog"]},
        (torch.zeros(0), np.zeros(3), 1.5, None),
        torch.zeros(2, 3).T,
    ],
    ids=str,
)
def test_digest(batch):
    assert digest(batch) == digest(batch)
    assert digest(batch) != digest([batch, torch.ones(1)])
    assert digest([batch, torch.ones(1)]) != digest([batch, torch.zeros(1)])


def test_only_plain_states_are_saved():
    state = {"place": 3, "generator": torch.Generator().get_state(), "inner": [None, (1, "a")]}
    assert loadable(state).keys() == state.keys()
    for other in ({"numbers": np.zeros(2)}, {"object": random.Random()}, {"function": lambda: 0}):
        with pytest.warns(UserWarning, match="is no plain data, and is not saved"):
            assert loadable(other) is None


def test_samplers_that_draw_anew():
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    dataset = TensorDataset(torch.zeros(4))
    assert all(map(keeps_place, (None, DataLoader(dataset).sampler, DataLoader(dataset).batch_sampler)))
    assert keeps_place(torchdata.StatefulDataLoader(dataset, shuffle=True).sampler)
    assert not keeps_place(RandomSampler(dataset))
