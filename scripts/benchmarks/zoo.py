"""The zoo's table: every recipe at equal time on MNIST and Fashion-MNIST, each tuned by the same small budget.

A recipe's rates, its own times each of `--factors`, are tried on MNIST with seed 0 for `--tuning` of the time, and up
to three times half or twice as much while the best is at an end; the one with the lowest FID goes on to all seeds of
both data sets. Times are those of `timed`: seconds of one core. FID, KID, coverage and classes are of 10,000 images of
the averaged generator against the test images, of which rates are chosen too.

For the doctor, gradients are measured twelve times in a run, and scores of 500 images taken six times.

Each run is kept in `--out` and not made again. Several processes with one `--out` divide the work: a run is held by a
lock, which falls with its process. Each state of the code wants a folder of its own.
"""

import argparse
import io
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
import yaml
from lightning import Callback, Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.games import interval
from benchmarks.report import table
from benchmarks.timed import Clock, Judge, by_config, keep
from gan import GAN
from gan.callbacks.non_finite_guard import NonFiniteGradient
from gan.cli import keep_memory
from gan.data import InMemoryDataModule, MNISTDataModule, TorchvisionDataModule
from gan.folder import lock
from gan.run import CONFIGS, run

Result = dict[str, Any]

RECIPES = [
    "default",
    "zoo/plain",
    "zoo/saturating",
    "zoo/normalized_gradient",
    "zoo/least_squares",
    "hinge_sn",
    "zoo/wgan",
    "wgan_gp",
    "zoo/dragan",
    "zoo/approximate_r1",
    "zoo/relativistic",
    "zoo/centred",
    "r3gan",
    "zoo/two_time_scales",
    "zoo/n_critic",
    "optimistic",
    "extragradient",
    "zoo/lookahead",
    "article",
    "dcgan",
    "resnet",
    "zoo/self_attention",
    "zoo/instance_noise",
    "zoo/diffaugment",
    "conditional",
    "acgan",
]
MNIST, FASHION = "MNIST", "Fashion-MNIST"
EXTRACTORS = {MNIST: "mnist_cnn", FASHION: "fashion_mnist_cnn"}
NETWORKS = ("generator", "discriminator")
BEYOND = 3  # factors of the rates that are tried beyond those asked for
WATCHED = 12  # measurements of the gradients in a run, for the doctor
PUBLISHED = {  # best FIDs by Inception: a name, our recipe, and mean and deviation on MNIST and on Fashion-MNIST
    "WGAN": ("zoo/wgan", "6.7 ± 0.4", "21.5 ± 1.6"),
    "NS GAN": ("zoo/plain", "6.8 ± 0.5", "26.5 ± 1.6"),
    "DRAGAN": ("zoo/dragan", "7.6 ± 0.4", "27.7 ± 1.2"),
    "LSGAN": ("zoo/least_squares", "7.8 ± 0.6", "30.7 ± 2.2"),
    "MM GAN": ("zoo/saturating", "9.8 ± 0.9", "29.6 ± 1.6"),
    "BEGAN": ("", "13.1 ± 1.0", "22.9 ± 0.9"),
    "WGAN-GP": ("wgan_gp", "20.3 ± 5.0", "24.5 ± 2.1"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES, help="names in configs/")
    parser.add_argument("--data", nargs="+", default=[MNIST, FASHION], choices=[MNIST, FASHION], help="data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help=f"of the runs on {MNIST}")
    parser.add_argument("--fashion_seeds", type=int, nargs="+", default=[1, 2, 3], help=f"of those on {FASHION}")
    parser.add_argument("--seconds", type=float, default=30, help="of training in a run")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.5, 1, 2], help="of the rates, to choose from")
    parser.add_argument(
        "--tuning", type=float, default=1, help="share of the time, for each of them: less favours what is fast"
    )
    parser.add_argument("--failed", type=float, default=20, help="FID from which on a run has failed; noise has 57")
    parser.add_argument(
        "--fashion", type=Path, default=Path("datasets"), help="folder with FashionMNIST/raw, as torchvision has it"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"), help="folder of what is measured")


def measure(settings: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    keep_memory()
    settings.out.mkdir(parents=True, exist_ok=True)
    judges = {name: Judge(EXTRACTORS[name], data_of(settings, name)) for name in settings.data}
    judges.setdefault(MNIST, Judge(EXTRACTORS[MNIST]))  # on which rates are chosen
    tuning = [tuning_run(settings, recipe, factor) for recipe in settings.recipes for factor in settings.factors]
    while tuning:
        made(settings, tuning, lambda each: trained(settings, each, judges[each.data]))
        beyond = {recipe: factor_beyond(settings, recipe, tried(settings, recipe)) for recipe in settings.recipes}
        tuning = [tuning_run(settings, recipe, factor) for recipe, factor in beyond.items() if factor is not None]
    made(settings, settings.recipes, lambda recipe: weighed(settings, recipe))
    runs = runs_of(settings)
    made(settings, runs, lambda each: trained(settings, each, judges[each.data]))
    for line in report(settings, {name: judge.id for name, judge in judges.items()}):
        print(line)


# ---------------------------------------------------------------------- runs


class Run(NamedTuple):
    """A run, and what it is called in the folder."""

    data: str
    recipe: str
    seconds: float
    factor: float
    seed: int

    def __str__(self) -> str:
        return f"{self.data.lower()}-{named(self.recipe)}-{self.seconds:g}-x{self.factor:g}-{self.seed}"


def named(recipe: str) -> str:
    """A recipe as a part of a file's name."""
    return recipe.replace("/", "-")


def tuning_run(settings: argparse.Namespace, recipe: str, factor: float) -> Run:
    """The run by which a factor of the rates is judged."""
    return Run(MNIST, recipe, round(settings.tuning * settings.seconds, 3), factor, 0)


def runs_of(settings: argparse.Namespace) -> list[Run]:
    """All runs with the rates that were chosen."""
    factors = {recipe: chosen(settings, recipe) for recipe in settings.recipes}
    return [
        Run(data, recipe, settings.seconds, factors[recipe], seed)
        for seed in sorted({*settings.seeds, *settings.fashion_seeds})  # what is stopped has something to compare
        for data in settings.data
        if seed in seeds_of(settings, data)
        for recipe in settings.recipes
    ]


def seeds_of(settings: argparse.Namespace, data: str) -> list[int]:
    """Of a data set's runs."""
    return settings.seeds if data == MNIST else settings.fashion_seeds


def tried(settings: argparse.Namespace, recipe: str) -> dict[float, float]:
    """FIDs by the factors of the rates, rising, that have been tried: those asked for, and those beyond."""
    fids = {factor: kept(settings, tuning_run(settings, recipe, factor))["fid"] for factor in sorted(settings.factors)}
    while (factor := factor_beyond(settings, recipe, fids)) is not None:
        run = tuning_run(settings, recipe, factor)
        if not file_of(settings, run).exists():
            break
        fids = dict(sorted({**fids, factor: kept(settings, run)["fid"]}.items()))
    return fids


def factor_beyond(settings: argparse.Namespace, recipe: str, fids: dict[float, float]) -> float | None:
    """The factor to try next, where the best of them is at an end; None where it is not, or enough have been tried."""
    best, least, most = min(fids, key=fids.__getitem__), min(fids), max(fids)
    if best not in (least, most) or len(fids) - len(settings.factors) == BEYOND:
        return None
    return most * 2 if best == most else least / 2


def chosen(settings: argparse.Namespace, recipe: str) -> float:
    """The factor with the lowest FID; the least of those where there is none."""
    fids = tried(settings, recipe)
    return min(fids, key=fids.__getitem__)


def kept(settings: argparse.Namespace, name: object) -> Result:
    """What is kept of a run."""
    return json.loads(file_of(settings, name).read_text("utf-8"))


def file_of(settings: argparse.Namespace, name: object) -> Path:
    """Where it is kept."""
    return settings.out / f"{name}.json"


def made(settings: argparse.Namespace, what: Sequence[Any], make: Callable[[Any], Result]) -> None:
    """Makes all that is not kept yet, but for what other processes are making, and waits for that.

    Args:
        settings: Of the command.
        what: Runs, or recipes, each with a file.
        make: Gives what is kept of one.
    """
    left = list(what)
    while left := [each for each in left if not file_of(settings, name_of(each)).exists()]:
        if not any(made_here(settings, each, make) for each in left):
            time.sleep(1)


def name_of(each: Any) -> str:
    """The name of its file."""
    return str(each) if isinstance(each, Run) else f"cost-{named(each)}"


def made_here(settings: argparse.Namespace, each: Any, make: Callable[[Any], Result]) -> bool:
    """Makes one and keeps it, unless another process is about to or has; whether this one has."""
    path = file_of(settings, name_of(each))
    with path.with_suffix(".lock").open("a", encoding="utf-8") as file:
        try:
            lock(file)
        except BlockingIOError:
            return False
        if path.exists():
            return False
        start = time.process_time()
        result = make(each)
        keep(path, result)
        print(f"zoo       {name_of(each)}: {time.process_time() - start:.0f} s", flush=True)
    path.with_suffix(".lock").unlink()
    return True


def trained(settings: argparse.Namespace, each: Run, judge: Judge) -> Result:
    """The scores of a run, what it did in a second, and what the doctor told of; FID is infinite of one that died."""
    clock = Clock([each.seconds], judge.scores)
    words = [*words_of_data(settings, each.data, each.recipe), *words_of_rates(each.recipe, each.factor)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            by_config(each.recipe, each.seed, clock, Path(folder, "run"), *words, watched=WATCHED)
        except NonFiniteGradient as error:
            result = {"fid": math.inf, "died of": str(error)}
        else:
            result = clock.rows[-1] | {"images_per_second": clock.images / clock.rows[-1]["at"]}
        told = Path(folder, "run", "findings.json")
        findings = json.loads(told.read_text("utf-8")) if told.exists() else []
    return result | {"findings": sorted({finding["name"] for finding in findings}), "start_up": clock.start_up}


def words_of_data(settings: argparse.Namespace, data: str, recipe: str) -> list[object]:
    """What a data set is on the command line, in batches of the recipe's size."""
    if data == MNIST:
        return []
    words: list[object] = ["--data", "gan.data.TorchvisionDataModule", "--data.dataset", "FashionMNIST"]
    words += ["--data.data_dir", settings.fashion]
    return [*words, "--data.batch_size", setting(recipe, "data", "init_args", "batch_size")]


def words_of_rates(recipe: str, factor: float) -> list[object]:
    """A factor of both networks' rates on the command line."""
    words: list[object] = []
    for network, rate in rates_of(recipe, factor).items():
        words += [f"--model.{network}_optimizer.lr", rate]
    return words


def rates_of(recipe: str, factor: float) -> dict[str, float]:
    """Of both networks."""
    own = {network: setting(recipe, "model", f"{network}_optimizer", "init_args", "lr") for network in NETWORKS}
    return {network: float(f"{factor * rate:.6g}") for network, rate in own.items()}


def setting(recipe: str, *names: str) -> Any:
    """A recipe's setting, or the default's where it has none."""
    for config in (recipe, "default"):
        value: Any = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text("utf-8"))
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return value
    raise KeyError(names)


def data_of(settings: argparse.Namespace, name: str) -> InMemoryDataModule:
    """The images that runs are scored against."""
    if name == MNIST:
        return MNISTDataModule()
    folder = settings.fashion / "FashionMNIST" / "raw"
    if not (folder / "train-images-idx3-ubyte").exists():
        sys.exit(
            f"zoo: no {name} in {folder}: unpack Debian's package dataset-fashion-mnist there, give the folder by "
            f"--fashion, or leave it out by --data {MNIST}"
        )
    return TorchvisionDataModule("FashionMNIST", str(settings.fashion))


# ---------------------------------------------------------------------- what a recipe costs


class Operations(TorchDispatchMode):
    """Counts operations as torch's FlopCounterMode does, which cannot watch the gradients within a penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


class Weighing(Callback):
    """Counts the operations of a training image, over batches after which all comes again; and parameters."""

    def __init__(self) -> None:
        self.operations = Operations()
        self.result: Result = {}

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        step = pl_module.training_step
        self.batches = math.lcm(pl_module.n_critic, *(penalty.every for penalty in pl_module.penalties))
        self.images = 0

        def counted(batch: Any, batch_idx: int) -> None:
            self.images += len(batch[0])
            with self.operations:
                step(batch, batch_idx)

        pl_module.training_step = counted

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, *args: Any, **kwargs: Any) -> None:
        trainer.should_stop = trainer.global_step == self.batches

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self.result = {"multiply_adds": self.operations.total / 2 / self.images}
        for network in NETWORKS:
            parameters = pl_module.get_submodule(network).parameters()
            self.result[network] = sum(parameter.numel() for parameter in parameters)


def weighed(settings: argparse.Namespace, recipe: str) -> Result:
    """Multiply-adds of a training image, all steps and penalties included, and the parameters of both networks."""
    weighing = Weighing()
    words = [
        "--config",
        CONFIGS / f"{recipe}.yaml",
        "--data.batch_size",
        4,
        "--trainer.callbacks+=gan.callbacks.FIDTracker",
    ]
    words += ["--trainer.callbacks.num_samples", 100, "--trainer.callbacks.final_samples", 100]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(["fit", "--run_dir", f"{folder}/run", *map(str, words)], callbacks=[weighing])
    return weighing.result


# ---------------------------------------------------------------------- the tables


def report(settings: argparse.Namespace, ids: dict[str, str]) -> Iterator[str]:
    """The lines of all tables."""
    factors = ", ".join(f"{factor:g}" for factor in settings.factors)
    tuning = settings.tuning * settings.seconds
    yield f"zoo       {settings.seconds:g} s of training of one core; rates are the recipe's own times {factors},"
    yield f"zoo       and beyond while the best is at an end, by FID of seed 0 on {MNIST} after {tuning:.3g} s"
    yield "zoo       means of seeds; KID, coverage and what follows without those of runs that died"
    for data in settings.data:
        seeds = ", ".join(map(str, seeds_of(settings, data)))
        yield ""
        yield f"{data}: seeds {seeds}; by {EXTRACTORS[data]} {ids[data]}; failed: FID {settings.failed:g} or more"
        yield ""
        rows = {recipe: results_of(settings, data, recipe) for recipe in settings.recipes}
        yield from table(COLUMNS, (row(recipe, results, settings.failed) for recipe, results in rows.items()))
    yield ""
    yield from table(
        ["recipe", "rates", "of its own", "parameters, M", "multiply-adds of a training image, M"],
        (costs(settings, recipe) for recipe in settings.recipes),
    )
    yield ""
    yield "Beside it, FIDs by Inception, the best of a wide search each, which compare by their order alone"
    yield "(Lucic et al. 2018, arXiv:1711.10337):"
    yield ""
    order = [[name, f"`{recipe}`" if recipe else "", *fids] for name, (recipe, *fids) in PUBLISHED.items()]
    yield from table(["published", "recipe", MNIST, FASHION], order)


COLUMNS = ["recipe", "FID", "KID x 1000", "coverage", "classes", "entropy, nats", "failed", "images/s", "doctor"]


def results_of(settings: argparse.Namespace, data: str, recipe: str) -> list[Result]:
    """Of all seeds."""
    factor = chosen(settings, recipe)
    return [kept(settings, Run(data, recipe, settings.seconds, factor, seed)) for seed in seeds_of(settings, data)]


def row(recipe: str, results: list[Result], bar: float) -> list[str]:
    """A recipe's row of a data set: means over the seeds, of those that have come to the end but for FID."""
    fids = [result["fid"] for result in results]
    failed = sum(not fid < bar for fid in fids)
    found = sorted({name for result in results for name in result["findings"]})
    told = [f"{name} ({sum(name in result['findings'] for result in results)})" for name in found]
    means = [
        mean_of(results, score, factor, form)
        for score, factor, form in (
            ("kid", 1000, "{:.2f}"),
            ("coverage", 1, "{:.3f}"),
            ("modes_covered", 1, "{:.1f}"),
            ("entropy", 1, "{:.2f}"),
        )
    ]
    speed = mean_of(results, "images_per_second", 1, "{:,.0f}")
    return [f"`{recipe}`", interval(fids), *means, f"{failed} of {len(results)}", speed, ", ".join(told)]


def mean_of(results: list[Result], score: str, factor: float, form: str) -> str:
    """The mean of a score where there is one."""
    values = [factor * result[score] for result in results if score in result]
    return form.format(mean(values)) if values else ""


def costs(settings: argparse.Namespace, recipe: str) -> list[str]:
    """A recipe's row of what it costs, the generator's first."""
    factor, cost = chosen(settings, recipe), kept(settings, f"cost-{named(recipe)}")
    rates = " + ".join(f"{rate:g}" for rate in rates_of(recipe, factor).values())
    parameters = " + ".join(f"{cost[network] / 1e6:.2f}" for network in NETWORKS)
    fids = tried(settings, recipe)
    of_own = f"x {factor:g} of {min(fids):g} to {max(fids):g}"
    return [f"`{recipe}`", rates, of_own, parameters, f"{cost['multiply_adds'] / 1e6:.0f}"]
