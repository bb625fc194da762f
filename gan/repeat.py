"""Whether a loader gives its batches again: what it draws from, its state, and a digest of what it gave."""

import hashlib
import io
import pickle
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, SequentialSampler

Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random


def has_state(loader: Any) -> bool:
    """Whether a loader can say where it is, and be put there."""
    return all(callable(getattr(type(loader), name, None)) for name in ("state_dict", "load_state_dict"))


def can_load(loader: Any, state: Any) -> bool:
    """Whether a loader's state puts it where it was, no matter what was drawn up to there."""
    if not has_state(loader) or state is None:
        return False
    if not isinstance(loader, DataLoader):
        return True
    if isinstance(loader.dataset, IterableDataset):  # which torchdata would read past, too
        return bool(state) and hasattr(loader.dataset, "state_dict")
    samplers = loader.batch_sampler, getattr(loader.batch_sampler, "sampler", loader.sampler)
    return bool(state) and all(map(keeps_place, samplers))


def keeps_place(sampler: Any) -> bool:
    """Whether torchdata puts a sampler where it was without having it draw again."""
    drawless = sampler is None or type(sampler) in (SequentialSampler, DistributedSampler, BatchSampler)
    return drawless or has_state(sampler) or type(sampler).__module__.startswith("torchdata.")


def goes_on(loader: Any) -> bool:
    """Whether an epoch of a loader that has a state begins where the one before has ended, and not anew."""
    if not isinstance(loader, DataLoader):
        return True
    return isinstance(loader.dataset, IterableDataset) and (loader.num_workers == 0 or loader.persistent_workers)


def doubts(loaders: Sequence[Any], epoch: int, done: int, by_state: bool) -> Iterator[str]:
    """What keeps a run that goes on from being the same bit for bit."""
    for loader in loaders:
        if not isinstance(loader, DataLoader) or loader.num_workers == 0:
            continue
        if not getattr(loader, "in_order", True):
            yield "where workers are not in order (in_order)"
        if loader.persistent_workers and epoch:
            yield "where its workers draw random numbers: they carry theirs over epochs (persistent_workers)"
        elif by_state and done:
            yield "where its workers draw random numbers: theirs begin anew, while its loader goes on by its state"


# The last is where Lightning puts a sampler that it shares out over processes.
PARTS = ("sampler", "batch_sampler", "dataset", "datasets", "transform", "transforms", "_sampler")


def parts(thing: Any, seen: dict[int, Any] | None = None) -> Iterator[Any]:
    """A loader, and what it is made of that may draw: its samplers, data sets and transforms, each once."""
    seen = {} if seen is None else seen
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    yield thing
    for name, value in vars_of(thing).items():
        if name in PARTS:
            several = name.endswith("s") and isinstance(value, list | tuple)
            for part in value if several else [value]:
                yield from parts(part, seen)


def vars_of(thing: Any) -> dict[str, Any]:
    """The attributes of an object that are its own."""
    return getattr(thing, "__dict__", {})


def generators_of(things: Iterable[Any]) -> list[Generator]:
    """The generators that some objects keep as attributes, each once."""
    values = (value for thing in things for value in vars_of(thing).values())
    return list({id(value): value for value in values if isinstance(value, Generator)}.values())


def seed_of(generator: Generator) -> int:
    """A number that stands for the seed that somebody has given a generator."""
    match generator:
        case torch.Generator():
            return generator.initial_seed()
        case random.Random():
            state: Any = generator.getstate()
        case np.random.Generator():
            state = generator.bit_generator.state
        case np.random.RandomState():
            state = generator.get_state()
    return int.from_bytes(hashlib.blake2b(repr(state).encode(), digest_size=8).digest())


def reseed(generator: Generator, seed: int) -> None:
    """Seeds a generator of any kind, in its place."""
    match generator:
        case torch.Generator():
            generator.manual_seed(seed)
        case random.Random():
            generator.seed(seed)
        case np.random.RandomState():
            generator.seed(seed % 2**32)
        case np.random.Generator():
            generator.bit_generator.state = type(generator.bit_generator)(seed).state


def digest(batch: Any) -> str:
    """A digest of the tensors, arrays and words of a batch."""
    result = hashlib.blake2b(digest_size=8)
    for leaf in tree_leaves(batch):
        match leaf:
            case Tensor():
                result.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            case np.ndarray() | np.generic():
                result.update(leaf.tobytes())
            case str() | int() | float():
                result.update(repr(leaf).encode())
    return result.hexdigest()


def loadable(state: Any) -> Any:
    """A state as a checkpoint will give it back; None where it would not."""
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        buffer.seek(0)
        return torch.load(buffer, weights_only=True)
    except (pickle.PickleError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        rank_zero_warn(f"the state of the data loader is no plain data, and is not saved: {reason}")
        return None
