"""A folder, a ZIP archive or a tar of images as a data set, whatever their sizes and formats."""

import hashlib
import os
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from gan.data.image_cache import (
    HEAD,
    PREPROCESSING,
    Kept,
    Settings,
    as_bytes,
    check_damage,
    make,
    recall,
    say,
    told_left_out,
)
from gan.data.memory import FewLabelsLoader, InMemoryDataModule, InMemoryLoader
from gan.data.reading import check_made, read_mode
from gan.data.sources import Sources, shown, told
from gan.errors import GANError, counted
from gan.paths import local_path

UNNAMED = ("unlabelled", "unlabeled", "unsupervised", "unsup")  # folders that may be meant for images without a class
SHARE = 0.5  # of what is free on a GPU, which the images of one subset may take


class MappedLoader(InMemoryLoader):
    """Batches as `InMemoryLoader` makes them, of images that stay in their file.

    What it takes of the memory does not grow with their number: a batch is read where the order says, while the system
    has the next one brought from the disk.

    Args:
        images: uint8 `(N, C, H, W)`, mapped from the file; for who wants one of them without a batch.
        labels: int64 `(N,)`.
        batch_size: Images per process and batch.
        path: The file, in which the images follow each other.
        start: The byte at which the first of them begins.
        device: Where batches are made.
        **options: Those of `InMemoryLoader`.

    Raises:
        ValueError: If the file is no more, or an option is out of range.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        path: Path,
        start: int,
        device: torch.device,
        **options: Any,
    ) -> None:
        super().__init__(images, labels, batch_size, **options)
        self._minus_one = self._minus_one.to(device)
        self._start = start
        self._bytes = images[0].nbytes
        try:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise GANError(
                f"the cache of images {path} is no more: start the run again, which makes it anew"
            ) from error
        weakref.finalize(self, os.close, self._file)

    def _gather(self, images: Tensor, index: Tensor) -> Tensor:
        if not hasattr(os, "preadv"):  # Windows
            return images.index_select(0, index).to(self._minus_one.device)
        some = torch.empty(len(index), *images.shape[1:], dtype=torch.uint8)
        for row, number in zip(some.numpy(), index.tolist(), strict=True):
            if os.preadv(self._file, [row], self._start + number * self._bytes) != self._bytes:
                raise GANError("the cache of images has been cut off: start the run again, which makes it anew")
        return some.to(self._minus_one.device)

    def _announce(self, index: Tensor) -> None:
        if hasattr(os, "posix_fadvise"):  # Linux
            for number in index.tolist():
                os.posix_fadvise(self._file, self._start + number * self._bytes, self._bytes, os.POSIX_FADV_WILLNEED)


class FewLabelsMappedLoader(FewLabelsLoader, MappedLoader):
    """Of images that stay in their file, few with a label: an epoch's order is `FewLabelsLoader`'s."""


class ImageFolder(InMemoryDataModule):
    """Images of one's own, of any sizes and formats: a folder, a ZIP archive or a tar that is not compressed.

    Where all of them lie in folders, two at least, these are their classes. Each is turned upright by its EXIF, cropped
    to the middle and resized (Lanczos, antialiased), once: what comes of it is kept in one file, of which a line tells,
    in `$GAN_CACHE/images` or else `~/.cache/gan/images`. All runs with the same files and settings share it, and
    removing it is safe. Of an animation the first frame is read.

    The images for validation and for tests are chosen by a hash of each file's content. They stay what they are when
    files are added, and copies of a file come to the same side.

    On a GPU the images are held in its memory if they take at most half of what is free there. Otherwise, and on the
    CPU, batches are read from that file. They are the same.

    Args:
        folder: The path of the folder, ZIP or tar.
        size: Height and width to give all images, in pixels.
        channels: 1 for grey, 3 for colour; `null` for grey if all files say that they are, which WebP cannot.
        background: The colour behind what is transparent, as CSS writes it: `white`, `#808080`.
        flips: Whether images are mirrored left to right in every second epoch or so, at random.
        validation_share: Share of the images kept out of training for validation, from 0.
        test_share: Share of the images kept out of training for tests, from 0; FID is measured against these.
        max_damaged: Share of the files that may be left out because they cannot be read; more are an error.
        batch_size: Training images per process and pass; a batch is one pass unless `model.accumulate` is set.
        seed: Seed of the order of the training images, and of the flips.
        labels: Images to train on that keep their label, as many of each class, drawn by the seed; all others are told
            as -1, and every fourth image of a batch is one of these. All keep theirs if not given.

    Raises:
        ValueError: If a setting is out of range, there are no images to be had, or an archive is made to do harm.
    """

    def __init__(
        self,
        folder: str,
        size: int = 64,
        channels: Literal[1, 3] | None = None,
        background: str = "white",
        flips: bool = False,
        validation_share: float = 0.05,
        test_share: float = 0.1,
        max_damaged: float = 0.1,
        batch_size: int = 32,
        seed: int = 42,
        labels: int | None = None,
    ) -> None:
        super().__init__(batch_size, 0, seed, labels=labels)
        check_made(size, channels, background, null="as the files are")
        shares = {"validation_share": validation_share, "test_share": test_share, "max_damaged": max_damaged}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise GANError(f"data.{name} must be from 0 to below 1, got {share}")
        if validation_share + test_share >= 1:
            raise GANError(
                f"data.validation_share={validation_share} and data.test_share={test_share} leave nothing to train on"
            )
        self.folder = str(local_path(folder, "data.folder"))
        self.size, self.channels, self.background, self.flips = size, channels, background, flips
        self.validation_share, self.test_share, self.max_damaged = validation_share, test_share, max_damaged
        self.settings = Settings(size, channels, background)
        self.sources = Sources(Path(self.folder).absolute())
        self.kept: Kept | None = recall(self.sources, self.settings)
        channels_now = channels or (channels_of(self.sources) if self.kept is None else self.kept.images.shape[1])
        self.image_shape = (channels_now, size, size)
        self.class_names = self.sources.classes and [*map(shown, self.sources.classes)]
        self.num_classes = len(self.class_names or [None])
        if labels is not None and self.sources.why_none:
            raise GANError(
                f"data.labels={labels} is for images with classes, and there are none, since {self.sources.why_none} "
                f"of {shown(self.folder)}: put each into the folder of its class or take it away; images that have no "
                "label come by a loader of your own, with the label -1"
            )

    def prepare_data(self) -> None:
        """Reads the images, if no run has, and says what has been left out."""
        if self.kept is None:
            self.kept = make(self.sources, self.settings, self.image_shape[0], self.max_damaged)
        kept, total = self.kept, len(self.sources.files)
        check_damage(kept.left_out, total, self.max_damaged, self.sources)
        if kept.left_out:
            say(f"left out       {told_left_out(kept.left_out, total)}")
        if self.sources.others:
            say(f"left out       {self.sources.told_of_others()}")
        if unnamed := [name for name in self.class_names or () if name.lower() in UNNAMED]:
            rank_zero_warn(
                f"data.folder has a folder {told(unnamed)}, which is a class as any other: take it away if its images "
                "have no label; such come by a loader of your own, with the label -1"
            )
        classes = f"no classes ({self.sources.why_none})" if self.sources.why_none else "no classes"
        if self.class_names is not None:
            classes = f"{counted(self.num_classes, 'class', 'classes')} ({told(self.class_names, 10)})"
        say(
            f"data           {counted(len(kept.images), 'image')} and {classes}, kept in {kept.path} "
            f"({as_bytes(kept.path.stat().st_size)}, may be removed)"
        )

    def made(self) -> Kept:
        """The images, read now if nobody has."""
        if self.kept is None:
            self.kept = recall(self.sources, self.settings)  # on another process of this machine
        if self.kept is None:
            self.prepare_data()
        assert self.kept is not None
        return self.kept

    def bounds(self) -> dict[str, slice]:
        """Which of the images belong to which subset."""
        hashes = self.made().hashes
        ends = [self.validation_share * 2.0**63, (1 - self.test_share) * 2.0**63]
        validation, test = (int((hashes.double() < end).sum()) for end in ends)
        return {"validation": slice(0, validation), "train": slice(validation, test), "test": slice(test, len(hashes))}

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """uint8 images `(N, *image_shape)` and int64 labels `(N,)`; of the training set those for validation first."""
        kept, bounds = self.made(), self.bounds()
        self.validation_size = bounds["validation"].stop
        part = slice(0, bounds["train"].stop) if train else bounds["test"]
        return kept.images[part], kept.labels[part]

    def setup(self, stage: str | None = None) -> None:
        """Makes the subsets, once, in the memory of the trainer's GPU where they fit, and in their file elsewhere.

        Args:
            stage: "test" for the test set, which may be missing in all others.
        """
        kept, bounds = self.made(), self.bounds()
        self.validation_size = bounds["validation"].stop
        for name, part in bounds.items():
            count, wanted = part.stop - part.start, name == "train" or getattr(self, f"{name}_share") > 0
            if count == 0 and (name == "train" or (name == "test" and stage == "test")):
                raise GANError(
                    f"data.folder {shown(self.folder)} has {counted(len(kept.images), 'image')}, and none for "
                    f"{'training' if name == 'train' else 'tests'}, which goes by a hash of each: "
                    + ("lower" if name == "train" else "raise data.test_share, lower")
                    + " data.validation_share, or take more images"
                )
            if count == 0 and wanted and name == "validation" and "validation" not in self._subsets:
                rank_zero_warn(
                    f"data.validation_share={self.validation_share:g} of {counted(len(kept.images), 'image')} is none, "
                    "by a hash of each: there will be no validation"
                )
            if name == "train" and name not in self._subsets:
                self._warn_of_classes_without(kept.labels[part])
            if name not in self._subsets:
                labels = kept.labels[part]
                if name == "train" and self.num_labels is not None:
                    labels = self.with_few(labels, self.num_labels)
                self._subsets[name] = kept.images[part], labels
        if self.trainer and self.validation_size == 0:
            self.trainer.limit_val_batches = 0  # Lightning warns of an empty list of loaders
        device = self.device
        for name, (images, labels) in self._subsets.items():
            if images.device != device and fits(images, device):
                self._subsets[name] = images.to(device), labels.to(device)

    def _warn_of_classes_without(self, labels: Tensor) -> None:
        """Of classes that have no image among those to train on, which a hash of each chooses."""
        counts = labels.bincount(minlength=self.num_classes).tolist()
        if none := [name for name, count in zip(self.class_names or (), counts, strict=False) if count == 0]:
            rank_zero_warn(
                f"of {counted(len(none), 'class', 'classes')} no image is left to train on ({told(none, 10)}), so "
                "networks that are told the class learn nothing of these: take more images of each, or lower "
                "data.validation_share and data.test_share"
            )

    def class_named(self, number: int) -> str:
        """What errors call a class: its folder."""
        return f"class {(self.class_names or [])[number]}"

    def validation_first(self, num: int) -> Tensor:
        """The order in which `load` gives the images."""
        return torch.arange(num)

    def _loader(self, subset: str, batch_size: int, **options: Any) -> InMemoryLoader:
        loader = super()._loader(subset, batch_size, **options)
        what = repr((PREPROCESSING, self.image_shape, self.background)).encode()
        hashes = self.made().hashes[self.bounds()[subset]].numpy().tobytes()
        loader.content = hashlib.blake2b(what + hashes, digest_size=16).hexdigest()
        return loader

    def _loader_class(self, subset: str) -> Callable[..., InMemoryLoader]:
        kept, few = self.made(), subset == "train" and self.num_labels is not None
        if self._subsets[subset][0].device != kept.images.device:
            return super()._loader_class(subset)
        start = HEAD + self.bounds()[subset].start * kept.images[0].nbytes
        return partial(FewLabelsMappedLoader if few else MappedLoader, path=kept.path, start=start, device=self.device)


def channels_of(sources: Sources) -> Literal[1, 3]:
    """1 if all files are grey, 3 otherwise."""
    for file in sources.files:
        try:
            with sources.open(file) as content:
                if read_mode(content).startswith("RGB"):
                    return 3
        except Exception:  # a damaged file, which is left out later
            continue
    return 1


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether images are to be held in the memory of a device."""
    return device.type == "cuda" and images.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]
