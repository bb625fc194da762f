"""A training step of the default, all its callbacks at work, against hand-written loops on copies of its networks.

The three take turns, each for so many batches, so that the machine's moods hit all alike. One loop judges real and
generated images in one pass and one in two; the one to hold the run against is that which judges as the run does.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from lightning import Callback, Trainer

from benchmarks.bare_loop import bare_loop
from benchmarks.report import ratios, spread
from gan import GAN
from gan.cli import keep_memory
from gan.run import run

LOOPS = {"loop of one pass": True, "loop of two passes": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=12, help="turns to measure, after one to warm up")
    parser.add_argument("--batches", type=int, default=250, help="training batches of each in a turn")
    parser.add_argument("fit", nargs="*", help="arguments of `fit`, after a --: the run alone gets them")


def measure(settings: argparse.Namespace) -> None:
    turns = Turns(settings.batches)
    batches = settings.batches * (settings.rounds + 1)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        fit = ["fit", "--run_dir", f"{folder}/run", "--trainer.max_steps", str(batches), *settings.fit]
        run(fit, callbacks=[turns])
    seconds = {who: turns.seconds[who][1:] for who in turns.seconds}
    for who, of_turns in seconds.items():
        print(f"step      {who:18} {spread((1e3 * turn / settings.batches for turn in of_turns), '{:.2f}')} ms")
    for loop in LOOPS:
        print(f"step      run against {loop:18} {spread(ratios(seconds['run'], seconds[loop]))}")


class Turns(Callback):
    """Stops the run every so many batches to let each hand-written loop do as many."""

    def __init__(self, batches: int):
        self.batches = batches
        self.seconds: dict[str, list[float]] = {who: [] for who in ("run", *LOOPS)}

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

        def loop(one_pass: bool) -> Iterator[None]:
            networks = deepcopy(pl_module.generator), deepcopy(pl_module.discriminator)
            return bare_loop(*networks, data, one_pass)

        self.loops = {who: loop(one_pass) for who, one_pass in LOOPS.items()}
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step % self.batches:
            return
        self.note("run")
        self.loops = dict(reversed(self.loops.items()))  # neither is always the first
        for who, loop in self.loops.items():
            for _ in range(self.batches):
                next(loop)
            self.note(who)

    def note(self, who: str) -> None:
        now = time.perf_counter()
        self.seconds[who].append(now - self.since)
        self.since = now
