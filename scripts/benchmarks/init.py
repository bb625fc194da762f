"""What it is worth to start from trained weights: digits to Fashion-MNIST, against from scratch.

The files of Fashion-MNIST lie unpacked in `--data_dir`/FashionMNIST/raw; Debian's package `dataset-fashion-mnist` has
them. Runs that are whole are not made again, and broken ones go on.
"""

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.runs import gan
from gan.lab.figures import COLOURS, STYLE

if TYPE_CHECKING:  # matplotlib takes a second to load
    from matplotlib.figure import Figure

SCORE = "fid/fashion_mnist_cnn"
STARTS = {  # what a run is called, and how it begins
    "from scratch": [],
    "--init digits": ["--init", "SOURCE"],
    "--init digits, 1 layer frozen": ["--init", "SOURCE", "--model.freeze_discriminator", "1"],
    "--init digits, 2 layers frozen": ["--init", "SOURCE", "--model.freeze_discriminator", "2"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data_dir", type=Path, default=Path("datasets"), help="folder of the data sets")
    parser.add_argument("--source", type=Path, help="run to start from; the default on MNIST is trained if not given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the runs")
    parser.add_argument("--batches", type=int, default=600, help="of a run")
    parser.add_argument("--every", type=int, default=50, help="batches from one score to the next")
    parser.add_argument("--out", type=Path, default=Path("runs/init"), help="folder of the runs")
    parser.add_argument("--picture", type=Path, help="where to draw the curves")


def measure(settings: argparse.Namespace) -> None:
    source = settings.source
    if source is None:
        source = settings.out / "digits"
        fit(source, "--seed_everything", "7")
    curves = {
        start: [curve(settings, source, start, number, seed) for seed in settings.seeds]
        for number, start in enumerate(STARTS)
    }
    print(f"init      FID of 1,000 images, seeds {', '.join(map(str, settings.seeds))}\n")
    steps = list(curves["from scratch"][0])
    print(f"| batch | {' | '.join(STARTS)} |\n{'|---' * (1 + len(STARTS))}|")
    for step in steps:
        cells = [", ".join(f"{of_seed[step]:.2f}" for of_seed in of_start) for of_start in curves.values()]
        print(f"| {step:,} | {' | '.join(cells)} |")
    if settings.picture is not None:
        draw(curves).savefig(settings.picture, dpi=100)


def curve(settings: argparse.Namespace, source: Path, start: str, number: int, seed: int) -> dict[int, float]:
    """The FID of a run by its batches."""
    run_dir = settings.out / f"{number}-{seed}"
    words = ["--data", "TorchvisionDataModule", "--data.dataset", "FashionMNIST", "--data.data_dir", settings.data_dir]
    words += ["--data.batch_size", "64", "--trainer.max_steps", settings.batches, "--seed_everything", seed]
    words += ["--trainer.callbacks+=FIDTracker", "--trainer.callbacks.every", settings.every]
    fit(run_dir, *words, *(source if word == "SOURCE" else word for word in STARTS[start]))
    with (run_dir / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return {int(row["step"]): float(row[SCORE]) for row in csv.DictReader(file) if row.get(SCORE)}


def fit(run_dir: Path, *words: object) -> None:
    """Trains by the real command; a run that is whole stays as it is."""
    gan("fit", "--run_dir", run_dir, "--resume", "auto", *words)


def draw(curves: dict[str, list[dict[int, float]]]) -> "Figure":
    """The curves of all runs, those of a start in one colour."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    with rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        axes = figure.subplots()
        for colour, (start, of_start) in zip(COLOURS, curves.items(), strict=False):
            for number, of_seed in enumerate(of_start):
                label = None if number else start
                axes.plot([*of_seed], [*of_seed.values()], color=colour, label=label, alpha=0.6 + 0.4 * (number == 0))
        axes.set(yscale="log", xlabel="training batches of 64 images of Fashion-MNIST", ylabel="FID, 1,000 images")
        axes.set_yticks([2, 3, 5, 10])
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(
            "Digits to Fashion-MNIST: a run from scratch, and runs that begin with weights trained on digits"
        )
        axes.legend()
    return figure
