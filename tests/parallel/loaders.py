"""Trains with loaders of a user's own on two processes, and goes on from the middle and the end of an epoch.

`python loaders.py FOLDER CASE...` writes what each process has seen. Not a test itself: `test_loader.py` starts it.
"""

import os
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from lightning import Trainer
from test_loader import EXACT, SHAPE, SIX, TENSORS, Drawn, OnwardsSaved, of_torch, stateful, step, train
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler

from gan.parallel import DDP


class OfProcess(OnwardsSaved):
    """Each process has its own place."""

    def __init__(self):
        self.place = 100 * int(os.environ.get("LOCAL_RANK", 0))


class Noise(IterableDataset):
    def __iter__(self):
        return ((torch.randn(SHAPE).clamp(-1, 1), 0) for _ in range(12))


CASES = {
    "shuffle": EXACT["shuffle"],
    "augmented": lambda: DataLoader(Drawn(of_torch), shuffle=True, **SIX),
    "workers": lambda: DataLoader(Drawn(of_torch), shuffle=True, num_workers=1, **SIX),
    "own sampler": lambda: DataLoader(TENSORS, sampler=SubsetRandomSampler(range(26)), **SIX),
    "stream": lambda: DataLoader(Noise(), batch_size=4),
    "stateful": lambda: stateful(TENSORS, shuffle=True, **SIX),
    "stateful of each process": lambda: stateful(OfProcess(), batch_size=4),
}
FROM = 4, 6


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    make = partial(Trainer, accelerator="cpu", devices=2, **quiet)
    results = {}
    for name in names or CASES:
        runs = [train(make, CASES[name], folder / name, strategy=DDP(), max_steps=8)]
        for moment in FROM:
            path, rest = step(folder / name, moment), folder / f"{name} {moment}"
            runs.append(train(make, CASES[name], rest, path, moment, strategy=DDP(), max_steps=8))
        results[name] = [(gan.state_dict(), torch.stack(seen)) for gan, seen in runs]
    torch.save(results, folder / f"{dist.get_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
