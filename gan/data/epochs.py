"""Loaders that keep no place: what batch b of a run holds depends on the seed and b alone, wherever it begins."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Never

import lightning as L
import torch
from torch import Tensor

from gan.errors import GANError, counted

EVAL_BATCH_SIZE = 500  # at least; without gradients a larger batch is only faster


class EpochLoader(ABC):
    """Batches of images and what they are of, in epochs that depend on `(seed, epoch)` alone.

    An epoch that is iterated to its end is followed by the next one, an epoch left early by itself again. With a
    `counter` an iteration begins at the batch that is next in training, wherever in an epoch that is: a run that is
    resumed has no place to be remembered.

    Args:
        count: How many images there are.
        batch_size: Images per process and batch.
        shuffle: Whether each epoch has its own random order.
        drop_last: Whether to leave out the images at the end of an epoch that do not fill a global batch.
        seed: Seed of the orders.
        rank: Index of this process, 0 to `world_size - 1`.
        world_size: Number of processes that share each epoch.
        counter: Gives the batches trained on so far, and how many make an epoch there: no more than there are.
        flips: Whether every image is mirrored left to right in about half of the epochs.

    Raises:
        ValueError: If `batch_size` is below 1, or a rank would get nothing.
    """

    kind = "image"
    """What people call one of its samples, see `gan.text.noun`."""

    def __init__(
        self,
        count: int,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        counter: Callable[[], tuple[int, float]] | None = None,
        flips: bool = False,
    ) -> None:
        if not batch_size >= 1:
            raise GANError(f"batch_size must be at least 1, got {batch_size}")
        if drop_last and count < batch_size * world_size:
            raise GANError(
                f"batch_size={batch_size} on {counted(world_size, 'process', 'processes')} takes "
                f"{counted(batch_size * world_size, self.kind)} "
                f"a batch, but there are only {count}: lower batch_size or use fewer processes"
            )
        if count < world_size:
            few = counted(count, f"{self.kind} is", f"{self.kind}s are")
            raise GANError(f"{few} too few for {world_size} processes: each needs one at least")
        self.count = count
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.counter = counter
        self.flips = flips
        self._global_batch = batch_size * world_size
        self._epochs = 0  # iterated to their end, where nobody else counts

    def state_dict(self) -> dict[str, Any]:
        """Nothing. Without the method, Lightning warns that a run cannot go on in the middle of an epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads nothing, whatever an earlier version has saved.

        Raises:
            ValueError: If the loader cannot know where to go on.
        """
        if self.counter is None:
            name = type(self).__name__
            raise GANError(
                f"{'an' if name[0] in 'AEIOU' else 'a'} {name} without a counter would begin its epochs anew: give the "
                "trainer the data module that makes it, an InMemoryDataModule say, or the loader "
                "counter=lambda: (trainer.global_step, trainer.num_training_batches)"
            )

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        if self.drop_last:
            return self.count // self._global_batch
        most = -(-self.count // self.world_size)  # of one rank: all have as many batches as that one
        return -(-most // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator begins at the first `next`, and must: Lightning calls `iter` before it knows the epoch's length.
        done, length = (self._epochs * len(self), len(self)) if self.counter is None else self.counter()
        length = int(min(length, len(self)))
        for epoch in range(done // length, -(-done // length) + 1):  # two, where it begins in the middle of one
            first = done - epoch * length  # of the iteration, seen from this epoch
            yield from self._batches(epoch, range(max(first, 0), min(first + length, length)))
        self._epochs = done // length + 1

    @abstractmethod
    def _batches(self, epoch: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Some batches of an epoch, one after the other."""

    def _bounds(self, count: int) -> list[int]:
        """Where the batches of this rank's `count` images of an epoch begin, and where the last one ends."""
        bounds = [*range(0, count, self.batch_size), count]
        if len(bounds) <= len(self):
            bounds.insert(-1, count - 1)  # another rank has an image more, and a batch more for it
        return bounds

    @staticmethod
    def _generator(key: str) -> torch.Generator:
        # A hash, because a sum would make (1, 2) equal (2, 1), and a CPU generator keeps 32 bits of its seed.
        digest = hashlib.sha256(key.encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


class EpochDataModule(L.LightningDataModule, ABC):
    """Training, validation and test images, from loaders that keep no place.

    Args:
        batch_size: Training images per process and pass; a batch is one pass unless `model.accumulate` is set.
        validation_size: Images kept out of training for validation; 0 for none.
        seed: Seed of the order of the training images.

    Raises:
        ValueError: If a setting is out of range.
    """

    image_shape: tuple[int, int, int]
    """Channels, height and width of an image."""

    num_classes: int = 1
    """Labels are 0 to `num_classes - 1`."""
    class_names: Sequence[str] | None = None
    """What the classes are called, for people; None where nobody says."""

    condition_shape: tuple[int, int, int] | None = None
    """Channels, height and width of a source; None of images that are not made from others."""

    flips: bool = False
    """Whether every training image, and its source, is mirrored left to right in about half of the epochs."""

    extractor: str | None = None
    """The features shipped with this package that can judge such images, see `gan.metrics.load_features`."""

    def __init__(self, batch_size: int = 32, validation_size: int = 5000, seed: int = 42) -> None:
        super().__init__()
        if not batch_size >= 1:
            raise GANError(f"batch_size must be at least 1, got {batch_size}")
        if not validation_size >= 0:
            raise GANError(f"validation_size must be 0 (no validation) or more, got {validation_size}")
        self.batch_size = batch_size
        self.validation_size = validation_size
        self.seed = seed

    def train_dataloader(self) -> EpochLoader:
        """Batches of `batch_size` times the passes of a model that accumulates, in a new order each epoch.

        The order stays as it is where the trainer overfits batches. While it trains, an iteration begins at its batch.
        """
        self.setup("fit")
        # Lightning's Trainer has `overfit_batches`, and does not declare it.
        overfit = self.trainer and self.trainer.overfit_batches  # pyright: ignore[reportAttributeAccessIssue]
        passes = getattr(self.trainer.lightning_module, "accumulate", 1) if self.trainer else 1
        counter = self._counter if self.trainer and self.trainer.training else None
        options = {"shuffle": not overfit, "drop_last": True, "counter": counter, "flips": self.flips}
        return self._loader("train", self.batch_size * passes, **options)

    def val_dataloader(self) -> EpochLoader | list[Never]:
        """Each validation image once. Empty if `validation_size` is 0, when Lightning skips validation."""
        self.setup("validate")
        if self.validation_size == 0:
            return []
        return self._loader("validation", max(self.batch_size, EVAL_BATCH_SIZE))

    def test_dataloader(self) -> EpochLoader:
        """Each test image once."""
        self.setup("test")
        return self._loader("test", max(self.batch_size, EVAL_BATCH_SIZE))

    @abstractmethod
    def _loader(self, subset: str, batch_size: int, **options: Any) -> EpochLoader:
        """A loader of the subset `train`, `validation` or `test`; options are those of `EpochLoader`."""

    def _share(self) -> dict[str, int]:
        """This process, and how many there are, as options of a loader; and the seed."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return {"seed": self.seed, "rank": rank, "world_size": world_size}

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _counter(self) -> tuple[int, float]:
        assert self.trainer is not None  # whose loader asks
        return self.trainer.global_step, self.trainer.num_training_batches
