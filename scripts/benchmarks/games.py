"""Steps made for games against Adam, with and without R1: FID on MNIST after equal time, each with its best rate.

A method's time is that of a batch, measured in turns with the others, in seconds of the process. It gets as many
batches as take as long as Adam's, one seed for each of the rates, of which the one with the lowest FID goes on to all
seeds. Runs that are whole are not made again, and broken ones go on.
"""

import argparse
import csv
import io
import json
import math
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from lightning import Callback, Trainer

from benchmarks.report import spread
from benchmarks.runs import gan
from gan import GAN
from gan.run import run

OPTIMIZERS = ("generator", "discriminator")
NO_PENALTY = ["--model.penalties", "[]"]
METHODS: dict[str, tuple[str, list[str]]] = {  # an optimizer, and what else a run is given
    "Adam": ("torch.optim.Adam", NO_PENALTY),
    "Adam, R1": ("torch.optim.Adam", []),
    "OptimisticAdam": ("gan.games.OptimisticAdam", NO_PENALTY),
    "PastExtraAdam": ("gan.games.PastExtraAdam", NO_PENALTY),
    "Adam, extragradient": ("torch.optim.Adam", [*NO_PENALTY, "--model.extragradient", "true"]),
    "Adam, Lookahead": ("torch.optim.Adam", [*NO_PENALTY, "--model.lookahead", "gan.games.Lookahead"]),
    "Muon": ("gan.muon.Muon", NO_PENALTY),
}
SCORE = "fid/mnist_cnn"
FAILED = 10  # FID from which on a run has failed; the recipes of the table are below 4, blank images near 60
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # of 95 %, by seeds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS], help="which")
    parser.add_argument("--batches", type=int, default=1000, help="of Adam's runs; the others' take as long")
    parser.add_argument("--tuning", type=int, default=300, help="of Adam's runs that choose a rate, likewise")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0005, 0.0015, 0.004], help="to choose from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="of the runs; 0 chooses the rate")
    parser.add_argument("--rounds", type=int, default=3, help="of turns in which the time of a batch is measured")
    parser.add_argument("--out", type=Path, default=Path("runs/games"), help="folder of the runs; whole ones stay")


def measure(settings: argparse.Namespace) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    costs = costs_of(settings)
    rates = {method: best_rate(settings, method, costs) for method in settings.methods}
    for seed in settings.seeds:  # all methods before the next seed: what is stopped has something to compare
        for method in settings.methods:
            trained(settings, method, rates[method], batches_of(costs, method, settings.batches), seed)
    print(f"games     {settings.batches:,} batches of Adam; seeds {', '.join(map(str, settings.seeds))}\n")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for method in settings.methods:
        print(row(settings, method, rates[method], costs))


COLUMNS = ("method", "time of a batch, of Adam's", "batches", "rate", "FID", "failed", "warned of")


def row(settings: argparse.Namespace, method: str, rate: float, costs: dict[str, list[float]]) -> str:
    """A row of the table."""
    batches = batches_of(costs, method, settings.batches)
    runs = [trained(settings, method, rate, batches, seed) for seed in settings.seeds]
    fids = [each["fid"] for each in runs]
    failed = sum(not fid < FAILED for fid in fids)
    found = sorted({name for each in runs for name in each["findings"]})
    warned = ", ".join(f"{name} ({sum(name in each['findings'] for each in runs)})" for name in found)
    cells = (method, spread(costs[method], "{:.2f}"), f"{batches:,}", f"{rate:g}", interval(fids), failed, warned)
    return f"| {' | '.join(map(str, cells))} |"


def interval(values: list[float]) -> str:
    """The mean and half of its interval of 95 %, and the range; infinite where a run has come to no FID.

    Of one value, that alone.
    """
    if not all(map(math.isfinite, values)):
        return f"inf ({min(values):.2f} to inf)"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    # Beyond the table the normal distribution's and the first term of what Student's adds to it: off by 2 % at most.
    student = STUDENT.get(len(values), 1.96 + 2.37 / (len(values) - 1))
    half = student * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):.2f} ± {half:.2f} ({min(values):.2f} to {max(values):.2f})"


def batches_of(costs: dict[str, list[float]], method: str, batches: int) -> int:
    """Those that a method does while Adam does so many."""
    return round(batches / median(costs[method]))


def best_rate(settings: argparse.Namespace, method: str, costs: dict[str, list[float]]) -> float:
    """The rate with the lowest FID after the batches of the choice."""
    batches = batches_of(costs, method, settings.tuning)
    tried = {rate: trained(settings, method, rate, batches, 0)["fid"] for rate in settings.rates}
    return min(tried, key=tried.__getitem__)


def words_of(method: str, rate: float) -> list[object]:
    """What a method is on the command line."""
    optimizer, given = METHODS[method]
    words: list[object] = [*given]
    for network in OPTIMIZERS:
        words += [f"--model.{network}_optimizer", optimizer, f"--model.{network}_optimizer.lr", rate]
        words += [f"--model.{network}_optimizer.betas", "[0.0, 0.9]"]
        words += [f"--model.{network}_optimizer.fused", "true"] if optimizer == "torch.optim.Adam" else []
        words += [f"--model.{network}_optimizer.momentum", 0.5] if optimizer == "gan.muon.Muon" else []
    return words


def trained(settings: argparse.Namespace, method: str, rate: float, batches: int, seed: int) -> dict[str, Any]:
    """The FID of a run, infinite if it has not come to its end, and what the doctor found; kept in its folder."""
    name = method.replace(", ", "-").lower()
    run_dir = settings.out / f"{name}-{rate:g}-{batches}-{seed}"
    kept = run_dir / "result.json"
    if not kept.exists():
        words = [*words_of(method, rate), "--trainer.max_steps", batches, "--seed_everything", seed]
        words += ["--trainer.callbacks+=FIDTracker", "--trainer.callbacks.every", batches]
        seconds = gan("fit", "--run_dir", run_dir, "--resume", "auto", *words, may_fail=True)
        found = run_dir / "findings.json"  # none of a run that has ended before the first measurement
        findings = [each["name"] for each in json.loads(found.read_text("utf-8"))] if found.exists() else []
        result = {"fid": last_score(run_dir), "findings": findings, "seconds": seconds}
        kept.write_text(json.dumps(result), encoding="utf-8")
    return json.loads(kept.read_text("utf-8"))


def last_score(run_dir: Path) -> float:
    """The last FID in a run's table."""
    if not (run_dir / "metrics.csv").exists():
        return math.inf
    with (run_dir / "metrics.csv").open(encoding="utf-8", newline="") as file:
        scores = [float(row[SCORE]) for row in csv.DictReader(file) if row.get(SCORE)]
    return scores[-1] if scores else math.inf


def costs_of(settings: argparse.Namespace) -> dict[str, list[float]]:
    """The time of a batch by each method over that by Adam, in each round; kept in the folder of the runs."""
    kept = settings.out / "costs.json"
    if not kept.exists():
        rounds = [{method: batch_time(method) for method in METHODS} for _ in range(settings.rounds)]
        costs = {method: [times[method] / times["Adam"] for times in rounds] for method in METHODS}
        kept.write_text(json.dumps(costs), encoding="utf-8")
    return json.loads(kept.read_text("utf-8"))


def batch_time(method: str) -> float:
    """Seconds of this process for a batch."""
    clock = Clock(first=16, last=80)
    words = [*words_of(method, 0.001), "--trainer.max_steps", clock.last]
    words += ["--trainer.callbacks+=FIDTracker", "--trainer.callbacks.every", 1000]
    words += ["--trainer.callbacks.num_samples", 100, "--trainer.callbacks.final_samples", 100]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        run(["fit", "--run_dir", f"{folder}/run", *map(str, words)], callbacks=[clock])
    return (clock.ended - clock.began) / (clock.last - clock.first)


class Clock(Callback):
    """Notes the process's time after two batches of a run."""

    def __init__(self, first: int, last: int):
        self.first, self.last = first, last

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.first:
            self.began = time.process_time()
        if trainer.global_step == self.last:
            self.ended = time.process_time()
