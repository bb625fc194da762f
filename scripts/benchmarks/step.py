"""A training step of the default, all its callbacks at work, against hand-written loops on copies of its networks.

The loops take turns with the run, each for a few batches, so that the machine's moods hit all alike: where its speed
drifts within a minute, longer turns tell of the machine. A figure is of a round of many turns, which has a share of all
that comes every so many batches. The first two loops train, and do nothing else: one judges real and generated images
in one pass, one in two, as the run does. The third does all the arithmetic of the run, called directly: it trains as
the second, keeps the generator's average, looks at each gradient for infinity and NaN, and as often as the run's
callbacks do it measures the gradients, makes the fixed images and scores. Against it stands what a run costs beyond its
arithmetic: Lightning, hooks, logs, pictures, files.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn

from benchmarks.bare_loop import bare_loop
from benchmarks.report import ratios, spread
from gan import GAN
from gan.callbacks import FIDTracker, GradientMonitor, ImageLogger
from gan.callbacks.generator_ema import average, tensors
from gan.cli import keep_memory
from gan.gradients import measure as measure_gradients
from gan.metrics.feature_cache import CHUNK
from gan.order import callbacks_of
from gan.run import run

LOOPS = ("one pass", "two passes", "all arithmetic")
TURN = 25  # batches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=12, help="rounds to measure, after one to warm up")
    parser.add_argument(
        "--batches", type=int, default=250, help=f"training batches of each in a round, in turns of {TURN} or less"
    )
    parser.add_argument("fit", nargs="*", help="arguments of `fit`, after a --: the run alone gets them")


def measure(settings: argparse.Namespace) -> None:
    turns = Turns(settings.batches)
    batches = settings.batches * (settings.rounds + 1)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        fit = ["fit", "--run_dir", f"{folder}/run", "--trainer.max_steps", str(batches), *settings.fit]
        run(fit, callbacks=[turns])
    seconds = {who: turns.seconds[who][1:] for who in turns.seconds}
    for who, of_rounds in seconds.items():
        print(f"step      {who:14} {spread((1e3 * round_ / settings.batches for round_ in of_rounds), '{:.2f}')} ms")
    for loop in LOOPS:
        print(f"step      run against loop of {loop:14} {spread(ratios(seconds['run'], seconds[loop]))}")


class Turns(Callback):
    """Stops the run every few batches to let each hand-written loop do as many.

    Args:
        batches: Training batches of a round.
    """

    def __init__(self, batches: int):
        self.batches = batches
        self.turn = math.gcd(batches, TURN)
        self.seconds: dict[str, list[float]] = {who: [0.0] for who in ("run", *LOOPS)}  # of each round

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

        def copies() -> tuple[nn.Module, nn.Module]:
            return deepcopy(pl_module.generator), deepcopy(pl_module.discriminator)

        self.loops = {
            "one pass": bare_loop(*copies(), data, one_pass=True),
            "two passes": bare_loop(*copies(), data, one_pass=False),
            "all arithmetic": all_arithmetic(*copies(), trainer, pl_module),
        }
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step % self.turn:
            return
        self.note("run")
        self.loops = dict(reversed(self.loops.items()))  # neither is always the first
        for who, loop in self.loops.items():
            for _ in range(self.turn):
                next(loop)
            self.note(who)
        if trainer.global_step % self.batches == 0 and trainer.global_step < trainer.max_steps:
            for of_rounds in self.seconds.values():
                of_rounds.append(0.0)

    def note(self, who: str) -> None:
        now = time.perf_counter()
        self.seconds[who][-1] += now - self.since
        self.since = now


def all_arithmetic(
    generator: nn.Module, discriminator: nn.Module, trainer: Trainer, pl_module: GAN
) -> Iterator[Tensor]:
    """The loop that does all the arithmetic of a run's training and callbacks."""
    mean = deepcopy(generator)
    weights = tensors(mean), tensors(generator)
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    monitors, loggers = callbacks_of(trainer, GradientMonitor), callbacks_of(trainer, ImageLogger)
    trackers = callbacks_of(trainer, FIDTracker)
    penalties = [(penalty, None) for penalty in pl_module.penalties]
    loop = bare_loop(generator, discriminator, data, one_pass=False, reduce=check_finite)
    for step, real in enumerate(loop, start=1):
        average(*weights, decay=0.99)
        for monitor in monitors:
            if step % monitor.every == 0:
                images = real[: monitor.images]
                mix = torch.rand(len(images), 1, 1, 1)
                latents = pl_module.latents(len(images), pl_module.rng("benchmark"))
                measure_gradients(generator, discriminator, pl_module.loss, images, latents, mix, penalties)
        for logger in loggers:
            if step % logger.every == 0:
                draw(mean, pl_module.fixed_latents)
        for tracker in trackers:
            if tracker.active and step % tracker.every == 0:
                latents = pl_module.latents(CHUNK, pl_module.rng("benchmark"))
                tracker.evaluator.scores(
                    tracker.evaluator.generate(lambda number, z=latents: draw(mean, z), tracker.num_samples)
                )
        yield real


def check_finite(network: nn.Module) -> None:
    """Ends the loop at a gradient that is not finite."""
    sums = [parameter.grad.sum() for parameter in network.parameters() if parameter.grad is not None]
    if not math.isfinite(torch.stack(sums).sum()):
        raise ArithmeticError("the loop's gradient is not finite")


@torch.no_grad()
def draw(network: nn.Module, latents: Tensor) -> Tensor:
    """Images (N, C, H, W), in evaluation mode."""
    return network.eval()(latents)
