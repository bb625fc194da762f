"""What the tests of the command line share: commands that leave this process as it was, and parts of a user's own."""

import csv
import logging
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from conftest import ROOT, SmallMNIST, mnist
from lightning import Callback
from torch import Tensor, nn
from torch.distributed import DistNetworkError

from gan.callbacks import GradientMonitor
from gan.cli import main
from gan.data import InMemoryDataModule
from gan.optim import WarmupCosine
from gan.order import callbacks_of
from gan.run import run

FAST = str(ROOT / "configs" / "debug" / "fast.yaml")
MLPS = ["--model.generator", "gan.networks.MLPGenerator", "--model.generator.latent_dim", "8"]
MLPS += ["--model.discriminator", "gan.networks.MLPDiscriminator"]  # short names take seconds to look up
SMALL = ["--data", "conftest.SmallMNIST", "--data.batch_size", "8", "--data.validation_size", "16"]
FEW_SCORES = ["--trainer.callbacks+=gan.callbacks.FIDTracker"]
FEW_SCORES += ["--trainer.callbacks.num_samples=100", "--trainer.callbacks.final_samples=100"]
FEW_TEXTS = [word.replace("FIDTracker", "NgramTracker") for word in FEW_SCORES]
TRUSTED = ["--trust", "commands", "--trust", "conftest"]  # what a checkpoint of the tests' own parts needs
CLASSES = ["--model.generator", "gan.networks.ConditionalDCGANGenerator", "--model.generator.base_channels", "4"]
CLASSES += ["--model.generator.latent_dim", "8", "--model.discriminator.base_channels", "4"]
PROJECTION = ["--model.discriminator", "gan.networks.ProjectionDCGANDiscriminator", *CLASSES]
AUXILIARY = ["--model.discriminator", "gan.networks.AuxiliaryDCGANDiscriminator", *CLASSES]
AUXILIARY += ["--model.classification", "gan.terms.Classification"]
FEW_LABELS = ["--data", "conftest.SmallMNIST", "--data.labels", "20"]
FEW_LABELS += ["--model.discriminator", "gan.networks.ClassifierDCGANDiscriminator"]
FEW_LABELS += ["--model.generator", "gan.networks.DCGANGenerator", *CLASSES[2:]]
FEW_LABELS += ["--model.classification", "gan.terms.SemiSupervised"]
FEW_LABELS += ["--model.feature_matching", "gan.terms.FeatureMatching", "--trainer.callbacks+=AccuracyTracker"]
FEW_LABELS += ["--trainer.callbacks.every=4"]
PAIRS = ["--data", "gan.data.DegradedDataModule", "--data.of", "conftest.SmallMNIST", "--data.batch_size", "8"]
PAIRS += ["--data.validation_size", "16", "--data.degradation"]  # and which
TRANSLATION = ["--model.generator", "gan.networks.UNetGenerator", "--model.generator.base_channels", "4"]
TRANSLATION += ["--model.generator.latent_dim", "8", "--model.discriminator", "gan.networks.PatchDiscriminator"]
TRANSLATION += ["--model.discriminator.base_channels", "4"]
SOURCES = ["--data", "conftest.Pairs", "--model.generator", "gan.networks.UNetGenerator"]
SOURCES += ["--model.generator.base_channels", "4", "--model.discriminator", "gan.networks.PatchDiscriminator"]
SOURCES += ["--model.discriminator.base_channels", "4", "--model.reconstruction", "gan.terms.Reconstruction"]
SHORT = ["--config", FAST, *MLPS, *SMALL, "--trainer.max_steps", "3", "--trainer.log_every_n_steps", "1"]


# What torch raises where another process is gone.
LOST = [
    RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer"),
    RuntimeError("Operation timed out!"),
    DistNetworkError("Broken pipe"),
]


def command(*words, callbacks=()) -> None:
    """`python -m gan.cli WORDS` in this process, which it leaves as it was."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    levels = {name: logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    words = [str(word) for word in words]
    try:
        with warnings.catch_warnings():
            run(words, callbacks) if callbacks else main(words)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])  # noqa: NPY002


def fit(run_dir, *words, callbacks=()) -> Path:
    """A `fit` of three batches of eight digits and two small MLPs. Returns the path of its checkpoint."""
    command("fit", *SHORT, "--run_dir", run_dir, *words, callbacks=callbacks)
    return Path(run_dir, "checkpoints", "last.ckpt")


def resume(run_dir, *words, callbacks=()) -> Path:
    """Goes on with a run. Returns the path of its checkpoint."""
    command("fit", "--run_dir", run_dir, "--resume", "auto", *words, callbacks=callbacks)
    return Path(run_dir, "checkpoints", "last.ckpt")


def load(checkpoint) -> dict:
    return torch.load(checkpoint, weights_only=True)


def equal(one, two) -> bool:
    """Whether two pieces of a checkpoint are equal, tensors bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(two, Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(equal, one, two))
    return one == two


def table(run_dir) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv, without the one column that differs from run to run."""
    with Path(run_dir, "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("images_per_second", None)
    return rows


def process(words, **settings) -> subprocess.Popen:
    """A command in a process of its own: what a user sees."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "env": env}
    return subprocess.Popen(words, **(defaults | settings))


class OtherWarmup(WarmupCosine):
    """A schedule of one's own."""

    def __init__(self, optimizer, warmup: int = 7):
        super().__init__(optimizer, warmup)


class Watch(Callback):
    """Keeps the trainer, and with it everything that a command has built."""

    def on_fit_start(self, trainer, pl_module):
        self.trainer, self.gan, self.data = trainer, pl_module, trainer.datamodule


class At(Callback):
    """Does something in the middle of a batch."""

    def __init__(self, batch: int, action):
        self.batch, self.action = batch, action

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.batch and optimizer is trainer.optimizers[0]:
            self.action()


class OutOfMemory(Callback):
    """Leaves the second process no memory for a measurement."""

    def on_train_start(self, trainer, pl_module):
        (monitor,) = callbacks_of(trainer, GradientMonitor)
        if trainer.global_rank == 1:
            monitor.over_processes = self.fail

    def fail(self, trainer):
        raise torch.OutOfMemoryError("no memory for it")


class Digits(SmallMNIST):
    """Digits that the shipped features can judge."""

    extractor = "mnist_cnn"


class Unseen(SmallMNIST):
    """Digits to train on, and none besides."""

    def val_dataloader(self):
        return []

    test_dataloader = val_dataloader


class Colour(InMemoryDataModule):
    """128 images of 3x32x32, noise."""

    image_shape = (3, 32, 32)
    num_classes = 1

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(int(train))
        images = torch.randint(0, 256, (128, *self.image_shape), generator=rng, dtype=torch.uint8)
        return images, torch.zeros(128, dtype=torch.int64)


class ColourDigits(InMemoryDataModule):
    """512 real digits in colour, each in a place of its own on 3x32x32."""

    image_shape = (3, 32, 32)
    num_classes = 10

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = mnist()
        return nn.functional.pad(images.expand(-1, 3, -1, -1), (2, 2, 2, 2)).contiguous(), labels


class Large(Colour):
    """128 images of 3x64x64, noise."""

    image_shape = (3, 64, 64)


class Odd(Colour):
    """Images that cannot be halved twice."""

    image_shape = (1, 30, 30)


class Pooled(nn.Module):
    """An extractor: digits as 16 means, and ten classes of them."""

    def __init__(self, scale: float = 1.0, power: int = 1):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.power = power
        self.norm = nn.BatchNorm1d(16, affine=False)  # would move, were it not in evaluation mode
        self.register_buffer("weight", torch.randn(10, 16, generator=torch.Generator().manual_seed(0)))
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.norm(nn.functional.avg_pool2d(images, 7).flatten(1) * self.scale) ** self.power

    def classify(self, features: Tensor) -> Tensor:
        return features @ self.weight.T


class OwnGenerator(nn.Module):
    """A user's own network for digits: no Network of ours, and no argument `image_shape`."""

    def __init__(self, width: int = 4, latent_dim: int = 8):
        super().__init__()
        self.latent_dim = latent_dim
        self.layers = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 784), nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents).unflatten(1, (1, 28, 28))


class Buggy(OwnGenerator):
    """Has a bug that shows at once."""

    def forward(self, latents: Tensor) -> Tensor:
        raise KeyError("a bug of the user's")


class BuggyInTraining(OwnGenerator):
    """Has a bug that shows in training alone."""

    def forward(self, latents: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("a bug of the user's")
        return super().forward(latents)


class BuggyCallback(Callback):
    """Has a bug that shows as soon as there is a trainer."""

    @property
    def state_key(self) -> str:
        raise TypeError("a bug of the user's")


class Picky(OwnGenerator):
    """Refuses its own arguments."""

    def __init__(self, width: int = 4):
        super().__init__()
        raise ValueError("a bug of the user's")
