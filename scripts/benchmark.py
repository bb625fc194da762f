"""Measures this project: `python scripts/benchmark.py data|step|monitor|ddp|fid|recipes`.

Prints the machine and the versions first: a figure means nothing without them.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from operator import truediv
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning import Callback, Trainer
from torch import nn
from torch.nn.functional import softplus
from torch.nn.parallel import DistributedDataParallel
from torchmetrics.image.fid import FrechetInceptionDistance

from gan import GAN
from gan.callbacks import FIDTracker, GradientDoctor, GradientMonitor, NonFiniteGuard
from gan.cli import keep_memory
from gan.data import InMemoryLoader, MNISTDataModule
from gan.generate import generate
from gan.images import to_uint8
from gan.metrics.feature_cache import extract
from gan.networks import DCGANDiscriminator, DCGANGenerator
from gan.parallel.ddp import all_reduce
from gan.run import CONFIGS, run


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

    command = commands.add_parser("monitor", help="what those who watch the gradients add to the default run's time")
    command.add_argument("--batches", type=int, default=2000, help="training batches")
    command.add_argument("fit", nargs="*", help="arguments of `fit`, after a --")
    command.set_defaults(run=benchmark_monitor)

    command = commands.add_parser("ddp", help="two processes of one thread each: how they reduce, and how they scale")
    command.add_argument("--base_channels", type=int, nargs="+", default=[32, 128], help="sizes of the networks")
    command.add_argument("--rounds", type=int, default=20, help="times to measure each way to reduce")
    command.add_argument(
        "--batch_size", type=int, nargs="+", default=[64, 128], help="of one process, in the real command"
    )
    command.add_argument("--runs", type=int, default=3, help="times to run the real command in each way")
    command.add_argument("--images", type=int, default=40_000, help="training images of one process in one run")
    command.set_defaults(run=benchmark_ddp)

    command = commands.add_parser("fid", help="scores of the default's images, and what tracking them costs a run")
    command.add_argument("--num", type=int, default=10_000, help="generated images to score")
    command.add_argument("--rounds", type=int, default=5, help="times to measure that")
    command.add_argument("--batches", type=int, default=1500, help="training batches before, to find the cost in a run")
    command.set_defaults(run=benchmark_fid)

    command = commands.add_parser("recipes", help="the table of the README: each config trained and scored")
    command.add_argument("--configs", nargs="+", default=RECIPES, help="names in configs/")
    command.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the runs of each config")
    command.add_argument("--at_once", type=int, default=2, help="runs at a time, each in one thread")
    command.add_argument("--out", type=Path, default=Path("runs/recipes"), help="folder of the runs; whole ones stay")
    command.set_defaults(run=benchmark_recipes)

    command = commands.add_parser("score", help="the scores of a checkpoint, as JSON")
    command.add_argument("checkpoint", type=Path)
    command.set_defaults(run=print_scores)

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


def benchmark_monitor(args: argparse.Namespace) -> None:
    """The time in the hooks of each callback that watches gradients over the time outside of them, in one run."""
    hooks = TimedHooks()
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        fit = ["fit", "--run_dir", f"{folder}/run", "--trainer.max_steps", str(args.batches), *args.fit]
        run(fit, callbacks=[hooks])
    outside = hooks.whole - sum(hooks.seconds.values())
    print(f"monitor   {args.batches} batches of {1e3 * outside / args.batches:.1f} ms without them")
    for name, seconds in hooks.seconds.items():
        print(f"monitor   {name:<15} {seconds / outside:.2%} of training time")


class TimedHooks(Callback):
    """Takes the time in the training hooks of GradientMonitor, GradientDoctor and NonFiniteGuard, and of the run."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: GAN) -> None:
        for callback in trainer.callbacks:
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

    def on_train_start(self, *args: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        self.whole = time.perf_counter() - self.start


def bare_loop(
    generator: nn.Module,
    discriminator: nn.Module,
    data: MNISTDataModule,
    one_pass: bool = False,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
    reduce: Callable[[nn.Module], None] = lambda network: None,
) -> Iterator[None]:
    """The default's arithmetic in two passes, as one writes it: no Lightning, no logging, no average, no schedule.

    For several processes: in one pass, and each network in a wrapper, or with a function of it after its backward.
    """
    wrapped_generator, wrapped_discriminator = wrap(generator), wrap(discriminator)
    settings = {"lr": 1e-4, "betas": (0.5, 0.99), "fused": True}
    of_generator = torch.optim.Adam(generator.parameters(), **settings)
    of_discriminator = torch.optim.Adam(discriminator.parameters(), **settings)
    step = 0
    while True:
        for real, _ in data.train_dataloader():
            with torch.no_grad():
                fake = generator(torch.randn(len(real), generator.latent_dim))
            if one_pass:
                real_logits, fake_logits = wrapped_discriminator(torch.cat([real, fake])).chunk(2)
            else:
                real_logits, fake_logits = wrapped_discriminator(real), wrapped_discriminator(fake)
            loss = (softplus(-real_logits) + softplus(fake_logits)).mean()
            if step % 16 == 0:
                x = real.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
                loss = loss + gradient.square().sum((1, 2, 3)).mean()
            of_discriminator.zero_grad()
            loss.backward()
            reduce(discriminator)
            of_discriminator.step()

            discriminator.requires_grad_(False)
            loss = softplus(-discriminator(wrapped_generator(torch.randn(len(real), generator.latent_dim)))).mean()
            of_generator.zero_grad()
            loss.backward()
            reduce(generator)
            of_generator.step()
            discriminator.requires_grad_(True)
            step += 1
            yield


def benchmark_ddp(args: argparse.Namespace) -> None:
    """What the exchange of gradients costs in either way, then the real command on one and on two processes."""
    with tempfile.TemporaryDirectory() as folder:
        for base_channels in args.base_channels:
            settings = (base_channels, args.rounds, f"{folder}/{base_channels}")
            torch.multiprocessing.spawn(compare_reductions, settings, nprocs=2)

        for batch_size in args.batch_size:
            rates = {way: [] for way in FITS}
            for number in range(args.runs):
                for way, (runs, devices) in FITS.items():
                    run_dir = Path(folder, f"{batch_size} {number} {way}")
                    rates[way].append(fit_rate(run_dir, runs, devices, batch_size, args.images // batch_size))
            print(f"ddp       fit, batches of {batch_size} images in each process")
            for way, values in rates.items():
                print(f"          {way:16} {statistics.median(values):6,.0f} images/s", end="")
                print(f" ({min(values):,.0f} to {max(values):,.0f})")
            alone, at_once, together = rates.values()
            print(f"          scaling {spread(together, alone)}; of two runs at once {spread(at_once, alone)}")
            print(f"          share of communication {1 - statistics.median(map(truediv, together, at_once)):.1%}")


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
        with (run_dir / "metrics.csv").open(newline="") as file:
            rates.append([float(row["images_per_second"]) for row in csv.DictReader(file) if row["images_per_second"]])
    return sum(statistics.harmonic_mean(of_run[1:]) for of_run in rates)


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
            print(f"          {way:8} {statistics.median(times[way]):7.2f} ms a batch", end="")
            print(f", {spread(times[way], times['none'])} of none", end="")
            print(f", {spread(times[way], times['flat'])} of flat")
    dist.destroy_process_group()


def time_batches(loop: Iterator[None], batches: int) -> float:
    """Seconds until both processes have done so many."""
    dist.barrier()
    start = time.perf_counter()
    for _ in range(batches):
        next(loop)
    dist.barrier()
    return time.perf_counter() - start


def average_gradients(network: nn.Module) -> None:
    """All gradients over all processes, in one exchange."""
    gradients = [parameter.grad for parameter in network.parameters()]
    sums = flat(gradients)
    all_reduce(sums)
    sums /= dist.get_world_size()
    means = sums.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [mean.view_as(gradient) for mean, gradient in zip(means, gradients, strict=True)])


def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def in_ddp(network: nn.Module) -> nn.Module:
    """The network in a wrapper that exchanges its gradients while the backward goes on."""
    warnings.filterwarnings("ignore", ".*`broadcast_buffers` is deprecated")  # its successor is newer than torch 2.7
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view")  # those of the 512 weights of one layer
    return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)


def benchmark_fid(args: argparse.Namespace) -> None:
    """What tracking costs a run of the default, and what a large score costs; torchmetrics' FID beside it."""
    keep_memory()
    timer = ScoreTimer(args.num, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        run(["fit", "--run_dir", f"{folder}/run", "--trainer.max_steps", str(args.batches)], callbacks=[timer])
    print(
        f"fid       tracking took {timer.tracking:.2f} of {timer.training:.1f} s: {timer.tracking / timer.training:.1%}"
    )
    print(f"fid       {args.num:,} images, median of {args.rounds} (least to most)")
    for what, seconds in timer.seconds.items():
        print(f"          {what:48} {statistics.median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


class ScoreTimer(Callback):
    """Times the scores of a run, as it trains and, larger ones, at its end."""

    def __init__(self, num: int, rounds: int):
        self.num, self.rounds = num, rounds
        self.tracking = 0.0
        self.seconds: dict[str, list[float]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        self.tracker = next(one for one in trainer.callbacks if isinstance(one, FIDTracker))
        track = self.tracker.track

        def timed(*args: Any) -> None:
            start = time.perf_counter()
            track(*args)
            self.tracking += time.perf_counter() - start

        self.tracker.track = timed
        self.since = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self.training = time.perf_counter() - self.since
        images = to_uint8(generate(pl_module, self.num, seed=0))
        real = trainer.datamodule.test_dataloader().images
        for _ in range(self.rounds):
            start = time.perf_counter()
            generated = self.tracker.generate(pl_module, self.num, "benchmark")
            ours = generated.fid
            self.note("images, their features and FID", start)
            self.tracker.evaluator.scores(generated)
            self.note("all that, and KID, precision to coverage, classes", start)

            start = time.perf_counter()
            fids = FrechetInceptionDistance(OnLevels(self.tracker.evaluator.extractor), normalize=False)
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


RECIPES = ["default", "article", "dcgan", "resnet", "wgan_gp", "r3gan", "hinge_sn"]


def benchmark_recipes(args: argparse.Namespace) -> None:
    """Each config trained over several seeds, and the last checkpoint of each run scored: a table in Markdown."""
    runs = [(args.out / f"{config}-{seed}", config, seed) for config in args.configs for seed in args.seeds]
    with ThreadPoolExecutor(args.at_once) as pool:
        scores = dict(zip(runs, pool.map(lambda one: train_recipe(*one), runs), strict=True))
    print(f"recipes   seeds {', '.join(map(str, args.seeds))}; {args.at_once} runs at a time, each in one thread\n")
    print("| config | FID | KID x 1000 | coverage | seconds of one core |\n|---|---|---|---|---|")
    for config in args.configs:
        of_config = [score for run, score in scores.items() if run[1] == config]
        columns = [mean_and_range([score[name] for score in of_config], form) for name, form in COLUMNS.items()]
        print(f"| `{config}.yaml` | {' | '.join(columns)} |")


COLUMNS = {"fid": "{:.2f}", "kid": "{:.2f}", "coverage": "{:.3f}", "seconds": "{:.0f}"}


def train_recipe(run_dir: Path, config: str, seed: int) -> dict[str, float]:
    """The scores of a run of the real command, and the seconds of one core that it took; kept in its folder."""
    kept = run_dir / "scores.json"
    if not kept.exists():
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        fit = [sys.executable, "-m", "gan.cli", "fit", "--config", str(CONFIGS / f"{config}.yaml")]
        fit += ["--seed_everything", str(seed), "--run_dir", str(run_dir), "--resume", "auto"]
        seconds = processor_seconds(subprocess.Popen(fit, stdout=subprocess.DEVNULL, env=env))
        score = [sys.executable, __file__, "score", str(run_dir / "checkpoints" / "last.ckpt")]
        scores = json.loads(subprocess.run(score, check=True, capture_output=True, env=env).stdout.splitlines()[-1])
        kept.write_text(json.dumps(scores | {"seconds": seconds}))
    return json.loads(kept.read_text())


def processor_seconds(process: subprocess.Popen) -> float:
    """Waits for a process; what it took of a processor, which other processes hardly change."""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("a run has failed")
    return usage.ru_utime + usage.ru_stime


def print_scores(args: argparse.Namespace) -> None:
    """The scores of a checkpoint, as JSON in the last line."""
    scores = Scores()
    run(["validate", "--ckpt_path", str(args.checkpoint), "--verbose", "false"], callbacks=[scores])
    by_metric = {name.partition("/")[0]: value for name, value in scores.scores.items()}
    print(json.dumps(by_metric | {"kid": 1000 * by_metric["kid"]}))


class Scores(Callback):
    """Keeps what `validate` has measured."""

    def on_validation_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self.scores = {name: float(value) for name, value in trainer.callback_metrics.items()}


def mean_and_range(values: list[float], form: str) -> str:
    return f"{form} ({form} to {form})".format(statistics.mean(values), min(values), max(values))


def spread(values: list[float], base: list[float]) -> str:
    """Median, minimum and maximum of ratios."""
    ratios = list(map(truediv, values, base))
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


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
