"""Measures the speed of this project: `python scripts/benchmark.py data|step`.

Prints the machine and the versions first: a figure means nothing without them.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback, Trainer
from torch import nn
from torch.nn.functional import softplus

from gan import GAN
from gan.cli import keep_memory
from gan.data import InMemoryLoader, MNISTDataModule
from gan.run import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(title="what to measure", required=True)

    command = commands.add_parser("data", help="training images of MNIST per second, on one CPU core")
    command.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 256], help="images per batch")
    command.add_argument("--epochs", type=int, default=5, help="epochs to measure, after one to warm up")
    command.set_defaults(run=benchmark_data)

    command = commands.add_parser("step", help="a training step of the default against a hand-written loop")
    command.add_argument("--rounds", type=int, default=12, help="pairs to measure, after one to warm up")
    command.add_argument("--batches", type=int, default=250, help="training batches of each side in a pair")
    command.add_argument("fit", nargs="*", help="arguments of `fit`, after a --: the two sides then differ by them")
    command.set_defaults(run=benchmark_step)

    args = parser.parse_args()
    print(f"machine   {processor()}, {platform.system()} {platform.machine()}")
    print(f"versions  Python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"lightning {lightning.__version__}")
    args.run(args)


def benchmark_data(args: argparse.Namespace) -> None:
    """Normalised images per second that leave the loader, in one thread."""
    torch.set_num_threads(1)
    for batch_size in args.batch_sizes:
        loader = MNISTDataModule(batch_size).train_dataloader()
        time_epoch(loader)
        rates = [len(loader) * batch_size / time_epoch(loader) for _ in range(args.epochs)]
        print(f"data      batch {batch_size:4}: {statistics.median(rates):11,.0f} images/s ", end="")
        print(f"({min(rates):,.0f} to {max(rates):,.0f} over {args.epochs} epochs)")


def benchmark_step(args: argparse.Namespace) -> None:
    """The default run, all its callbacks at work, and the bare loop in turn: the machine's moods hit both alike."""
    pairs = Pairs(args.batches)
    batches = args.batches * (args.rounds + 1)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        run(["fit", "--run_dir", f"{folder}/run", "--trainer.max_steps", str(batches), *args.fit], callbacks=[pairs])
    ratios = []
    for ours, bare in pairs.seconds[1:]:
        ratios.append(ours / bare)
        print(f"step      {1e3 * ours / args.batches:6.2f} ms, bare loop {1e3 * bare / args.batches:6.2f} ms", end="")
        print(f", ratio {ratios[-1]:.3f}")
    print(f"step      median ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


class Pairs(Callback):
    """Stops the run every so many batches to let a hand-written loop do as many, on copies of its networks."""

    def __init__(self, batches: int):
        self.batches = batches
        self.seconds: list[tuple[float, float]] = []  # of the run, of the bare loop

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        self.bare = bare_loop(deepcopy(pl_module.generator), deepcopy(pl_module.discriminator), trainer.datamodule)
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, *args: Any) -> None:
        if trainer.global_step % self.batches == 0:
            middle = time.perf_counter()
            for _ in range(self.batches):
                next(self.bare)
            end = time.perf_counter()
            self.seconds.append((middle - self.since, end - middle))
            self.since = time.perf_counter()


def bare_loop(generator: nn.Module, discriminator: nn.Module, data: MNISTDataModule) -> Iterator[None]:
    """The default's arithmetic in two passes, as one writes it: no Lightning, no logging, no average, no schedule."""
    settings = {"lr": 1e-4, "betas": (0.5, 0.99), "fused": True}
    of_generator = torch.optim.Adam(generator.parameters(), **settings)
    of_discriminator = torch.optim.Adam(discriminator.parameters(), **settings)
    step = 0
    while True:
        for real, _ in data.train_dataloader():
            with torch.no_grad():
                fake = generator(torch.randn(len(real), generator.latent_dim))
            loss = (softplus(-discriminator(real)) + softplus(discriminator(fake))).mean()
            if step % 16 == 0:
                x = real.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
                loss = loss + gradient.square().sum((1, 2, 3)).mean()
            of_discriminator.zero_grad()
            loss.backward()
            of_discriminator.step()

            discriminator.requires_grad_(False)
            loss = softplus(-discriminator(generator(torch.randn(len(real), generator.latent_dim)))).mean()
            of_generator.zero_grad()
            loss.backward()
            of_generator.step()
            discriminator.requires_grad_(True)
            step += 1
            yield


def time_epoch(loader: InMemoryLoader) -> float:
    """Seconds that one epoch takes."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start


def processor() -> str:
    """The processor's name, where Linux tells it, and its threads."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
