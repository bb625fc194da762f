"""How the cost of training grows, what share of the processor's rate it reaches, and whether memory stays flat.

A step is one of the hand-written loop over a DCGAN of as many channels in both networks, without the penalty, which
comes every 16th. The processor's rate is that of large products, measured here in the same threads; that of memory, of
a copy.
No layer can be faster than the lesser of the two allows (Williams et al. 2009, the roofline).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bare_loop import bare_loop
from benchmarks.ddp import FITS, fit_rate
from benchmarks.report import resident
from benchmarks.sizes import pair
from gan import GAN
from gan.cli import keep_memory
from gan.lab.figures import BLUE, COLOURS, STYLE, VERMILION, key, panels
from gan.run import run

BATCH_SIZE, SIZE, CHANNELS = 64, 28, 32  # where another one grows; the default's, but for its discriminator's 16
GROWN = {"batch size": "images of a batch", "pixels": "pixels of an image", "channels": "channels of both networks"}
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[8, 16, 32, 64, 128, 256], help="images")
    parser.add_argument("--sizes", type=int, nargs="*", default=[16, 28, 64, 128], help="pixels, square")
    parser.add_argument("--channels", type=int, nargs="*", default=[8, 16, 32, 64, 128], help="widths of the networks")
    parser.add_argument("--steps", type=int, default=8, help="measured of each, after one to warm up; 15 at most")
    parser.add_argument("--rounds", type=int, default=3, help="of measurements; a figure is the median")
    parser.add_argument("--batches", type=int, default=1500, help="of the runs whose memory is looked at; 0 for none")
    parser.add_argument("--train_sizes", type=int, nargs="*", default=[1000, 55_000], help="images they train on")
    parser.add_argument("--ddp", type=int, default=0, help="images of runs on one process and on two; 0 for none")
    parser.add_argument("--plot", type=Path, help="file for a figure, .png or .svg")


class Cost(NamedTuple):
    """What a step costs: milliseconds of the process, and operations, two to a multiply-add."""

    ms: float
    operations: float


def measure(settings: argparse.Namespace) -> None:
    if not 1 <= settings.steps <= 15:
        sys.exit(f"scale: --steps must be 1 to 15, before the next one that has the penalty, got {settings.steps}")
    keep_memory()
    rates = {"float32": matrix_rate(torch.float32), "bfloat16": matrix_rate(torch.bfloat16)}
    bandwidth = copy_rate()
    print(f"scale     matrices {rates['float32'] / 1e9:.0f} Gflop/s in float32, ", end="")
    print(f"{rates['bfloat16'] / 1e9:.0f} in bfloat16; memory {bandwidth / 1e9:.1f} GB/s")
    grown = {
        "batch size": {size: (size, SIZE, CHANNELS) for size in settings.batch_sizes},
        "pixels": {size * size: (BATCH_SIZE, size, CHANNELS) for size in settings.sizes},
        "channels": {channels: (BATCH_SIZE, SIZE, channels) for channels in settings.channels},
    }
    curves: dict[str, dict[str, dict[float, Cost]]] = {}  # of each precision, what grows, and how far it has grown
    for precision, rate in rates.items():
        for what, cases in grown.items():
            steps, rounds = settings.steps, settings.rounds
            costs = {x: step_cost(case, precision, steps, rounds) for x, case in cases.items()}
            curves.setdefault(precision, {})[what] = costs
            for x, cost in costs.items():
                share = cost.operations / (cost.ms / 1e3) / rate
                print(f"scale     {precision:8} {what:10} {x:6,}  {cost.ms:8.1f} ms  {share:.0%} of its rate")
    for line in roofline(rates["float32"], bandwidth):
        print(line)
    memory = {size: memory_of_run(settings.batches, size) for size in settings.train_sizes if settings.batches}
    for size, seen in memory.items():
        told = ", ".join(f"{megabytes:,.0f} MB at batch {step:,}" for step, megabytes in seen.items())
        print(f"scale     memory of a run on {size:,} images: {told}")
    if settings.ddp:
        with tempfile.TemporaryDirectory() as folder:
            for batch_size in settings.batch_sizes:
                ways = {way: FITS[way] for way in ("one process", "two processes")}
                rates = [
                    fit_rate(Path(folder, f"{batch_size} {way}"), *how, batch_size, settings.ddp // batch_size)
                    for way, how in ways.items()
                ]
                told = "{:,.0f} by one process, {:,.0f} by two".format(*rates)
                print(f"scale     batches of {batch_size:3} in each process, images/s: {told}")
    if settings.plot is not None:
        draw(curves, memory).savefig(settings.plot, dpi=100)


# ---------------------------------------------------------------------- rates


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations per second of what is fastest here of a large product of matrices and a convolution of many channels.

    They come from two libraries, of which either may know a processor better.
    """
    one = torch.randn(1024, 1024, dtype=dtype)
    kernel, images = torch.randn(256, 256, 3, 3, dtype=dtype), torch.randn(16, 256, 16, 16, dtype=dtype)
    works = {2 * 1024**3: lambda: one @ one, 2 * 16 * 16**2 * 9 * 256**2: lambda: conv2d(images, kernel, padding=1)}
    return max(operations / best_seconds(work) for operations, work in works.items())


def copy_rate(numbers: int = 1 << 26) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.zeros(numbers)
    target = torch.zeros_like(source)
    return 2 * 4 * numbers / best_seconds(lambda: target.copy_(source))


def best_seconds(work: Callable[[], object], times: int = 20) -> float:
    """The least time of the process that a piece of work takes, over its threads."""
    took = []
    for _ in range(times):
        start = time.process_time()
        work()
        took.append((time.process_time() - start) / torch.get_num_threads())
    return min(took)


# ---------------------------------------------------------------------- a step


def step_cost(case: tuple[int, int, int], precision: str, steps: int, rounds: int) -> Cost:
    """The median of some rounds of steps after the first, which has the penalty; in the time of this process."""
    batch_size, size, channels = case
    torch.manual_seed(0)
    shape = (1, size, size)
    images = torch.rand(batch_size, *shape) * 2 - 1

    def loader() -> Iterator[tuple[Tensor, None]]:
        while True:
            yield images, None

    def loop() -> Iterator[Tensor]:
        return bare_loop(*pair("DCGAN", shape, channels), SimpleNamespace(train_dataloader=loader), one_pass=False)

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        times = [time_steps(loop(), steps) for _ in range(rounds)]
        counted = loop()
        next(counted)
        with FlopCounterMode(display=False) as counter:
            next(counted)
    return Cost(median(times), counter.get_total_flops())


def time_steps(loop: Iterator[Tensor], steps: int) -> float:
    """Milliseconds of the process for a step after the first."""
    next(loop)
    start = time.process_time()
    for _ in range(steps):
        next(loop)
    return 1e3 * (time.process_time() - start) / steps / torch.get_num_threads()


def roofline(rate: float, bandwidth: float) -> Iterator[str]:
    """A line for each layer, forward in float32: what it reaches, beside the most that it can."""
    generator, discriminator = pair("DCGAN", (1, SIZE, SIZE), CHANNELS)
    inputs = torch.randn(BATCH_SIZE, generator.latent_dim), torch.randn(BATCH_SIZE, 1, SIZE, SIZE)  # pyright: ignore[reportCallIssue, reportArgumentType] # an int
    for who, network, given in zip(("generator", "discriminator"), (generator, discriminator), inputs, strict=True):
        for name, layer, x in layers_of(network, given):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                y = layer(x)
            numbers = x.numel() + y.numel() + sum(parameter.numel() for parameter in layer.parameters())
            operations = counter.get_total_flops()
            reached = operations / time_forward(layer, x)
            most = min(rate, bandwidth * operations / (4 * numbers))
            told = f"{operations / 1e6:5.0f} Mflop  {operations / (4 * numbers):5.1f} a byte"
            speed = f"{reached / 1e9:6.1f} Gflop/s of {most / 1e9:6.1f}: {reached / most:.0%}"
            yield f"scale     {who + ' ' + name:22}  {told}  {speed}"


def layers_of(network: nn.Module, given: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """The layers of a network that multiply matrices, each with its name and what comes in."""
    found: list[tuple[str, nn.Module, Tensor]] = []
    names: dict[nn.Module, str] = {layer: name for name, layer in network.named_modules() if isinstance(layer, LAYERS)}

    def note(layer: nn.Module, x: tuple[Tensor]) -> None:
        found.append((names[layer], layer, x[0].detach()))

    hooks = [layer.register_forward_pre_hook(note) for layer in names]
    with torch.no_grad():
        network(given)
    for hook in hooks:
        hook.remove()
    return found


def time_forward(layer: nn.Module, x: Tensor) -> float:
    """Seconds of a forward."""
    with torch.no_grad():
        return best_seconds(lambda: [layer(x) for _ in range(10)]) / 10


# ---------------------------------------------------------------------- memory


class Memory(Callback):
    """Notes the memory of the process, in MB, eight times in a run: resident, as the system has it (Linux)."""

    def __init__(self, every: int):
        self.every = every
        self.seen: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.seen[trainer.global_step] = resident()


def memory_of_run(batches: int, train_size: int) -> dict[int, float]:
    """The memory of a run of the default, with all its callbacks, by its batches."""
    memory = Memory(max(batches // 8, 1))
    with tempfile.TemporaryDirectory() as folder:
        fit = ["--run_dir", f"{folder}/run", "--trainer.max_steps", str(batches), "--data.train_size", str(train_size)]
        run(["fit", *fit], callbacks=[memory])
    return memory.seen


# ---------------------------------------------------------------------- the figure


def draw(curves: dict[str, dict[str, dict[float, Cost]]], memory: dict[int, dict[int, float]]) -> Any:
    """The figure: a step against what grows, and the memory of runs over their batches, where that was measured."""
    from matplotlib import rc_context
    from matplotlib.ticker import LogLocator

    with rc_context(STYLE):
        figure, axes = panels(1, 4 if memory else 3, height=3.2)
        for axis, what in zip(axes, GROWN, strict=False):
            for (precision, of_precision), colour in zip(curves.items(), (BLUE, VERMILION), strict=True):
                costs = of_precision[what]
                axis.plot([*costs], [cost.ms for cost in costs.values()], "o-", ms=3, color=colour, label=precision)
            axis.set(xscale="log", yscale="log", xlabel=GROWN[what])
            grown = [*curves["float32"][what]]
            axis.set_xticks(grown, labels=[f"{x:,}" for x in grown])
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
        axes[0].set_title("ms a step")
        key(axes[0], dict(zip(curves, (BLUE, VERMILION), strict=True)))
        for (size, seen), colour in zip(memory.items(), COLOURS[2:], strict=False):
            axes[3].plot([*seen], [*seen.values()], color=colour, label=f"{size:,} images")
        if memory:
            axes[3].set(
                ylim=(0, 1.5 * max(max(seen.values()) for seen in memory.values())),
                xlabel="batches",
                title="MB of memory",
            )
            key(axes[3], {f"{size:,} images": colour for size, colour in zip(memory, COLOURS[2:], strict=False)})
    return figure
