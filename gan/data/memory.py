"""A data set that fits in memory: no files, no worker processes, one gather and one add per batch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from gan.batch import described
from gan.data.epochs import EpochDataModule, EpochLoader
from gan.errors import GANError, counted
from gan.images import SCALE

SPLIT_SEED = 0  # of the validation split: a constant, so that scores of runs with different seeds compare
UNLABELLED = -1  # the label of an image whose class is not told
LABELLED_EVERY = 4  # where few images have a label, so many in a row of a batch hold one of them


class InMemoryLoader(EpochLoader):
    """Batches of a uint8 image tensor, normalised to float32 in [-1, 1], on the device where the images are.

    Iterating yields `(images, labels)`: float32 `(B, C, H, W)`, 0 becoming -1 and 255 becoming 1 (to 1.2e-7),
    and int64 `(B,)`; or `(images, sources)`, both normalised, where there are sources in the place of labels.

    With `drop_last`, the global batch b of an epoch is `order[b*B*W : (b+1)*B*W]` for W = `world_size`, and a
    rank gets its slice of B images of it: W processes with batch B see the same global batches as one process
    with batch B*W. Without `drop_last`, a rank gets every W-th image: each image exactly once over all ranks,
    the last batches may be short, two ranks may differ by one image, and have the same number of batches.

    With `shuffle`, the order of epoch e depends on `(seed, e)` alone and is the same on every rank. An epoch
    that is iterated to its end is followed by the next one, an epoch left early by itself again. With a
    `counter` an iteration begins at the batch that is next in training, wherever in an epoch that is: what
    batch b holds depends on the seed and b alone, and a run that is resumed has no place to be remembered.

    Args:
        images: uint8 `(N, C, H, W)`.
        labels: int64 `(N,)`, on the same device; or sources, what the images are to be made from: uint8
            `(N, C', H', W')`.
        batch_size: Images per process and batch.
        **options: Those of `EpochLoader`; `flips` mirrors a source with its image.

    Raises:
        ValueError: If `batch_size` is below 1, or a rank would get nothing.
    """

    content: str | None = None
    """What tells its images from all others, where somebody knows that without going through them."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, *options: Any, **named: Any) -> None:
        super().__init__(len(images), batch_size, *options, **named)
        self.images = images
        self.labels = labels
        self._minus_one = torch.tensor(-1.0, device=images.device)

    def _batches(self, epoch: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        mine = self._mine(self._order(epoch)).to(self.images.device)
        # Of sources, a copy in the epoch's order would be as large as the data.
        labels = self.labels.index_select(0, mine) if self.labels.ndim == 1 else None
        bounds, flipped = self._bounds(len(mine)), self._flipped(epoch)
        for index in numbers:
            batch = slice(bounds[index], bounds[index + 1])
            self._announce(mine[bounds[index + 1] : bounds[min(index + 2, len(bounds) - 1)]])
            condition = self._some(self.labels, mine[batch], flipped) if labels is None else labels[batch]
            yield self._some(self.images, mine[batch], flipped), condition

    def _some(self, images: Tensor, index: Tensor, flipped: Tensor | None) -> Tensor:
        """Those of uint8 images as float32 in [-1, 1], and mirrored where `flipped`, bool `(N,)`, says so."""
        some = torch.add(self._minus_one, self._gather(images, index), alpha=SCALE)
        if flipped is None:
            return some
        return torch.where(flipped[index].to(some.device).view(-1, 1, 1, 1), some.flip(-1), some)

    def _gather(self, images: Tensor, index: Tensor) -> Tensor:
        """Those of uint8 images, where batches are made."""
        return images.index_select(0, index)

    def _announce(self, index: Tensor) -> None:
        """Hears which images come next, of which those in memory are at hand."""

    def _flipped(self, epoch: int) -> Tensor | None:
        """Which images are mirrored in an epoch: bool `(N,)`, beside the images; None if none is."""
        if not self.flips:
            return None
        generator = self._generator(f"{self.seed} {epoch} flips")
        return torch.randint(0, 2, (len(self.images),), generator=generator).bool().to(self.images.device)

    def _order(self, epoch: int) -> Tensor:
        """The images of one epoch over all ranks: int64 `(N,)`."""
        if not self.shuffle:
            return torch.arange(len(self.images))
        return torch.randperm(len(self.images), generator=self._generator(f"{self.seed} {epoch}"))

    def _mine(self, order: Tensor) -> Tensor:
        """The share of this rank in `order`, batch after batch."""
        if not self.drop_last:
            return order[self.rank :: self.world_size]
        batches = len(order) // self._global_batch
        whole = order[: batches * self._global_batch].view(batches, self.world_size, self.batch_size)
        return whole[:, self.rank].reshape(-1)


class FewLabelsLoader(InMemoryLoader):
    """Batches of which every fourth image is one of the few that have a label, each in its turn.

    The others have none, so that each pass of each process has as many with a label, if its images come by fours. An
    epoch has as many batches as it would have without: what has no turn in it, depends on its order.
    """

    def _order(self, epoch: int) -> Tensor:
        order = super()._order(epoch)
        has_label = (self.labels != UNLABELLED).cpu()[order]
        if has_label.all():
            return order
        generator = self._generator(f"{self.seed} {epoch if self.shuffle else 0} labels")
        places = torch.arange(len(order)) % LABELLED_EVERY == 0
        mixed = torch.empty_like(order)
        mixed[places] = in_turn(order[has_label], int(places.sum()), generator)
        mixed[~places] = in_turn(order[~has_label], int((~places).sum()), generator)
        return mixed


def in_turn(index: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """`num` of an index, int64 `(N,)`: all of it in one random order after the other."""
    rounds = [index[torch.randperm(len(index), generator=generator)] for _ in range(-(-num // len(index)))]
    return torch.cat(rounds)[:num]


class InMemoryDataModule(EpochDataModule):
    """Training, validation and test images held in memory, on the device of the run.

    For your own images, subclass it, state their shape and classes, and implement `load`:

        class Flowers(InMemoryDataModule):
            image_shape = (3, 64, 64)
            num_classes = 5

            def load(self, train):
                data = torch.load("train.pt" if train else "test.pt")
                return data["images"], data["labels"]  # uint8 (N, 3, 64, 64), int64 (N,) of 0 to 4

    Of images without classes, `load` returns the images alone, and their labels are zeros. Where images are to be
    made from others, their sources, state the shape of these as `condition_shape` and return them in the place of
    labels: uint8 `(N, *condition_shape)`. The validation images are split from the training images by a permutation
    that is the same for every run. The test images are loaded for testing, for scores, and where there are sources, of
    which some are drawn. All batches are float32 in [-1, 1]
    with their int64 labels or their sources, see `InMemoryLoader`.

    Args:
        batch_size: Training images per process and pass; a batch is one pass unless `model.accumulate` is set.
        validation_size: Images kept out of training for validation, the same ones for every seed; 0 for none.
        seed: Seed of the order of the training images.
        train_size: Images to train on, the same ones for every seed; all but the validation images if not given.
        labels: Images to train on that keep their label, as many of each class, drawn by the seed; all others are told
            as -1, and every fourth image of a batch is one of these. All keep theirs if not given.

    Raises:
        ValueError: If a setting is out of range, or `load` returns something else than stated above.
    """

    def __init__(
        self,
        batch_size: int = 32,
        validation_size: int = 5000,
        seed: int = 42,
        train_size: int | None = None,
        labels: int | None = None,
    ) -> None:
        super().__init__(batch_size, validation_size, seed)
        if train_size is not None and not train_size >= 1:
            raise GANError(f"train_size must be at least 1 image, got {train_size}; leave it out for all there are")
        self.train_size = train_size
        self.num_labels = labels  # not `labels`, which a subclass may have of its own
        self._subsets: dict[str, tuple[Tensor, Tensor]] = {}

    def load(self, train: bool) -> tuple[Tensor, Tensor] | Tensor:
        """The images and labels, or sources, of the training set or the test set; a subclass implements it.

        Args:
            train: Whether the training set is wanted.

        Returns:
            uint8 images `(N, *image_shape)` and int64 labels `(N,)` from 0 to `num_classes - 1`; or images alone; or
            images and their sources, uint8 `(N, *condition_shape)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement load(train), see InMemoryDataModule")

    def setup(self, stage: str | None = None) -> None:
        """Load what `stage` needs, once, to the trainer's device, or to the CPU without a trainer.

        Args:
            stage: "fit" or "validate" for the training set, "test" for the test set, None for both.
        """
        if stage in ("fit", "validate", None) and "train" not in self._subsets:
            images, labels = self.load_checked(train=True)
            if self.validation_size >= len(images):
                raise GANError(
                    f"validation_size={self.validation_size} leaves nothing of the "
                    f"{counted(len(images), 'training image')}: lower it to at most {len(images) - 1}"
                )
            left = len(images) - self.validation_size
            if self.train_size is not None and self.train_size > left:
                raise GANError(
                    f"train_size={self.train_size} is more than the {counted(left, 'image')} that validation leaves: "
                    "lower it, or leave it out"
                )
            if left < self.validation_size and stage != "validate":
                rank_zero_warn(
                    f"validation_size={self.validation_size} leaves {left} of "
                    f"{counted(len(images), 'image')} to train on: data.validation_size can be lower, and 0"
                )
            order = self.validation_first(len(images)).to(images.device)
            subsets = {
                "validation": order[: self.validation_size],
                "train": order[self.validation_size :][: self.train_size],
            }
            for name, index in subsets.items():
                self._subsets[name] = images.index_select(0, index), labels.index_select(0, index)
            if self.num_labels is not None:
                images, labels = self._subsets["train"]
                self._subsets["train"] = images, self.with_few(labels, self.num_labels)
        if stage in ("test", None) and "test" not in self._subsets:
            self._subsets["test"] = self.load_checked(train=False)

        if self.trainer and self.validation_size == 0:
            self.trainer.limit_val_batches = 0  # Lightning warns of an empty list of loaders

        for name, (images, labels) in self._subsets.items():
            self._subsets[name] = images.to(self.device), labels.to(self.device)

    def validation_first(self, num: int) -> Tensor:
        """An order of the training images, int64 `(num,)`, of which the first `validation_size` are for validation."""
        return torch.randperm(num, generator=torch.Generator().manual_seed(SPLIT_SEED))

    def _loader(self, subset: str, batch_size: int, **options: Any) -> InMemoryLoader:
        images, labels = self._subsets[subset]
        share = self._share()
        parts = share["world_size"] * batch_size // self.batch_size  # of a batch: the passes of all processes
        if subset == "train" and self.num_labels is not None and parts > 1 and self.batch_size % LABELLED_EVERY:
            raise GANError(
                f"data.batch_size={self.batch_size} is not a multiple of {LABELLED_EVERY}, and with data.labels every "
                f"fourth image has a label: the {parts} parts of a batch, by processes and passes, would not have as "
                "many each. Set it to a multiple"
            )
        return self._loader_class(subset)(images, labels, batch_size, **options, **share)

    def _loader_class(self, subset: str) -> Callable[..., InMemoryLoader]:
        """What makes the loader of a subset."""
        return InMemoryLoader if self.num_labels is None or subset != "train" else FewLabelsLoader

    def with_few(self, labels: Tensor, num: int) -> Tensor:
        """The labels int64 (N,) of the training images with `num` of them kept, and -1 in the place of all others.

        As many of each class, and where they do not come out even one more of the first.

        Raises:
            ValueError: If that would leave a class without a label, or there are fewer images of one.
        """
        name = type(self).__name__
        if self.condition_shape is not None:
            raise GANError(f"labels={num} is for images with classes, and those of {name} have sources: leave it out")
        if self.num_classes < 2:
            raise GANError(f"labels={num} is for images with classes, and those of {name} have none: leave it out")
        if num < self.num_classes:
            raise GANError(
                f"labels={num} is fewer than the {self.num_classes} classes of {name}: one of each is the least, "
                f"labels={self.num_classes}"
            )
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(self.seed)).to(labels.device)
        few = torch.full_like(labels, UNLABELLED)
        for number in range(self.num_classes):
            share = num // self.num_classes + (number < num % self.num_classes)
            of_class = order[labels[order] == number]
            if len(of_class) < share:
                raise GANError(
                    f"labels={num} asks for {counted(share, 'image')} of {self.class_named(number)}, and "
                    f"{len(of_class)} of {counted(len(labels), 'training image')} are of it: lower it"
                )
            few[of_class[:share]] = number
        return few

    def class_named(self, number: int) -> str:
        """What errors call a class."""
        return f"class {number}"

    def load_checked(self, train: bool) -> tuple[Tensor, Tensor]:
        """What `load` returns, with zeros for labels of images alone; refused if it is not what `load` promises."""
        what = f"{type(self).__name__}.load(train={train})"
        self.check_shapes()
        conditions, dtype = ("labels", torch.int64) if self.condition_shape is None else ("sources", torch.uint8)
        match self.load(train):
            case Tensor() as images if self.condition_shape is None:
                labels = torch.zeros(len(images), dtype=torch.int64)
            case (images, labels):
                pass
            case other:
                alone = ", or images alone," if self.condition_shape is None else ", since it states condition_shape,"
                raise GANError(f"{what} must return (images, {conditions}){alone} and returns {described(other)}")
        for name, value, kind in (("images", images, torch.uint8), (conditions, labels, dtype)):
            if not isinstance(value, Tensor) or value.dtype != kind:
                got = value.dtype if isinstance(value, Tensor) else type(value).__name__
                sources = isinstance(value, Tensor) and value.ndim == 4 and name == "labels"
                way = "; for images in their place, state condition_shape" if sources else ""
                raise GANError(f"{what} must return {name} as a tensor of {kind}, got {got}{way}")
        self._check_shape(images, "image", what)
        if len(images) == 0:
            raise GANError(f"{what} returned no images")
        if labels.shape[:1] != images.shape[:1] or (self.condition_shape is None and labels.ndim != 1):
            one_hot = "; of one-hot labels, labels.argmax(1) makes them" if labels.ndim == 2 else ""
            raise GANError(
                f"{what} must return one {conditions[:-1]} per image, got {conditions} of shape {tuple(labels.shape)} "
                f"for {counted(len(images), 'image')}{one_hot}"
            )
        if self.condition_shape is not None:
            self._check_shape(labels, "condition", what)
            return images.contiguous(), labels.contiguous()
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            raise GANError(
                f"{what} must return labels of at least 0 and below num_classes={self.num_classes}, got {low} to {high}"
            )
        return images.contiguous(), labels

    def check_shapes(self) -> None:
        """Refuses what the class states of its images' shape, or of their sources', where it is no shape.

        Raises:
            ValueError: If it is none.
        """
        for kind in ("image", "condition"):
            shape = getattr(self, f"{kind}_shape", None)
            if len(shape or ()) != 3 and (kind == "image" or shape is not None):
                raise GANError(
                    f"{type(self).__name__} must state {kind}_shape, the channels, height and width of an image"
                )

    def _check_shape(self, images: Tensor, kind: str, what: str) -> None:
        shape = tuple(getattr(self, f"{kind}_shape"))
        if images.ndim != 4 or tuple(images.shape[1:]) != shape:
            raise GANError(
                f"{what} must return {'images' if kind == 'image' else 'sources'} of shape (N, *{kind}_shape) with "
                f"{kind}_shape={shape}, got {tuple(images.shape)}"
            )
