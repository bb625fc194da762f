"""Real images of a stream: its first ones, drawn once and held in memory, so that scores have them by their numbers."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from warnings import warn

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from gan.batch import as_pair, described
from gan.errors import GANError
from gan.images import to_uint8
from gan.metrics.feature_cache import broadcast, in_memory, processes

STREAMED = 10_000  # images that are drawn, at most


@dataclass
class Drawn:
    """Images of a stream as a loader of images in memory has them."""

    images: Tensor  # uint8 (N, C, H, W)
    labels: Tensor | None  # int64 (N,); or sources, uint8 (N, C', H', W')
    rule: str  # which these are, in words


def drawn(loader: Any, say: Callable[[str], None] = lambda text: None, split: str = "test") -> Any:
    """A loader whose images have numbers: itself, or its first `STREAMED` images where it is a stream.

    The first process draws them, and all have them: in memory, 123 MB of 10,000 in colour of 64 x 64. A loader that has
    a method `first` gives by it the images that are the same for all runs. Any other is copied before it is read, so
    that nothing which it keeps moves on; one that cannot be copied moves on, which is a warning.

    Args:
        loader: Of batches of images in [-1, 1], with their labels or sources or alone.
        say: Is told, before it takes its time, what is drawn.
        split: Of which data they are, in that line.

    Raises:
        ValueError: If it gives something else; what the loader raises, as well.
    """
    if in_memory(loader) is not None or not is_stream(loader):
        return loader
    name = type(loader).__name__
    say(f"real images    the first of the {split} data, {STREAMED:,} at most, drawn once by {name}")
    found = error = None
    if processes()[0] == 0:
        try:
            found = take(loader)
        except Exception as reason:  # all processes must hear of it
            error = reason
    found, why = broadcast((found, None if error is None else str(error)))
    if error is not None:
        raise error
    if found is None:
        raise GANError(f"real images cannot be drawn: {why}")
    images, labels, is_all = found
    return Drawn(images, labels, f"{'all' if is_all else 'the first'} that {name} gives")


def is_stream(loader: Any) -> bool:
    """Whether a loader gives batches one after the other and no image by its number."""
    if isinstance(loader, DataLoader):
        return isinstance(loader.dataset, IterableDataset)
    collection = isinstance(loader, Mapping | list | tuple | str)
    return isinstance(loader, Iterable) and not collection and not hasattr(loader, "iterables")  # a CombinedLoader


def take(loader: Any) -> tuple[Tensor, Tensor | None, bool]:
    """The first images, their labels or sources, and whether there are no more."""
    images, conditions, count = [], [], 0
    for batch in first_batches(loader):
        some, condition = as_pair(batch)
        if not isinstance(some, Tensor) or some.ndim != 4:
            raise GANError(
                f"FIDTracker needs batches of images (N, C, H, W), and {type(loader).__name__} gives {described(batch)}"
            )
        images.append(to_uint8(some.cpu()))
        conditions.append(kept(condition, len(some)))
        count += len(some)
        if count > STREAMED:
            break
    if not images:
        raise GANError(f"FIDTracker needs real images, and {type(loader).__name__} gives none")
    whole = [condition for condition in conditions if condition is not None]
    labels = torch.cat(whole)[:STREAMED] if len(whole) == len(images) else None
    return torch.cat(images)[:STREAMED], labels, count <= STREAMED


def first_batches(loader: Any) -> Iterable[Any]:
    """Batches from the first on, with which training does not find less."""
    if callable(getattr(loader, "first", None)):
        return loader.first(STREAMED + 1)
    try:
        return deepcopy(loader)
    except Exception as error:  # of what cannot be copied Python raises anything
        warn(
            f"FIDTracker draws real images from {type(loader).__name__} itself, since it cannot be copied ({error}): "
            "if it keeps its place, training begins behind them",
            stacklevel=2,
        )
        return loader


def kept(condition: Any, num: int) -> Tensor | None:
    """What `num` images are of, as loaders in memory have it; None of what they have not."""
    if not isinstance(condition, Tensor) or condition.shape[:1] != (num,):
        return None
    if condition.ndim == 4 and condition.is_floating_point():
        return to_uint8(condition.cpu())
    return condition.cpu() if condition.ndim == 1 and condition.dtype == torch.int64 else None
