"""The real images that generated ones are held against: their features, measured once and kept on the disk."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from gan.callbacks.run_progress import say
from gan.checkpoints import damaged_record, write
from gan.data.memory import InMemoryLoader
from gan.images import to_float, to_uint8
from gan.metrics import fingerprint

CHUNK = 250  # images that go through a network together, whatever the number of processes

# Part of the key of what is kept. Change it with anything that changes the features of the same images.
PREPROCESSING = "256 grey levels as float32 in [-1, 1]"


def real_features(trainer: Trainer, loader: Any, extractor: nn.Module, limit: int) -> tuple[Tensor, Tensor]:
    """Features of the images of a data loader, on every process.

    Those of an in-memory loader are kept in `cache_folder()`, by the images, the extractor and the preprocessing.

    Args:
        trainer: Whose processes share the work.
        loader: An `InMemoryLoader`, or a DataLoader over a data set that can be indexed, of batches whose first
            element is images in [-1, 1].
        extractor: On the trainer's device.
        limit: How many of the images, chosen at random but always the same ones.

    Returns:
        float32 (N, D) on the trainer's device, and the int64 (N,) indices of these images in the data set.

    Raises:
        ValueError: if the loader's data cannot be indexed.
    """
    total = len(loader.images) if isinstance(loader, InMemoryLoader) else len(indexed(loader))
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:limit]
    chunks, device = order.split(CHUNK), trainer.strategy.root_device
    path = kept = None
    if isinstance(loader, InMemoryLoader) and trainer.is_global_zero:  # on several machines each may have another cache
        path = cache_folder() / f"{key(loader.images, extractor, limit)}.pt"
        (first,) = images_at(loader, chunks[:1])
        kept = recall(path, len(order), extract(extractor, first.to(device)))
    kept = trainer.strategy.broadcast(kept)
    if kept is not None:
        return kept.to(device), order
    say(trainer, f"features       of {len(order):,} real images, measured once")
    mine = images_at(loader, [chunks[min(number, len(chunks) - 1)] for number in turns(trainer, len(order))])
    found = gather(trainer, [extract(extractor, images.to(device)) for images in mine], len(order))
    if path is not None:
        keep(path, found)
    return found, order


def images_at(loader: Any, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
    """uint8 images (B, C, H, W) of a loader's data, for each chunk of indices (B,)."""
    if isinstance(loader, InMemoryLoader):
        for chunk in chunks:
            yield loader.images.index_select(0, chunk.to(loader.images.device))
        return
    batches = [chunk.tolist() for chunk in chunks]
    settings = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn}
    # A generator of its own: a DataLoader draws from the global one even where nothing is left to chance.
    for batch in DataLoader(indexed(loader), batch_sampler=batches, generator=torch.Generator(), **settings):
        yield to_uint8(batch[0])


def indexed(loader: Any) -> Any:
    """The data set of a loader.

    Raises:
        ValueError: if its images have no numbers.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            f"FIDTracker needs real images by their index, and {type(loader).__name__} has none to give: use a "
            "DataLoader over a data set with a length and __getitem__, or leave FIDTracker out"
        )
    return loader.dataset


def extract(extractor: nn.Module, images: Tensor) -> Tensor:
    """Features (N, D) in float32 of uint8 images (N, C, H, W).

    Raises:
        ValueError: if the extractor gives something else.
    """
    extractor.eval()  # whatever somebody has done to it in the meantime
    with torch.no_grad():
        features = extractor(to_float(images))
    if features.ndim != 2 or len(features) != len(images):
        raise ValueError(
            f"FIDTracker's extractor {type(extractor).__name__} must give features (N, D), and gives "
            f"{tuple(features.shape)} for {len(images)} images"
        )
    return features.float()


# ---------------------------------------------------------------------- several processes


def turns(trainer: Trainer, num: int) -> range:
    """The numbers of the chunks that this process makes of `num` rows: every so many-th.

    All processes make as many, since a network in shards needs all of them in each of its passes. Numbers beyond the
    last chunk are there to fill up the turn, and what is made for them is of no use.
    """
    rounds = -(-num // (CHUNK * trainer.world_size))
    return range(trainer.global_rank, rounds * trainer.world_size, trainer.world_size)


def share(trainer: Trainer, num: int) -> int:
    """How many of `num` rows this process makes; they come first in what it makes."""
    return sum(min(CHUNK, max(0, num - number * CHUNK)) for number in turns(trainer, num))


def gather(trainer: Trainer, made: Iterable[Tensor], num: int) -> Tensor:
    """The chunks (at most CHUNK, ...) that all processes have made in their `turns`, in order: (num, ...)."""
    mine = torch.cat([torch.cat([one, one.new_zeros(CHUNK - len(one), *one.shape[1:])]) for one in made])
    if trainer.world_size == 1:
        return mine[:num]
    shares = [torch.empty_like(mine) for _ in range(trainer.world_size)]
    dist.all_gather(shares, mine)  # Lightning's calls a deprecated function
    by_turn = torch.stack(shares).unflatten(1, (-1, CHUNK)).transpose(0, 1)  # (turns, processes, CHUNK, ...)
    return by_turn.flatten(0, 2)[:num]


# ---------------------------------------------------------------------- on the disk


def cache_folder() -> Path:
    """Where features of real images are kept: $GAN_CACHE, or `gan` in the user's cache folder."""
    if own := os.environ.get("GAN_CACHE"):
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache") / "gan"


def key(images: Tensor, extractor: nn.Module, limit: int) -> str:
    digest = hashlib.blake2b(images.cpu().contiguous().numpy(), digest_size=16)
    digest.update(repr((tuple(images.shape), fingerprint(extractor), limit, PREPROCESSING)).encode())
    return digest.hexdigest()


def recall(path: Path, num: int, first: Tensor) -> Tensor | None:
    """What was kept at `path`; None if nothing was, or what is kept is of no use: it will be measured again.

    `first` are the features of the first images as they are now: the fingerprint of an extractor is of its weights, and
    its code may have changed.
    """
    try:
        if damaged_record(path) is None:
            features = torch.load(path, map_location="cpu", weights_only=True)["features"]
            then, now = features[: len(first)], first.cpu()
            same = len(features) == num and then.shape == now.shape
            return features if same and torch.allclose(then, now, rtol=1e-2, atol=1e-3 * float(now.std())) else None
    except OSError:
        return None
    except Exception:  # a damaged file can raise anything
        pass
    warnings.warn(f"{path} is damaged: the features of the real images are measured again", stacklevel=2)
    return None


def keep(path: Path, features: Tensor) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")  # two runs may start together
    try:
        write({"features": features.cpu()}, partial)
        os.replace(partial, path)
    except OSError as error:
        warnings.warn(
            f"cannot keep the features of the real images: {error}. Every run measures them anew; "
            "set the environment variable GAN_CACHE to a folder that can be written",
            stacklevel=2,
        )
