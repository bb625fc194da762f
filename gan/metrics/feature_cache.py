"""Features of the real images that generated ones are held against: measured once, and kept on the disk."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from gan.archive import damage
from gan.batch import as_pair
from gan.checkpoints import write
from gan.errors import GANError, counted
from gan.images import to_float, to_uint8
from gan.metrics.features import fingerprint
from gan.paths import cache_folder

CHUNK = 250  # images that go through a network together, whatever the number of processes

# Part of the key of what is kept. Change it with anything that changes the features of the same images.
PREPROCESSING = "256 grey levels as float32 in [-1, 1]"

CACHE_HINT = "Every run measures them anew; set the environment variable GAN_CACHE to a folder that can be written"


def real_features(
    loader: Any,
    extractor: nn.Module,
    limit: int,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Tensor, Tensor]:
    """Features of the images of a data loader, on every process; the processes share the work.

    Those of images in memory are kept in `cache_folder()`, by the images, the extractor and the preprocessing.

    Args:
        loader: A loader of images in memory, see `in_memory`, or a DataLoader over a data set that can be indexed, of
            batches whose first element is images in [-1, 1].
        extractor: Images (N, C, H, W) in [-1, 1] to features (N, D), on `device`.
        limit: How many of the images, chosen at random but always the same ones.
        device: Where features are made.
        say: Is told, before it takes its time, what is measured.

    Returns:
        float32 (N, D) on the device, and the int64 (N,) indices of these images in the data set.

    Raises:
        ValueError: If the loader's data cannot be indexed.
    """
    images, (rank, _) = in_memory(loader), processes()
    total = len(indexed(loader) if images is None else images)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:limit]
    chunks = order.split(CHUNK)
    path = kept = None
    if images is not None and rank == 0:  # on several machines each may have another cache
        folder = cache_folder()
        if folder is None:
            warnings.warn(
                f"cannot keep the features of the real images: this user has no home. {CACHE_HINT}", stacklevel=2
            )
        else:
            path = folder / f"{key(images, extractor, limit, getattr(loader, 'content', None))}.pt"
            (first,) = images_at(loader, chunks[:1])
            kept = recall(path, len(order), extract(extractor, first.to(device)))
    kept = broadcast(kept)
    if kept is not None:
        return kept.to(device), order
    say(f"features       of {counted(len(order), 'real image')}, measured once")
    mine = images_at(loader, [chunks[min(number, len(chunks) - 1)] for number in turns(len(order))])
    found = gather([extract(extractor, part.to(device)) for part in mine], len(order))
    if path is not None:
        keep(path, found)
    return found, order


def in_memory(loader: Any) -> Tensor | None:
    """The images of a loader that has all of them at hand, in an attribute `images`, uint8 (N, C, H, W); else None."""
    images = getattr(loader, "images", None)
    return images if isinstance(images, Tensor) and images.dtype == torch.uint8 and images.ndim == 4 else None


def labels_of(loader: Any, indices: Tensor) -> Tensor | None:
    """The labels int64 (N,) of a loader's images at indices (N,), if it has them at hand as it has the images."""
    labels = getattr(loader, "labels", None)
    if in_memory(loader) is None or not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        return None
    return labels.index_select(0, indices.to(labels.device))


def images_at(loader: Any, chunks: Sequence[Tensor]) -> Iterator[Tensor]:
    """uint8 images (B, C, H, W) of a loader's data, for each chunk of indices (B,)."""
    images = in_memory(loader)
    if images is not None:
        for chunk in chunks:
            yield images.index_select(0, chunk.to(images.device))
        return
    for batch in batches_at(loader, chunks):
        yield to_uint8(as_pair(batch)[0])


def pairs_at(loader: Any, chunk: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 images (B, C, H, W) of a loader's data at indices (B,), and the sources that they are to be made from.

    The sources are float32 (B, C', H', W') in [-1, 1].

    Raises:
        ValueError: If the data has none.
    """
    images, sources = in_memory(loader), getattr(loader, "labels", None)
    if images is not None and isinstance(sources, Tensor) and sources.dtype == torch.uint8 and sources.ndim == 4:
        chunk = chunk.to(images.device)
        return images.index_select(0, chunk), to_float(sources.index_select(0, chunk))
    if images is None:
        (batch,) = batches_at(loader, [chunk])
        images, sources = as_pair(batch)
        if isinstance(sources, Tensor) and sources.is_floating_point() and sources.ndim == 4:
            return to_uint8(images), sources.float()
    raise GANError(
        "FIDTracker makes images from the sources of the test images, and the test data has no images beside its "
        "images: give (images, sources), or leave FIDTracker out"
    )


def batches_at(loader: Any, chunks: Sequence[Tensor]) -> Iterator[Any]:
    """Batches of a DataLoader's data, as it would give them, for each chunk of indices (B,)."""
    batches = [chunk.tolist() for chunk in chunks]
    settings = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn}
    # A generator of its own: a DataLoader draws from the global one even where nothing is left to chance.
    yield from DataLoader(indexed(loader), batch_sampler=batches, generator=torch.Generator(), **settings)


def indexed(loader: Any) -> Any:
    """The data set of a loader.

    Raises:
        ValueError: If its images have no numbers.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        raise GANError(
            f"FIDTracker needs real images by their index, and {type(loader).__name__} has none to give: use a "
            "DataLoader over a data set with a length and __getitem__, or leave FIDTracker out"
        )
    return loader.dataset


def extract(extractor: nn.Module, images: Tensor) -> Tensor:
    """Features (N, D) in float32 of uint8 images (N, C, H, W).

    Raises:
        ValueError: If the extractor gives something else.
    """
    extractor.eval()  # whatever somebody has done to it in the meantime
    with torch.no_grad():
        features = extractor(to_float(images))
    if features.ndim != 2 or len(features) != len(images):
        raise GANError(
            f"FIDTracker's extractor {type(extractor).__name__} must give features (N, D), and gives "
            f"{tuple(features.shape)} for {counted(len(images), 'image')}"
        )
    return features.float()


# ---------------------------------------------------------------------- several processes


def processes() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def broadcast(value: Any) -> Any:
    """The first process's value, on every process."""
    if processes()[1] == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def turns(num: int) -> range:
    """The numbers of the chunks that this process makes of `num` rows: every so many-th.

    All processes make as many, since a network in shards needs all of them in each of its passes. Numbers beyond the
    last chunk are there to fill up the turn, and what is made for them is of no use.
    """
    rank, world_size = processes()
    rounds = -(-num // (CHUNK * world_size))
    return range(rank, rounds * world_size, world_size)


def gather(made: Iterable[Tensor], num: int) -> Tensor:
    """The chunks (at most CHUNK, ...) that all processes have made in their `turns`, in order: (num, ...)."""
    mine = torch.cat([torch.cat([chunk, chunk.new_zeros(CHUNK - len(chunk), *chunk.shape[1:])]) for chunk in made])
    _, world_size = processes()
    if world_size == 1:
        return mine[:num]
    shares = [torch.empty_like(mine) for _ in range(world_size)]
    dist.all_gather(shares, mine)
    by_turn = torch.stack(shares).unflatten(1, (-1, CHUNK)).transpose(0, 1)  # (turns, processes, CHUNK, ...)
    return by_turn.flatten(0, 2)[:num]


# ---------------------------------------------------------------------- on the disk


def key(images: Tensor, extractor: nn.Module, limit: int, content: str | None = None) -> str:
    """The name that features are kept under: by the images, the extractor and how images come to it.

    `content` tells the images from all others, where somebody knows that without going through them.
    """
    known = images.cpu().contiguous().numpy().data if content is None else content.encode()
    digest = hashlib.blake2b(known, digest_size=16)
    digest.update(repr((tuple(images.shape), fingerprint(extractor), limit, PREPROCESSING)).encode())
    return digest.hexdigest()


def recall(path: Path, num: int, first: Tensor) -> Tensor | None:
    """What was kept at `path`; None if nothing was, or what is kept is of no use: it will be measured again.

    `first` are the features of the first images as they are now: the fingerprint of an extractor is of its weights, and
    its code may have changed.
    """
    try:
        with path.open("rb") as file:
            damaged = damage(file)
        if damaged is None:
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
    """Writes features to be recalled, whole or not at all; a disk that does not take them is a warning."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")  # two runs may start together
    try:
        write({"features": features.cpu()}, partial)
        os.replace(partial, path)
    except OSError as error:
        warnings.warn(
            f"cannot keep the features of the real images: {error}. {CACHE_HINT}",
            stacklevel=2,
        )
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
