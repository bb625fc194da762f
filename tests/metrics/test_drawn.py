"""Real images of streams: which are drawn, that it ends, and that what gives them is as before."""

import itertools

import numpy as np
import pytest
import torch
from commands import Pooled
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gan.data import InMemoryLoader
from gan.errors import GANError
from gan.images import to_float
from gan.metrics import drawn as module
from gan.metrics.drawn import Drawn, drawn
from gan.metrics.evaluator import Evaluator


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(module, "STREAMED", 100)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 28, 28), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


class Endless(IterableDataset):
    """Which draws from a generator of its own, and counts what it has given."""

    read = 0  # from all of them in this process

    def __init__(self, labelled: bool = True):
        self.generator, self.given, self.labelled = np.random.default_rng(3), 0, labelled

    def __iter__(self):
        while True:
            self.given += 1
            Endless.read += 1
            image = torch.from_numpy(self.generator.random((1, 28, 28), dtype=np.float32)) * 2 - 1
            yield (image, self.given % 5) if self.labelled else image


class Finite(IterableDataset):
    def __iter__(self):
        yield from to_float(images(60))


@pytest.mark.parametrize("workers", [0, 2])
def test_of_an_endless_stream_the_first_are_drawn_and_it_stays_where_it_is(workers):
    loader, said = DataLoader(Endless(), batch_size=16, num_workers=workers), []
    before = Endless.read
    one, other = drawn(loader, said.append), drawn(loader)
    assert Endless.read - before <= 2 * (100 + 16), "no more than are needed, and the batch that they end in"
    assert torch.equal(one.images, other.images)
    assert (one.images.shape, one.images.dtype) == ((100, 1, 28, 28), torch.uint8)
    assert one.labels.shape == (100,)
    if workers == 0:
        assert one.labels[:8].tolist() == [1, 2, 3, 4, 0, 1, 2, 3]
    assert loader.dataset.given == 0
    assert loader.dataset.generator.random() == np.random.default_rng(3).random()
    assert one.rule == "the first that DataLoader gives"
    assert said == ["real images    the first of the test data, 100 at most, drawn once by DataLoader"]


def test_of_a_short_stream_all_are_drawn():
    one = drawn(DataLoader(Finite(), batch_size=16))
    assert torch.equal(one.images, images(60))
    assert (one.labels, one.rule) == (None, "all that DataLoader gives")


def test_a_loader_of_ones_own_is_a_stream_too():
    class Own:
        def __iter__(self):
            for number in itertools.count():
                yield to_float(images(8, number)), to_float(images(8, -number - 1))

    one = drawn(Own())
    assert torch.equal(one.images[8:16], images(8, 1))
    assert torch.equal(one.labels[8:16], images(8, -2)), "sources"


def test_a_loader_that_says_which_are_first_is_asked():
    class Says:
        def first(self, num):
            assert num == 101
            yield to_float(images(20)), torch.arange(20)

        def __iter__(self):
            raise AssertionError

    assert drawn(Says()).labels.tolist() == list(range(20))


def test_one_that_cannot_be_copied_is_read_itself_with_a_warning():
    class Held(IterableDataset):
        def __init__(self):
            self.items = (image for image in to_float(images(300)))

        def __iter__(self):
            return self.items

    loader = DataLoader(Held(), batch_size=16)
    with pytest.warns(UserWarning, match="from DataLoader itself, since it cannot be copied"):
        assert torch.equal(drawn(loader).images, images(300)[:100])


def test_images_by_number_are_left_where_they_are():
    memory = InMemoryLoader(images(20), torch.zeros(20).long(), 8)
    indexed = DataLoader(TensorDataset(to_float(images(20))), batch_size=8)
    for loader in (memory, indexed, {"a": indexed}, [indexed], CombinedLoader([indexed])):
        assert drawn(loader) is loader


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"x": 1}, "needs batches of images .* and Own gives a dict of x"),
        (torch.zeros(3, 28, 28), "needs batches of images .*, and Own gives a Tensor"),
        (None, "needs real images, and Own gives none"),
    ],
)
def test_what_is_no_stream_of_images_is_told_of(batch, says):
    class Own:
        def __iter__(self):
            if batch is not None:
                yield batch

    with pytest.raises(GANError, match=says):
        drawn(Own())


def test_they_are_scored_against_and_their_features_are_kept(cache):
    def evaluator(extractor):
        loaders = [DataLoader(Endless(labelled), batch_size=16) for labelled in (True, False)]
        return Evaluator(extractor, *loaders)

    one, again = Pooled(), Pooled()
    first, second = evaluator(one), evaluator(again)
    assert len(first.real) == len(first.training) == 100
    assert torch.equal(first.real, second.real)
    assert len(list(cache.glob("*.pt"))) == 2, "of training and of tests"
    assert again.images < one.images
    assert isinstance(first.test, Drawn)
    assert first.labels is None
    assert first.accuracy_score(lambda number: (images(250), torch.zeros(250)), 20) is None
    assert first.nearest_images(to_float(images(4))).shape == (3, 4, 1, 28, 28)
