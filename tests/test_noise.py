"""Noise that is keyed, and the same however many processes share a batch."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from gan.data.memory import InMemoryLoader
from gan.noise import Noise, keyed, seed_all, seed_layers
from gan.penalties import DRAGAN, R1, GradientPenalty

PENALTIES = [R1(1.0), GradientPenalty(1.0), DRAGAN(1.0)]


def drawn(*key, seed: int = 42) -> torch.Tensor:
    return torch.rand(4, generator=keyed(seed, *key))


def noise(process: int = 0, processes: int = 1, dtype: torch.dtype = torch.float32) -> Noise:
    return Noise(keyed(42, "batch", 7), 5, dtype, process, processes)


def test_a_key_repeats_whatever_was_drawn_before():
    first = drawn("batch", 7)
    torch.rand(3)
    drawn("batch", 8)
    assert torch.equal(drawn("batch", 7), first)


def test_keys_differ_in_each_part():
    keys = [(), ("batch",), ("batch", 7), ("batch", 8), ("layers", 7), ("batch", "7"), ("batch", 7, 0), (7, "batch")]
    keys += [("batch", 1, 23), ("batch", 12, 3), ("batch7",)]  # what only looks alike when written in a row
    streams = [drawn(*key) for key in keys] + [drawn("batch", 7, seed=43)]
    assert len(torch.stack(streams).unique(dim=0)) == len(streams)


def test_the_seed_of_a_key_is_that_of_always():
    """A run that another process resumes draws on: `hash` would differ there, and a new rule would lose old runs."""
    assert keyed(42, "batch", 7).initial_seed() == 8627725231528504041


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_parts_of_all_processes_make_the_batch_of_one(processes):
    """Latents, numbers for a penalty of one's own, what ours need, and latents again for the generator's step."""
    images = torch.zeros(12, 1, 3, 2)

    def draw(process: int, processes: int) -> list[torch.Tensor]:
        own, num = noise(process, processes), 12 // processes
        latents, uniform = own.latents(num), own.uniform(num, 2, 3)
        for_penalties = own.for_penalties(PENALTIES, images[:num])
        return [latents, uniform, *(part for part in for_penalties if part is not None), own.latents(num)]

    whole = draw(0, 1)
    parts = [draw(process, processes) for process in range(processes)]
    assert [tensor.shape for tensor in whole] == [(12, 5), (12, 2, 3), (12, 1, 1, 1), (12, 1, 3, 2), (12, 5)]
    for number, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[number] for part in parts]), expected)


def test_a_row_belongs_to_an_image():
    """Whichever process of two the loader gives an image to, the image meets the row that it meets in one process."""
    images, labels = torch.arange(32, dtype=torch.uint8).view(32, 1, 1, 1), torch.zeros(32, dtype=torch.int64)

    def rows(process: int, processes: int) -> dict[float, torch.Tensor]:
        settings = {"shuffle": True, "drop_last": True, "seed": 3, "rank": process, "world_size": processes}
        batch, _ = next(iter(InMemoryLoader(images, labels, 8 // processes, **settings)))
        return dict(zip(batch.flatten().tolist(), noise(process, processes).latents(len(batch)), strict=True))

    whole, parts = rows(0, 1), rows(0, 2) | rows(1, 2)
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[image], row) for image, row in whole.items())


def test_penalties_get_what_they_ask_for_in_their_order():
    images = torch.zeros(6, 1, 3, 2)
    r1, gradient_penalty, dragan = noise().for_penalties(PENALTIES, images)
    assert r1 is None
    own = noise()
    assert torch.equal(gradient_penalty, own.uniform(6, 1, 1, 1))
    assert torch.equal(dragan, own.uniform(6, 1, 3, 2))


def test_a_branch_leaves_the_rest_as_it_is():
    """And is another than the next one; over processes it is parted as the rest is."""
    own, other = noise(), noise()
    first, second = own.branch(), own.branch()
    drawn = first.uniform(8, 2), second.uniform(8, 2)
    assert not torch.equal(*drawn)
    assert torch.equal(own.latents(8), other.latents(8))
    parts = [noise(process, 2).branch().uniform(4, 2) for process in range(2)]
    assert torch.equal(torch.cat(parts), drawn[0])
    assert not torch.equal(noise().uniform(8, 2), drawn[0])


def test_latents_are_normal_and_the_rest_is_uniform():
    own = noise()
    latents, uniform = own.latents(20_000), own.uniform(20_000, 5)
    assert abs(float(latents.mean())) < 0.02
    assert float(latents.std()) == pytest.approx(1, abs=0.02)
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_device_are_those_asked_for(dtype):
    """Whatever torch's default device is."""
    own, images = noise(dtype=dtype), torch.zeros(4, 1, 3, 2)
    with torch.device("meta"):
        tensors = own.latents(4), own.uniform(4, 2), own.for_penalties(PENALTIES, images)[1]
    for tensor in tensors:
        assert tensor.dtype == dtype
        assert tensor.device == own.generator.device


def test_a_generator_is_on_its_device():
    assert keyed(42, device="cpu").device == torch.device("cpu")
    if torch.cuda.is_available():
        assert Noise(keyed(42, device="cuda"), 5).latents(4).is_cuda


def test_dropout_is_keyed():
    dropout, ones = nn.Dropout(), torch.ones(64)

    def dropped(*key) -> torch.Tensor:
        seed_layers(keyed(42, "layers", *key))
        return dropout(ones)

    first = dropped(7, 0)
    torch.rand(3)
    assert torch.equal(dropped(7, 0), first)
    assert not torch.equal(dropped(8, 0), first)  # another batch
    assert not torch.equal(dropped(7, 1), first)  # another process


def test_whoever_has_no_generator_draws_by_the_key():
    def draw(*key):
        seed_all(keyed(42, *key))
        return torch.rand(()).item(), float(np.random.rand()), random.random()  # noqa: NPY002

    first = draw("data", 3, 0)
    assert draw("data", 3, 0) == first
    for other in (draw("data", 3, 1), draw("data", 4, 0)):
        assert all(one != two for one, two in zip(first, other, strict=True))
