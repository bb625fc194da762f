"""Images in shards, on disks or in buckets, of which only a few are in memory at a time: read by LitData, our order."""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from gan.data.epochs import EVAL_BATCH_SIZE, EpochDataModule, EpochLoader
from gan.data.image_cache import as_bytes, say
from gan.data.reading import Mode, Unreadable, check_made
from gan.data.shards import Fields, Shards, Stretch, decoded
from gan.errors import GANError, counted
from gan.images import SCALE

WORST = 0.5  # of a batch, which may be damaged


class Decoding(NamedTuple):
    """What becomes of each image."""

    size: int  # height and width
    mode: Mode
    background: str  # behind what is transparent
    classes: int  # labels are below it


class StreamLoader(EpochLoader):
    """Batches of images in shards: float32 `(B, C, H, W)` in [-1, 1], and int64 labels `(B,)`, on a device.

    An epoch is the shards one after the other, shuffled by `(seed, epoch)`. Each process takes a stretch of it, of as
    many images as any other, and of that a window of a few shards at a time, whose images it shuffles by the same. So
    where batch b begins is computed; a run that goes on reads one window from its beginning, and nothing before it.
    Without `drop_last` nothing is left out: two processes may differ by one image, and have as many batches.

    While a batch is trained on, threads decode the next ones, and another one reads the next window.

    A damaged image is replaced by the next one of its batch, which is a warning.

    Args:
        shards: Where the images are.
        fields: What they are called there.
        decoding: What becomes of them.
        batch_size: Images per process and batch.
        window: Shards whose images are shuffled together, where `shuffle` is set. In memory there are up to twice as
            many, as they are on the disk.
        workers: Threads that decode.
        device: Where batches are made.
        **options: Those of `EpochLoader`.

    Raises:
        ValueError: If an option is out of range; as it is iterated, if shards cannot be read, too many images of a
            batch are damaged, or a label is none.
    """

    def __init__(
        self,
        shards: Shards,
        fields: Fields,
        decoding: Decoding,
        batch_size: int,
        window: int = 4,
        workers: int = 2,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        super().__init__(shards.count, batch_size, **options)
        self.shards, self.fields, self.decoding = shards, fields, decoding
        self.window, self.workers, self.device = window, workers, device
        self._minus_one = torch.tensor(-1.0, device=device)

    def first(self, num: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches with the first `num` images, or a few more, of an order that no seed and no process changes."""
        settings = {"window": self.window, "workers": self.workers, "device": self.device}
        whole = StreamLoader(self.shards, self.fields, self.decoding, EVAL_BATCH_SIZE, shuffle=True, **settings)
        yield from whole._batches(0, range(min(len(whole), -(-num // EVAL_BATCH_SIZE))))

    # ------------------------------------------------------------------ the order

    def _stretch(self) -> tuple[int, int]:
        """The part of an epoch that this process takes: the number of its first image there, and of the one behind."""
        if self.drop_last:
            each = self.count // self._global_batch * self.batch_size
            return self.rank * each, (self.rank + 1) * each
        each, more = divmod(self.count, self.world_size)
        start = self.rank * each + min(self.rank, more)
        return start, start + each + (self.rank < more)

    def _windows(self, epoch: int) -> list[list[Stretch]]:
        """What this process reads in an epoch, window by window."""
        sizes, number = self.shards.sizes, len(self.shards.sizes)
        order = np.arange(number)
        if self.shuffle:
            order = torch.randperm(number, generator=self._generator(f"{self.seed} {epoch}")).numpy()
        ends = sizes[order].cumsum()
        start, stop = self._stretch()
        stretches = []
        for turn in range(int(ends.searchsorted(start, "right")), int(ends.searchsorted(stop - 1, "right")) + 1):
            shard = int(order[turn])
            shift = int(self.shards.ends[shard] - ends[turn])  # from a number in the epoch to one among all images
            begin, end = int(ends[turn] - sizes[shard]), int(ends[turn])
            if max(start, begin) < min(stop, end):
                stretches.append(Stretch(shard, max(start, begin) + shift, min(stop, end) + shift))
        return [stretches[turn : turn + self.window] for turn in range(0, len(stretches), self.window)]

    def _shuffled(self, samples: list[tuple], epoch: int) -> list[tuple]:
        """The samples of a window in the order of an epoch, and whether each is mirrored there."""
        order, flipped = range(len(samples)), [False] * len(samples)
        key = f"{self.seed} {epoch} {samples[0][0]} {self.rank}"
        if self.shuffle:
            order = torch.randperm(len(samples), generator=self._generator(key)).tolist()
        if self.flips:
            flipped = torch.randint(0, 2, (len(samples),), generator=self._generator(f"{key} flips")).bool().tolist()
        return [(*samples[number], flip) for number, flip in zip(order, flipped, strict=True)]

    # ------------------------------------------------------------------ batches

    def _batches(self, epoch: int, numbers: range) -> Iterator[tuple[Tensor, Tensor]]:
        reader, decoders = ThreadPoolExecutor(1, "shards"), ThreadPoolExecutor(self.workers, "images")
        ahead: deque[Future[tuple[Tensor, Tensor, Tensor]]] = deque()
        try:
            for samples in self._samples(epoch, numbers, reader):
                ahead.append(decoders.submit(self._decoded, samples))
                if len(ahead) > self.workers:
                    yield self._made(*ahead.popleft().result())
            while ahead:
                yield self._made(*ahead.popleft().result())
        finally:  # which may be before its end
            for pool in (reader, decoders):
                pool.shutdown(wait=False, cancel_futures=True)

    def _samples(self, epoch: int, numbers: range, reader: ThreadPoolExecutor) -> Iterator[list[tuple]]:
        """What the batches of an epoch are made of, while the reader is a window ahead."""
        start, stop = self._stretch()
        bounds = self._bounds(stop - start)
        low, high = bounds[numbers.start], bounds[numbers.stop]
        windows, done = [], 0  # that have images of these batches, and where each begins
        for stretches in self._windows(epoch):
            size = sum(stretch.stop - stretch.start for stretch in stretches)
            if done < high and done + size > low:
                windows.append((done, stretches))
            done += size
        dataset = self.shards.dataset()
        read = partial(self.shards.read, dataset, fields=self.fields)
        upcoming = reader.submit(read, windows[0][1]) if windows else None
        batch: list[tuple] = []
        numbers_left = iter(numbers)
        number = next(numbers_left, None)
        for turn, (place, _) in enumerate(windows):
            assert upcoming is not None
            samples = self._shuffled(upcoming.result(), epoch)
            upcoming = reader.submit(read, windows[turn + 1][1]) if turn + 1 < len(windows) else None
            while number is not None and place + len(samples) >= bounds[number + 1]:
                yield batch + samples[max(bounds[number] - place, 0) : bounds[number + 1] - place]
                batch, number = [], next(numbers_left, None)
            if number is not None:  # its batch goes on in the next window
                batch += samples[max(bounds[number] - place, 0) :]

    def _decoded(self, samples: Sequence[tuple]) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 images `(B, C, H, W)`, int64 labels `(B,)`, and which images are to be mirrored, bool `(B,)`."""
        size, mode, background, classes = self.decoding
        images: list[np.ndarray | None] = []
        for number, image, _, _ in samples:
            try:
                images.append(decoded(image, size, mode, background))
            except Unreadable as error:
                images.append(None)
                warnings.warn(
                    f"{self._place(number)} cannot be read ({error}): another one of its batch takes its place",
                    stacklevel=2,
                )
        whole = [turn for turn, image in enumerate(images) if image is not None]
        if len(whole) < (1 - WORST) * len(images) or not whole:
            raise GANError(
                f"{len(images) - len(whole)} of the {counted(len(images), 'image')} of a batch cannot be read, near "
                f"{self._place(samples[0][0])}: look at what data.image_field holds, and write the shards anew"
            )
        turns = [min((turn for turn in whole if turn >= own), default=whole[0]) for own in range(len(images))]
        labels = [self._label(samples[turn], classes) for turn in turns]
        array = np.stack([image for turn in turns if (image := images[turn]) is not None])
        return torch.from_numpy(array), torch.tensor(labels), torch.tensor([sample[3] for sample in samples])

    def _label(self, sample: tuple, classes: int) -> int:
        """A sample's label.

        Raises:
            ValueError: If it is none.
        """
        number, _, label, _ = sample
        whole = isinstance(label, int | np.integer) or (isinstance(label, Tensor) and label.numel() == 1)
        if not whole or not 0 <= label < classes or int(label) != label:  # NaN is not, either
            shown = f"{label!r}"[:40]
            raise GANError(
                f"{self._place(number)} has the label {shown}, and labels are whole numbers from 0 to {classes - 1}: "
                "set data.num_classes, say by data.label_field which field it is, or write the shards anew"
            )
        return int(label)

    def _place(self, number: int) -> str:
        """Which image is meant, in words."""
        shard = int(self.shards.ends.searchsorted(number, "right"))
        inside = number - int(self.shards.ends[shard] - self.shards.sizes[shard])
        return f"{self.shards.setting}: image {inside:,} of {self.shards.names[shard]} in {self.shards.place}"

    def _made(self, images: Tensor, labels: Tensor, flipped: Tensor) -> tuple[Tensor, Tensor]:
        """A batch on its device."""
        some = torch.add(self._minus_one, images.to(self.device), alpha=SCALE)
        if self.flips:
            some = torch.where(flipped.to(self.device).view(-1, 1, 1, 1), some.flip(-1), some)
        return some, labels.to(self.device)


class StreamDataModule(EpochDataModule):
    """More images than a disk holds, in shards that LitData has written: in folders, or in buckets of a cloud.

    `pip install "gan[stream]"` brings LitData, and `litdata.optimize` writes shards; each sample is a dictionary with
    an image, best as the bytes of its file, and a whole number as its label where there are classes. Each image is
    turned upright by its EXIF, cropped to the middle and resized (Lanczos, antialiased) as it is read.

    The order of the shards, and of the images within each few of them, comes from the seed and the epoch: a run that
    goes on is the same to the bit. Images for validation and tests are shards of their own. Shards of a bucket are kept
    in `$GAN_CACHE/shards` or else `~/.cache/gan/shards` while there is room.

    Args:
        shards: The folder of the shards to train on; or `s3://...`, `gs://...`, `r2://...`, `azure://...`, or
            `local:PATH` for a slow disk, whose shards are then kept as those of a bucket are.
        validation_shards: Those for validation, if there are.
        test_shards: Those for tests, if there are; FID is measured against these.
        num_classes: Labels are from 0 to one less; 1 for images without labels, whose labels are not read.
        image_field: The field of a sample that is its image; `0` and so on where samples are tuples.
        label_field: The field of a sample that is its label.
        size: Height and width to give all images, in pixels.
        channels: 1 for grey, 3 for colour; `null` for what the first image is.
        background: The colour behind what is transparent, as CSS writes it: `white`, `#808080`.
        flips: Whether images are mirrored left to right in every second epoch or so, at random.
        window: Shards of which images are shuffled together; up to twice as many are in memory.
        workers: Threads that decode images, per process.
        cache: Gigabytes of this machine's disk that the shards of a bucket may take.
        batch_size: Training images per process and pass; a batch is one pass unless `model.accumulate` is set.
        seed: Seed of the order of the training images, and of the flips.

    Raises:
        ValueError: If a setting is out of range, LitData is missing, or there are no shards to be had.
    """

    def __init__(
        self,
        shards: str,
        validation_shards: str | None = None,
        test_shards: str | None = None,
        num_classes: int = 1,
        image_field: str = "image",
        label_field: str = "label",
        size: int = 64,
        channels: Literal[1, 3] | None = None,
        background: str = "white",
        flips: bool = False,
        window: int = 4,
        workers: int = 2,
        cache: float = 50,
        batch_size: int = 32,
        seed: int = 42,
    ) -> None:
        super().__init__(batch_size, 0, seed)
        check_made(size, channels, background, null="as the first is")
        for name, number in (("num_classes", num_classes), ("window", window), ("workers", workers)):
            if not number >= 1:
                raise GANError(f"data.{name} must be at least 1, got {number}")
        if not 0 < cache < float("inf"):
            raise GANError(f"data.cache must be a number of gigabytes above 0, got {cache}")
        self.num_classes, self.flips, self.window, self.workers = num_classes, flips, window, workers
        self.fields = Fields(image_field, label_field if num_classes > 1 else None)
        places = {"train": shards, "validation": validation_shards, "test": test_shards}
        settings = {name: "data.shards" if name == "train" else f"data.{name}_shards" for name in places}
        self.subsets = {
            name: Shards(place, settings[name], cache) for name, place in places.items() if place is not None
        }
        train = self.subsets["train"]
        if "validation" in self.subsets:
            self.validation_size = self.subsets["validation"].count
        if channels is None:
            channels = 1 if train.first_mode(self.fields) in ("L", "LA") else 3
        self.image_shape = (channels, size, size)
        self.decoding = Decoding(size, "L" if channels == 1 else "RGB", background, num_classes)

    def prepare_data(self) -> None:
        """Says what there is."""
        train = self.subsets["train"]
        classes = "no classes" if self.num_classes == 1 else counted(self.num_classes, "class", "classes")
        most = min(2 * self.window, len(train.names))
        kept = "" if train.folder is None else f", kept in {train.folder} (at most {train.cache:g} GB, may be removed)"
        say(
            f"data           {counted(train.count, 'image')} and {classes} in {counted(len(train.names), 'shard')}, of "
            f"which up to {most} are in memory ({as_bytes(most * train.bytes // len(train.names))}){kept}"
        )

    def setup(self, stage: str | None = None) -> None:
        """Has Lightning leave validation out where there are no shards for it.

        Args:
            stage: Whichever.
        """
        if self.trainer and self.validation_size == 0:
            self.trainer.limit_val_batches = 0  # Lightning warns of an empty list of loaders

    def _loader(self, subset: str, batch_size: int, **options: Any) -> StreamLoader:
        if subset not in self.subsets:
            raise MisconfigurationException(f"there are no {subset} images: give data.{subset}_shards")
        settings = {"window": self.window, "workers": self.workers, "device": self.device, **self._share()}
        return StreamLoader(self.subsets[subset], self.fields, self.decoding, batch_size, **settings, **options)
