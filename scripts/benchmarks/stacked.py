"""Stacked MNIST: how many of 1,000 kinds of images a generator makes, and how evenly, by three recipes.

An image is three digits in its three channels (Metz et al. 2017, arXiv:1611.02163). The classifier of the shipped
features reads each channel; 26,000 images (Lin et al. 2018, arXiv:1712.04086) are sorted into 1,000 kinds, and the
Kullback-Leibler divergence is from these to those of the training images, in nats. Real images have one too.
"""

import argparse
import json
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.recipes import written
from benchmarks.runs import gan
from gan.data import InMemoryDataModule, MNISTDataModule
from gan.metrics.features import CNNFeatures, load_features
from gan.noise import keyed

NUM = 26_000
RECIPES = {  # what a run is given
    "plain": ["--model.penalties", "[]"],
    "R1": [],
    "R3GAN": ["--config", "r3gan", "--data.batch_size", "64"],  # of as many images as the others
}


class StackedMNIST(InMemoryDataModule):
    """Three digits in three channels, each drawn from all of MNIST's; 60,000 of them to train on, 10,000 to test."""

    image_shape = (3, 28, 28)
    num_classes = 1000

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = MNISTDataModule().load(train=train)
        drawn = torch.randint(len(images), (len(images), 3), generator=keyed(0, f"stacked {train}"))
        return images.squeeze(1)[drawn], kind_of(labels[drawn])


def kind_of(digits: Tensor) -> Tensor:
    """Three digits (N, 3) as one number from 0 to 999, (N,)."""
    return digits @ torch.tensor([100, 10, 1])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipes", nargs="+", default=[*RECIPES], choices=[*RECIPES], help="which")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the runs")
    parser.add_argument("--batches", type=int, default=2500, help="training batches of each")
    parser.add_argument("--out", type=Path, default=Path("runs/stacked"), help="folder of the runs; whole ones stay")


def measure(settings: argparse.Namespace) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    images, labels = StackedMNIST().load(train=True)
    real = counts(labels)
    kinds, divergence = against(counts(read(images[:NUM])), real)
    print(f"stacked   {settings.batches:,} batches; seeds {', '.join(map(str, settings.seeds))}; {NUM:,} images each")
    print(f"stacked   as many real ones: {kinds} kinds, divergence {divergence:.3f}\n")
    print("| recipe | kinds of 1,000 | divergence, nats |\n|---|---|---|")
    for recipe in settings.recipes:
        scores = [scored(settings, recipe, seed, real) for seed in settings.seeds]
        cells = [written([score[name] for score in scores], form) for name, form in FORMS.items()]
        print(f"| {recipe} | {' | '.join(cells)} |", flush=True)


FORMS = {"kinds": "{:.0f}", "divergence": "{:.3f}"}


def scored(settings: argparse.Namespace, recipe: str, seed: int, real: Tensor) -> dict[str, float]:
    """How many kinds a run's generator makes, and how they are spread; kept in its folder."""
    run_dir = settings.out / f"{recipe}-{settings.batches}-{seed}"
    kept = run_dir / "scores.json"
    if not kept.exists():
        fit = ["--data", "benchmarks.stacked.StackedMNIST", *RECIPES[recipe]]
        fit += ["--trainer.max_steps", str(settings.batches), "--seed_everything", str(seed)]
        gan("fit", "--run_dir", run_dir, "--resume", "auto", *fit)
        samples = run_dir / "samples.npy"
        gan("sample", "--ckpt", run_dir / "checkpoints" / "last.ckpt", "--num", NUM, "--out", samples)
        kinds, divergence = against(counts(read(from_file(samples))), real)
        samples.unlink()
        kept.write_text(json.dumps({"kinds": kinds, "divergence": divergence}), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def from_file(path: Path) -> Tensor:
    """Images (N, 3, 28, 28), uint8, as `sample` writes them, with their channels last."""
    return torch.from_numpy(np.load(path)).permute(0, 3, 1, 2)


def read(images: Tensor) -> Tensor:
    """The kinds (N,) of images (N, 3, 28, 28), by the classifier: uint8, or float32 in [-1, 1]."""
    features = cast(CNNFeatures, load_features("mnist_cnn"))
    kinds = []
    with torch.no_grad():
        for some in images.split(1000):
            pixels = some if some.is_floating_point() else some.float() / 127.5 - 1
            digits = features.classify(features(pixels.reshape(-1, 1, 28, 28))).argmax(1)
            kinds.append(kind_of(digits.view(-1, 3)))
    return torch.cat(kinds)


def counts(kinds: Tensor) -> Tensor:
    """How many there are of each kind, (1000,)."""
    return kinds.bincount(minlength=StackedMNIST.num_classes)


def against(made: Tensor, real: Tensor) -> tuple[int, float]:
    """The kinds that were made, and the divergence in nats from `made` to `real`, each counts (1000,)."""
    p, q = made.double() / made.sum(), real.double() / real.sum()
    there = p > 0
    return int(there.sum()), float((p[there] * (p[there] / q[there]).log()).sum())
