"""Training images of MNIST per second that leave the loader normalised, in one thread."""

import argparse
import time

import torch

from benchmarks.report import spread
from gan.data import MNISTDataModule
from gan.data.epochs import EpochLoader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 256], help="images per batch")
    parser.add_argument("--epochs", type=int, default=5, help="epochs to measure, after one to warm up")


def measure(settings: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    for batch_size in settings.batch_sizes:
        loader = MNISTDataModule(batch_size).train_dataloader()
        time_epoch(loader)
        rates = [len(loader) * batch_size / time_epoch(loader) for _ in range(settings.epochs)]
        print(f"data      batch {batch_size:4}: {spread(rates, '{:,.0f}')} images/s, {settings.epochs} epochs")


def time_epoch(loader: EpochLoader) -> float:
    """Seconds that one epoch takes."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start
