"""What those who watch the gradients add to the default run: the time in their hooks over the time outside of them."""

import argparse
import tempfile
import time
from typing import Any

from lightning import Callback, Trainer

from gan import GAN
from gan.callbacks import GradientDoctor, GradientMonitor, NonFiniteGuard
from gan.cli import keep_memory
from gan.run import run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batches", type=int, default=2000, help="training batches")
    parser.add_argument("fit", nargs="*", help="arguments of `fit`, after a --")


def measure(settings: argparse.Namespace) -> None:
    hooks = TimedHooks()
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        fit = ["fit", "--run_dir", f"{folder}/run", "--trainer.max_steps", str(settings.batches), *settings.fit]
        run(fit, callbacks=[hooks])
    outside = hooks.whole - sum(hooks.seconds.values())
    print(f"monitor   {settings.batches} batches of {1e3 * outside / settings.batches:.1f} ms without them")
    for name, seconds in hooks.seconds.items():
        print(f"monitor   {name:<15} {seconds / outside:.2%} of training time")


class TimedHooks(Callback):
    """Takes the time in the training hooks of GradientMonitor, GradientDoctor and NonFiniteGuard, and of the run."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: GAN) -> None:
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, GradientMonitor | GradientDoctor | NonFiniteGuard):
                for hook in ("batch_start", "batch_end"):
                    self.time(callback, f"on_train_{hook}")
                for hook in ("on_before_backward", "on_after_backward", "on_before_optimizer_step"):
                    self.time(callback, hook)

    def time(self, callback: Callback, hook: str) -> None:
        name, method = type(callback).__name__, getattr(callback, hook)
        self.seconds[name] = 0.0

        def timed(*args: Any) -> None:
            before = time.perf_counter()
            method(*args)
            self.seconds[name] += time.perf_counter() - before

        setattr(callback, hook, timed)

    def on_train_start(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.whole = time.perf_counter() - self.start
