"""Small data sets in shards, as `litdata.optimize` writes them, without the processes that it starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pictures import content


def write(folder: Path, samples: Sequence[Any], each: int = 10) -> Path:
    """Shards with `each` of some samples."""
    from litdata.streaming import Cache

    folder.mkdir(parents=True)
    cache = Cache(str(folder), chunk_size=each)
    for number, sample in enumerate(samples):
        cache[number] = sample
    cache.done()
    cache.merge()
    return folder


def samples(count: int, classes: int = 3, first: int = 0, **settings) -> list[dict[str, Any]]:
    """Images unlike all others, the label of each told by its number."""
    numbers = range(first, first + count)
    return [{"image": content(number, **settings), "label": number % classes} for number in numbers]
