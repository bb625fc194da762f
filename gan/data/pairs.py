"""Pairs to learn a translation from, made of any images: each with a source that is itself made worse."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from inspect import Parameter, signature

import torch
import torch.nn.functional as F
from torch import Tensor

from gan.data.memory import InMemoryDataModule
from gan.errors import GANError

MID_GREY = 128  # of 255: the level of what is not known
CHUNK = 1000  # images degraded at a time, in floating numbers
OF_BATCHES = {  # settings of the images' own data module that are about its batches, and what there is instead
    "batch_size": "data.batch_size decides",
    "seed": "--seed_everything decides",
}
OF_SPLIT = dict.fromkeys(("validation_size", "validation_share"), "data.validation_size decides")  # where it is given
BATCH_HOOKS = (  # which say what a batch is
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
)


class Degradation(ABC):
    """What makes the source of an image: the image made worse in a way that a generator is to undo.

    What is left to chance is keyed by the image, so that it has the same source in every epoch and every run.
    """

    @abstractmethod
    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Channels, height and width of the sources of images of a shape.

        Raises:
            ValueError: If it cannot be done to such images.
        """

    @abstractmethod
    def degrade(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """The sources of images.

        Args:
            images: uint8 `(N, C, H, W)`.
            keys: A text for each image that no other one has, and that stays its own.

        Returns:
            uint8 `(N, *shape((C, H, W)))`.
        """


class Downsample(Degradation):
    """For super-resolution: fewer pixels, by bicubic interpolation, antialiased, as Pillow's `BICUBIC` resizes.

    Args:
        factor: How many times smaller, which divides height and width: 4 makes 7 x 7 of 28 x 28.

    Raises:
        ValueError: If `factor` is below 2.
    """

    def __init__(self, factor: int = 4) -> None:
        if not factor >= 2:
            raise GANError(f"Downsample's factor must be at least 2, got {factor}")
        self.factor = factor

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Channels, height and width of the small images."""
        channels, height, width = image_shape
        fit = [number for number in range(2, min(height, width) + 1) if height % number == width % number == 0]
        if self.factor not in fit:
            way = f"take one of {', '.join(map(str, fit))}" if fit else "no factor does"
            raise GANError(f"Downsample's factor {self.factor} does not divide {height} x {width} pixels: {way}")
        return channels, height // self.factor, width // self.factor

    def degrade(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """Smaller images."""
        size = self.shape((images.shape[1], images.shape[2], images.shape[3]))[1:]
        small = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
        return small.round().clamp(0, 255).to(torch.uint8)  # the filter goes beyond the ends at an edge


class Mask(Degradation):
    """For inpainting: a square hole in mid grey (level 128 of 255), somewhere in the image, the same for each epoch.

    The source has a channel more than the image, its alpha: 0 in the hole and 255 elsewhere, so that an image file
    with a transparent hole is a source.

    Args:
        size: Height and width of the hole in pixels, at least 1 and smaller than the image.

    Raises:
        ValueError: If `size` is below 1.
    """

    def __init__(self, size: int = 12) -> None:
        if not size >= 1:
            raise GANError(f"Mask's size must be at least 1 pixel, got {size}")
        self.size = size

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Channels with the alpha, height and width."""
        channels, height, width = image_shape
        if self.size >= min(height, width):
            most = min(height, width) - 1
            raise GANError(f"Mask's size {self.size} leaves no edge of {height} x {width} pixels: take {most} at most")
        return channels + 1, height, width

    def degrade(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """Images with a hole, and where it is."""
        height, width = images.shape[2:]
        numbers = [hashlib.sha256(key.encode()).digest() for key in keys]
        top = torch.tensor([int.from_bytes(number[:8], "big") % (height - self.size + 1) for number in numbers])
        left = torch.tensor([int.from_bytes(number[8:16], "big") % (width - self.size + 1) for number in numbers])
        rows, columns = torch.arange(height) - top[:, None], torch.arange(width) - left[:, None]  # (N, H), (N, W)
        in_rows, in_columns = (rows >= 0) & (rows < self.size), (columns >= 0) & (columns < self.size)
        hole = (in_rows[:, None, :, None] & in_columns[:, None, None, :]).to(images.device)  # (N, 1, H, W)
        alpha = torch.full_like(images[:, :1], 255).masked_fill(hole, 0)
        return torch.cat([images.masked_fill(hole, MID_GREY), alpha], 1)


class Grey(Degradation):
    """For colouring: the luma of a colour image, 0.299 R + 0.587 G + 0.114 B, as Pillow's mode `L` has it."""

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """One channel, height and width."""
        channels, height, width = image_shape
        if channels != 3:
            raise GANError(f"Grey takes the colour out of images of 3 channels, and these have {channels}")
        return 1, height, width

    def degrade(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """Grey images."""
        weights = torch.tensor([19595, 38470, 7471], device=images.device).view(1, 3, 1, 1)  # of 65536
        return ((images.int() * weights).sum(1, keepdim=True) + 32768 >> 16).to(torch.uint8)


class DegradedDataModule(InMemoryDataModule):
    """Any images in memory, each with a source that is itself made worse.

    For super-resolution, inpainting, colouring, or a `Degradation` of your own. Image shape, features, flips and how
    many there are to train on are those of the images. Their labels, if they have any, are not used: what an image is
    to be of is its source.

    Args:
        of: The images: any `InMemoryDataModule`.
        degradation: What makes the sources: `Downsample`, `Mask`, `Grey`, or one of your own.
        batch_size: Training pairs per process and batch.
        validation_size: Pairs kept out of training for validation, the same ones for every seed; 0 for none. The images
            that `of` keeps out, if not given.
        seed: Seed of the order of the training pairs.

    Raises:
        ValueError: If a setting is out of range or would do nothing, or the degradation does not suit the images.
    """

    def __init__(
        self,
        of: InMemoryDataModule,
        degradation: Degradation,
        batch_size: int = 32,
        validation_size: int | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__(batch_size, validation_size or 0, seed)
        name = type(self).__name__
        if not isinstance(of, InMemoryDataModule):
            raise GANError(f"{name} takes the images of an InMemoryDataModule, and data.of is a {type(of).__name__}")
        if not isinstance(degradation, Degradation):
            raise GANError(f"data.degradation must be a Degradation, and is a {type(degradation).__name__}")
        of.check_shapes()
        if of.condition_shape is not None:
            raise GANError(f"{name} makes sources, and {type(of).__name__} has its own: give it by itself, as --data")
        for hook in BATCH_HOOKS:
            if getattr(type(of), hook) is not getattr(InMemoryDataModule, hook):
                raise GANError(
                    f"{type(of).__name__} has a {hook} of its own, which {name} would not call: it takes what load "
                    "returns. Do it there, or make the pairs in a module of your own that states condition_shape"
                )
        constructor = signature(type(of)).parameters
        idle = OF_BATCHES if validation_size is None else OF_BATCHES | OF_SPLIT
        for setting, instead in idle.items():
            default = constructor[setting].default if setting in constructor else Parameter.empty
            if default not in (Parameter.empty, getattr(of, setting, default)):
                raise GANError(f"data.of.{setting}={getattr(of, setting)} would do nothing: {instead}. Leave it out")
        if of.num_labels is not None:
            raise GANError(
                f"data.of.labels={of.num_labels} would do nothing: what an image is to be of is its source. Leave it "
                "out"
            )
        self.of = of
        self.as_of = validation_size is None
        self.degradation = degradation
        self.prepare_data_per_node = of.prepare_data_per_node
        self.image_shape = of.image_shape
        self.condition_shape = degradation.shape(of.image_shape)
        self.extractor = of.extractor
        self.flips, self.train_size = of.flips, of.train_size

    def prepare_data(self) -> None:
        """Download or prepare the images, where they need it."""
        self.of.prepare_data()

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        """uint8 images `(N, *image_shape)`, and their sources `(N, *condition_shape)`."""
        self.of.trainer = self.trainer
        images, _ = self.of.load_checked(train)
        if self.as_of:
            self.validation_size = self.of.validation_size
        sources = []
        for first in range(0, len(images), CHUNK):
            part = images[first : first + CHUNK]
            keys = [f"{'train' if train else 'test'} {first + number}" for number in range(len(part))]
            sources.append(self.degradation.degrade(part, keys))
        return images, torch.cat(sources)

    def validation_first(self, num: int) -> Tensor:
        """The order in which the images' own module would keep them out of training."""
        return self.of.validation_first(num)
