"""Batches that are drawn at random, that come again, and that are of a kind each."""

import math
from copy import deepcopy

import pytest
import torch

from gan.data import MNISTDataModule
from gan.gradients import BatchStats
from gan.gradients.batches import LOOK, Batches, between_over_within, most_frequent
from gan.gradients.norms import one_process
from gan.gradients.rules import Thresholds
from gan.images import to_float


@pytest.fixture(scope="module")
def digits():
    images, labels = MNISTDataModule().load(train=True)
    return images[:20_000], labels[:20_000]


def watched(images, orders, windows=8) -> list[BatchStats]:
    """Stats of the last of every `LOOK` batches of indices."""
    batches, found = Batches(), []
    for number in range(windows * LOOK):
        batches.see(to_float(images[next(orders)]))
        if (number + 1) % LOOK == 0:
            found.append(batches.stats(None, None, one_process))
    return found


def shuffled(count, size, seed):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(size)[: count // size]


@pytest.mark.parametrize("size", [16, 64, 256])
@pytest.mark.parametrize("count", [1000, 20_000])
def test_shuffled_batches_differ_by_chance(digits, size, count):
    for seed in range(3):
        found = watched(digits[0][:count], shuffled(count, size, seed))
        assert {stats.distinct for stats in found} == {LOOK}
        assert 0.3 < between_over_within(found) < Thresholds().unshuffled / 2
        assert {stats.images for stats in found} == {size}


@pytest.mark.parametrize("size", [64, 256])
def test_sorted_batches_differ_more(digits, size):
    images = digits[0][digits[1].argsort(stable=True)]
    while_sorted = watched(images, iter(torch.arange(len(images)).repeat(2).split(size)))
    assert between_over_within(while_sorted) > 3 * Thresholds().unshuffled
    assert min(stats.distinct for stats in while_sorted) > LOOK / 2


@pytest.mark.parametrize(("among", "distinct"), [(1, 1), (3, 3)])
def test_batches_that_come_again_are_counted_once(digits, among, distinct):
    """Whatever their order, and the order within them."""
    generator = torch.Generator().manual_seed(1)

    def orders():
        while True:
            for number in torch.randperm(among, generator=generator).tolist():
                yield 64 * number + torch.randperm(64, generator=generator)

    found = watched(digits[0], orders())
    assert {stats.distinct for stats in found} == {distinct}


def test_the_first_of_an_epoch_that_is_smaller_is_as_near_as_it_should_be(digits):
    """The last batch of an epoch has fewer images; its mean is further off by chance."""

    def orders():
        generator = torch.Generator().manual_seed(2)
        while True:
            yield from torch.randperm(1000, generator=generator).split(64)

    found = watched(digits[0], orders())
    assert {stats.distinct for stats in found} == {LOOK}


def test_by_hand():
    """Of two batches of two images of one pixel each."""
    batches = Batches()
    for values in ((0.0, 1.0), (2.0, 5.0)):
        batches.see(torch.tensor(values).reshape(2, 1, 1, 1))
    stats = batches.stats(torch.tensor([3, 3]), 7, one_process)
    assert stats == BatchStats(2, (3.5,), 4.5, 2, 2, 7, 3, 1.0)
    first = BatchStats(2, (0.5,), 0.5, 1, 1)
    assert between_over_within([first, stats]) == pytest.approx(4.5 / ((0.25 + 2.25) / 2))
    assert math.isnan(between_over_within([BatchStats(2, (0.5,), 0.0, 1, 1)] * 2))


def test_images_that_are_one_image_have_no_variance():
    batches = Batches()
    batches.see(torch.full((8, 3, 16, 16), 0.3))
    assert batches.stats(None, None, one_process).variance == pytest.approx(0, abs=1e-12)


def test_the_most_frequent_label():
    assert most_frequent(torch.tensor([2, 0, 2, 1]), one_process) == (2, 0.5)
    assert most_frequent(None, one_process) is None
    assert most_frequent(torch.tensor([-1, 0]), one_process) is None  # no class
    assert most_frequent(torch.tensor([10**9]), one_process) is None


def test_goes_on_where_it_was(digits):
    orders = shuffled(20_000, 16, 0)
    one, two = Batches(), Batches()
    for _ in range(5):
        one.see(to_float(digits[0][next(orders)]))
    two.restore(deepcopy(one.state()))
    last = to_float(digits[0][next(orders)])
    for batches in (one, two):
        batches.see(last)
    assert one.stats(None, None, one_process) == two.stats(None, None, one_process)


def test_batches_of_a_checkpoint_are_taken_to_where_the_run_goes_on():
    """A checkpoint is read to the CPU, and a run may be on a GPU: means of both cannot be put together."""
    before, after = Batches(), Batches()
    for _ in range(3):
        before.see(torch.zeros(4, 1, 8, 8))
    after.restore(before.state())
    after.see(torch.zeros(4, 1, 8, 8, device="meta"))
    assert {mean.device.type for mean in after.means} == {"meta"}
