"""Scores of the default's images: what they take, what tracking them costs a run, and torchmetrics' FID beside it."""

import argparse
import tempfile
import time
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from benchmarks.report import spread
from gan import GAN
from gan.callbacks import FIDTracker
from gan.cli import keep_memory
from gan.data import MNISTDataModule
from gan.images import to_uint8
from gan.metrics.feature_cache import extract
from gan.run import run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num", type=int, default=10_000, help="generated images to score")
    parser.add_argument("--rounds", type=int, default=5, help="times to measure that")
    parser.add_argument("--batches", type=int, default=1500, help="training batches before, to find the cost in a run")


def measure(settings: argparse.Namespace) -> None:
    keep_memory()
    timer = ScoreTimer(settings.num, settings.rounds)
    with tempfile.TemporaryDirectory() as folder:
        run(["fit", "--run_dir", f"{folder}/run", "--trainer.max_steps", str(settings.batches)], callbacks=[timer])
    share = timer.tracking / timer.training
    print(f"fid       tracking took {timer.tracking:.2f} of {timer.training:.1f} s: {share:.1%}")
    print(f"fid       {settings.num:,} images, median of {settings.rounds} (least to most)")
    for what, seconds in timer.seconds.items():
        print(f"          {what:52} {spread(seconds, '{:.2f}')} s")


class ScoreTimer(Callback):
    """Times the scores of a run, as it trains and, larger ones, at its end."""

    def __init__(self, num: int, rounds: int):
        self.num, self.rounds = num, rounds
        self.tracking = 0.0
        self.seconds: dict[str, list[float]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        self.tracker = next(callback for callback in callbacks if isinstance(callback, FIDTracker))
        track = self.tracker.track

        def timed(*args: Any) -> None:
            start = time.perf_counter()
            track(*args)
            self.tracking += time.perf_counter() - start

        self.tracker.track = timed  # pyright: ignore[reportAttributeAccessIssue]
        self.since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self.training = time.perf_counter() - self.since
        evaluator = self.tracker.evaluator
        assert evaluator is not None
        ours = theirs = float("nan")
        images = to_uint8(pl_module.sample(self.num, seed=0))
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        real = data.test_dataloader().images
        for _ in range(self.rounds):
            start = time.perf_counter()
            generated = self.tracker.generate(pl_module, self.num, "benchmark")
            assert generated is not None
            ours = generated.fid
            self.note("images, their features and FID", start)
            evaluator.scores(generated)
            self.note("all that, and KID, precision to coverage, classes", start)

            start = time.perf_counter()
            fids = FrechetInceptionDistance(OnLevels(evaluator.extractor), normalize=False)
            for batch in images.split(250):
                fids.update(batch, real=False)
            self.note("torchmetrics: features alone, of images at hand", start)
            for batch in real.split(250):
                fids.update(batch, real=True)
            middle = time.perf_counter()
            theirs = float(fids.compute())
            self.note("torchmetrics: FID from there", middle)
        print(f"fid       ours {ours:.5f}, torchmetrics {theirs:.5f}, of other latents")

    def note(self, what: str, start: float) -> None:
        self.seconds.setdefault(what, []).append(time.perf_counter() - start)


class OnLevels(nn.Module):
    """An extractor for torchmetrics, which passes uint8 images on."""

    def __init__(self, extractor: nn.Module):
        super().__init__()
        self.extractor = extractor
        self.num_features = extractor(torch.zeros(1, *MNISTDataModule.image_shape)).shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return extract(self.extractor, images)
