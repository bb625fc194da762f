"""Where a loader begins that keeps no place, and who gets which batch; loaders of images are tested by their own."""

import itertools

import pytest

from gan.data.epochs import EpochDataModule, EpochLoader
from gan.errors import GANError


class Numbers(EpochLoader):
    """Batches that are their epoch, their number and how many images they have."""

    def _batches(self, epoch, numbers):
        bounds = self._bounds(self.count // self.world_size)
        for number in numbers:
            yield epoch, number, bounds[number + 1] - bounds[number]


def places(**options) -> list[tuple[int, int]]:
    return [(epoch, number) for epoch, number, _ in Numbers(23, 4, drop_last=True, **options)]


def test_epochs_follow_each_other_where_they_come_to_their_end():
    alone = Numbers(23, 4, drop_last=True)
    assert [place[:2] for place in itertools.chain(alone, alone)] == list(itertools.product(range(2), range(5)))
    next(iter(alone))
    assert next(iter(alone))[:2] == (2, 0), "one that is left early is begun again"


@pytest.mark.parametrize("length", [5, 3])
@pytest.mark.parametrize("done", [0, 1, 4, 5, 7, 15])
def test_an_iteration_begins_where_training_is(done, length):
    """For as many batches as an epoch has there, which may be fewer than there are."""
    found = places(counter=lambda: (done, length))
    assert found == [divmod(number, length) for number in range(done, done + length)]


def test_an_unknown_length_is_that_of_the_data():
    assert places(counter=lambda: (6, float("inf"))) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 0)]


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_have_as_many_batches(rank):
    """Of 9 images one has 5 in three batches, and the other 4, which would be two."""
    sizes = [size for *_, size in Numbers(9, 2, rank=rank, world_size=2)]
    assert sizes == [2, 1, 1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 8, "drop_last": True, "world_size": 2}, "takes 16 images a batch, but there are only 9"),
        ({"batch_size": 1, "world_size": 10}, "9 images are too few for 10 processes: each needs one at least"),
    ],
)
def test_nobody_gets_nothing(settings, says):
    with pytest.raises(GANError, match=says):
        Numbers(9, **settings)


def test_without_a_counter_nobody_knows_where_to_go_on():
    with pytest.raises(GANError, match="a Numbers without a counter would begin its epochs anew: give the trainer"):
        Numbers(9, 2).load_state_dict({})
    Numbers(9, 2, counter=lambda: (0, 1)).load_state_dict({"anything": 1})
    assert Numbers(9, 2).state_dict() == {}


def test_a_data_module_makes_each_loader():
    class Data(EpochDataModule):
        def _loader(self, subset, batch_size, **options):
            return subset, batch_size, options.get("drop_last", False), self._share()

    data = Data(batch_size=8, validation_size=3, seed=7)
    alone = {"seed": 7, "rank": 0, "world_size": 1}
    assert data.train_dataloader() == ("train", 8, True, alone)
    assert data.val_dataloader() == ("validation", 500, False, alone)
    assert data.test_dataloader() == ("test", 500, False, alone)
    assert Data(validation_size=0).val_dataloader() == []
    for settings in ({"batch_size": 0}, {"validation_size": -1}):
        with pytest.raises(GANError, match="must be"):
            Data(**settings)
