"""Threads that take work by the piece, where torch would share each small operation among all of them."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 16  # threads, each with its own block in memory


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], device: torch.device) -> list[Result]:
    """`[function(item) for item in items]`, on a CPU in as many threads at once as torch uses, each alone on its item.

    An operation that lasts a tenth of a millisecond takes longer to share than to do: over blocks that fit a core's
    cache, two threads of torch's own took more than twice the time of one. And as nothing is shared, results do not
    depend on the number of threads.

    Args:
        function: Is called in inference mode, whatever the caller's.
        items: What it is called with.
        device: Where it works.
    """

    def call(item: Item) -> Result:
        with torch.inference_mode():  # the caller's mode does not reach into threads
            return function(item)

    threads = torch.get_num_threads()
    if threads == 1 or device.type != "cpu":
        return [call(item) for item in items]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(threads, MOST)) as pool:
            return list(pool.map(call, items))
    finally:
        torch.set_num_threads(threads)
