"""Images that a data module of one's own gives in another range, brought to [-1, 1]."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lightning import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader

from gan.data.epochs import EpochLoader
from gan.errors import GANError

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
HOOK = "on_after_batch_transfer"


class Rescaled(LightningDataModule):
    """A data module whose images lie in [low, high], with its images in [-1, 1]; all else is as it was.

    What is made is that very module. Where it has an `on_after_batch_transfer` of its own, what this makes of a batch
    is rescaled, and scores see images as the loaders give them. Otherwise the batches of its loaders are: images alone,
    (images, labels), or (images, sources), both of which are rescaled; integers become float32.

    Args:
        data: The module.
        low: The value of its images that is black.
        high: The value that is white: 1 of torchvision's ToTensor, 255 of bytes.
        seed: Of the order of its training images, if it has a `seed`.

    Raises:
        ValueError: If `high` is not above `low`, or the images are in [-1, 1] already.
    """

    def __new__(cls, data: LightningDataModule, low: float = 0, high: float = 1, seed: int = 42) -> Any:
        if not low < high:
            raise GANError(f"Rescaled's high must be above its low, got low={low} and high={high}")
        if (low, high) == (-1, 1):
            raise GANError("Rescaled's low=-1 and high=1 say that the images need none: leave it out")
        if hasattr(data, "seed"):
            setattr(data, "seed", seed)  # noqa: B010  which a LightningDataModule need not have
        rescale = partial(rescaled_batch, low=low, high=high)
        if is_overridden(HOOK, data):
            setattr(data, HOOK, partial(after, getattr(data, HOOK), rescale))
            return data
        for name in LOADERS:
            if is_overridden(name, data):
                setattr(data, name, partial(loaders, getattr(data, name), rescale))
        return data

    def __init__(self, data: LightningDataModule, low: float = 0, high: float = 1, seed: int = 42) -> None:
        """Never called: see `__new__`. The command line reads its arguments here."""


def after(hook: Callable[..., Any], rescale: Callable[[Any], Any], batch: Any, dataloader_idx: int) -> Any:
    """A module's hook, and what is done to its batch then."""
    return rescale(hook(batch, dataloader_idx))


def loaders(make: Callable[[], Any], rescale: Callable[[Any], Any]) -> Any:
    """What a module gives for its loaders, one or a collection of them, whose batches are rescaled."""
    return each(make(), rescale)


def each(made: Any, rescale: Callable[[Any], Any]) -> Any:
    """A loader, or each in a collection of them, with batches that are rescaled."""
    match made:
        case CombinedLoader():
            made.flattened = [mended(loader, rescale) for loader in made.flattened]
            return made
        case dict():
            return {name: each(loader, rescale) for name, loader in made.items()}
        case list() | tuple():
            return type(made)(each(loader, rescale) for loader in made)
    return mended(made, rescale)


def mended(loader: Any, rescale: Callable[[Any], Any]) -> Any:
    """A loader whose batches are rescaled, as often as it is given."""
    if isinstance(loader, EpochLoader):
        raise GANError(
            f"Rescaled is for images in another range, and {type(loader).__name__} gives them in [-1, 1]: leave it out"
        )
    if not isinstance(loader, DataLoader):
        return loader if isinstance(loader, Mended) else Mended(loader, rescale)
    if not isinstance(loader.collate_fn, Collate):
        loader.collate_fn = Collate(loader.collate_fn, rescale)
    return loader


class Collate:
    """What puts a batch together, and rescales it, in the workers where there are some.

    Args:
        collate: What does so without.
        rescale: What is done to the batch.
    """

    def __init__(self, collate: Callable[[Any], Any], rescale: Callable[[Any], Any]) -> None:
        self.collate, self.rescale = collate, rescale

    def __call__(self, samples: Any) -> Any:
        return self.rescale(self.collate(samples))


class Mended:
    """A loader of one's own, whose batches are rescaled. All else is that loader's.

    Args:
        loader: The loader.
        rescale: What is done to a batch.
    """

    def __init__(self, loader: Any, rescale: Callable[[Any], Any]) -> None:
        self.loader, self.rescale = loader, rescale

    def __iter__(self) -> Iterator[Any]:
        return map(self.rescale, self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name in ("loader", "rescale"):  # not yet, as copies ask
            raise AttributeError(name)
        return getattr(self.loader, name)


def rescaled_batch(batch: Any, low: float, high: float) -> Any:
    """A batch with its images, and sources if it has some, brought from [low, high] to [-1, 1]."""
    if isinstance(batch, Tensor):
        return rescaled(batch, low, high)
    if isinstance(batch, tuple | list):
        return type(batch)(rescaled(item, low, high) for item in batch)
    return batch


def rescaled(values: Any, low: float, high: float) -> Any:
    """Images (N, C, H, W) brought from [low, high] to [-1, 1]; whatever else as it is."""
    if not isinstance(values, Tensor) or values.ndim != 4:
        return values
    values = values if values.is_floating_point() else values.float()
    return (values - low) * (2 / (high - low)) - 1
