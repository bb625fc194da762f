"""Two processes of one thread each: what the exchange of gradients costs in each way, and how the real command scales.

The first compares hand-written loops that reduce flat, by DDP's wrappers and not at all; the second runs `fit` on one
process, on two at once that know nothing of each other, and on two that train together.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from statistics import harmonic_mean, median

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.bare_loop import bare_loop
from benchmarks.report import ratios, spread
from gan.cli import keep_memory
from gan.data import MNISTDataModule
from gan.networks import DCGANDiscriminator, DCGANGenerator
from gan.parallel.ddp import all_reduce


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base_channels", type=int, nargs="*", default=[32, 128], help="sizes of the networks")
    parser.add_argument("--rounds", type=int, default=20, help="times to measure each way to reduce")
    parser.add_argument("--batch_size", type=int, nargs="*", default=[64, 128], help="of a process in the real command")
    parser.add_argument("--runs", type=int, default=3, help="times to run the real command in each way")
    parser.add_argument("--images", type=int, default=40_000, help="training images of one process in one run")


def measure(settings: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for base_channels in settings.base_channels:
            arguments = (base_channels, settings.rounds, f"{folder}/{base_channels}")
            spawn(compare_reductions, arguments, nprocs=2)

        for batch_size in settings.batch_size:
            rates = {way: [] for way in FITS}
            for number in range(settings.runs):
                for way, (runs, devices) in FITS.items():
                    run_dir = Path(folder, f"{batch_size} {number} {way}")
                    rates[way].append(fit_rate(run_dir, runs, devices, batch_size, settings.images // batch_size))
            print(f"ddp       fit, batches of {batch_size} images in each process")
            for way, values in rates.items():
                print(f"          {way:16} {spread(values, '{:,.0f}')} images/s")
            alone, at_once, together = rates.values()
            print(f"          scaling {spread(ratios(together, alone))}", end="")
            print(f"; of two runs at once {spread(ratios(at_once, alone))}")
            print(f"          share of communication {1 - median(ratios(together, at_once)):.1%}")


FITS = {"one process": (1, 1), "two runs at once": (2, 1), "two processes": (1, 2)}  # runs, and devices of each


def fit_rate(folder: Path, runs: int, devices: int, batch_size: int, batches: int) -> float:
    """Images per second of the real command, summed over runs at once, one thread a process, after 50 batches."""
    folders = [folder / str(number) for number in range(runs)]
    fit = [sys.executable, "-m", "gan.cli", "fit", "--trainer.accelerator", "cpu", "--trainer.devices", str(devices)]
    fit += ["--data.batch_size", str(batch_size), "--trainer.max_steps", str(batches), "--run_dir"]
    settings = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL}
    processes = [subprocess.Popen([*fit, str(run_dir)], **settings) for run_dir in folders]
    statuses = [process.wait() for process in processes]
    if any(statuses):
        sys.exit("a run has failed")
    rates = []
    for run_dir in folders:
        with (run_dir / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rates.append([float(row["images_per_second"]) for row in csv.DictReader(file) if row["images_per_second"]])
    return sum(harmonic_mean(of_run[1:]) for of_run in rates)


def compare_reductions(rank: int, base_channels: int, rounds: int, store: str) -> None:
    """One of two processes: bare loops that reduce flat, by DDP's wrappers, and not at all, in turn."""
    keep_memory()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    shape = MNISTDataModule.image_shape
    networks = DCGANGenerator(shape, 16, base_channels), DCGANDiscriminator(shape, base_channels)
    data = MNISTDataModule(batch_size=64, seed=rank)
    ways = {"flat": {"reduce": average_gradients}, "wrapped": {"wrap": in_ddp}, "none": {}}

    copies = {way: deepcopy(networks) for way in ways}
    loops = {way: bare_loop(*copies[way], data, one_pass=True, **ways[way]) for way in ways}
    for loop in loops.values():
        torch.manual_seed(1 + rank)
        time_batches(loop, 32)
    weights = {way: flat(nn.ModuleList(copies[way]).parameters()) for way in ways}
    torch.testing.assert_close(weights["flat"], weights["wrapped"], rtol=1e-5, atol=1e-6)
    of_rank_0 = weights["flat"].clone()
    dist.broadcast(of_rank_0, src=0)
    assert torch.equal(weights["flat"], of_rank_0), "the processes have drifted apart"
    assert not torch.equal(weights["flat"], weights["none"]), "nothing was exchanged"

    times = {way: [] for way in ways}
    for _ in range(rounds):
        for way, loop in loops.items():
            times[way].append(1e3 * time_batches(loop, 16) / 16)  # the penalty comes every 16th
    if rank == 0:
        sizes = " + ".join(f"{sum(p.numel() for p in network.parameters()) * 4e-6:.2f}" for network in networks)
        print(f"ddp       base_channels {base_channels}, gradients of {sizes} MB (G + D)")
        for way in ways:
            print(f"          {way:8} {median(times[way]):7.2f} ms a batch", end="")
            print(f", {spread(ratios(times[way], times['none']))} of none", end="")
            print(f", {spread(ratios(times[way], times['flat']))} of flat")
    dist.destroy_process_group()


def time_batches(loop: Iterator[Tensor], batches: int) -> float:
    """Seconds until both processes have done so many."""
    dist.barrier()
    start = time.perf_counter()
    for _ in range(batches):
        next(loop)
    dist.barrier()
    return time.perf_counter() - start


def average_gradients(network: nn.Module) -> None:
    """All gradients over all processes, in one exchange."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    sums = flat(gradients)
    all_reduce(sums)
    sums /= dist.get_world_size()
    means = sums.split([gradient.numel() for gradient in gradients])
    shaped = [mean.view_as(gradient) for mean, gradient in zip(means, gradients, strict=True)]
    torch._foreach_copy_(gradients, shaped)  # pyright: ignore[reportPrivateImportUsage] # no public name


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def in_ddp(network: nn.Module) -> nn.Module:
    """The network in a wrapper that exchanges its gradients while the backward goes on."""
    warnings.filterwarnings("ignore", ".*`broadcast_buffers` is deprecated")  # its successor is newer than torch 2.7
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view")  # those of the 512 weights of one layer
    return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
