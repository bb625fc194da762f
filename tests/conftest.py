"""What the tests share: a little real data, small networks, and a trainer that is silent."""

import os
import tempfile

# Before torch is loaded: the networks here are small, two pools of threads on one machine wait for each other, and a
# process that has a pool cannot be forked.
os.environ["OMP_NUM_THREADS"] = "1"
# Nor is it to see a GPU: there no two runs are alike to the bit, and a process that has used one cannot be forked.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import resource
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch.nn.functional import avg_pool2d

from gan import GAN
from gan.data import InMemoryDataModule, MNISTDataModule
from gan.networks import (
    ConditionalDCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    PatchDiscriminator,
    ProjectionDCGANDiscriminator,
    UNetGenerator,
)

ROOT = Path(__file__).parents[1]

# Features of real images are measured once for all tests, and nothing is left in the user's own cache.
CACHE = tempfile.TemporaryDirectory(prefix="gan-cache-")
os.environ["GAN_CACHE"] = CACHE.name


@cache
def mnist() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = MNISTDataModule().load(train=False)
    return images[:512].clone(), labels[:512].clone()


class SmallMNIST(InMemoryDataModule):
    """512 real digits."""

    image_shape = (1, 28, 28)
    num_classes = 10

    def load(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return mnist()


class Pairs(SmallMNIST):
    """512 real digits, each with a source: itself in 7x7."""

    num_classes = 1
    condition_shape = (1, 7, 7)

    def load(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        images, _ = mnist()
        return images, avg_pool2d(images.float(), 4).byte()


class Halves(SmallMNIST):
    """256 digits to train on, and 256 others to test on."""

    def load(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(part[:256] if train else part[256:] for part in mnist())


@pytest.fixture
def halves() -> Halves:
    return Halves(batch_size=16, validation_size=0)


@pytest.fixture
def data() -> SmallMNIST:
    return SmallMNIST(batch_size=16, validation_size=0)


@pytest.fixture
def make_gan():
    """Builds a GAN of two small MLPs; the same weights each time."""

    def make(**settings) -> GAN:
        torch.manual_seed(0)
        shape = (1, 28, 28)
        return GAN(MLPGenerator(image_shape=shape, latent_dim=8), MLPDiscriminator(image_shape=shape), **settings)

    return make


@pytest.fixture(params=["labels", "sources"])
def told(request):
    """Builds a GAN whose networks are told what an image is to be of, and its data: of classes, and of images."""

    def make(norm: str = "none", **settings) -> tuple[GAN, SmallMNIST]:
        torch.manual_seed(0)
        shape, size = (1, 28, 28), 16 // settings.get("accumulate", 1)
        if request.param == "labels":
            generator = ConditionalDCGANGenerator(shape, 10, latent_dim=8, base_channels=4)
            discriminator, data = ProjectionDCGANDiscriminator(shape, 10, 4, norm), SmallMNIST(size, validation_size=0)
        else:
            generator = UNetGenerator(shape, Pairs.condition_shape, latent_dim=8, base_channels=4)
            discriminator = PatchDiscriminator(shape, Pairs.condition_shape, 4, norm)
            data = Pairs(size, validation_size=0)
        return GAN(generator, discriminator, **settings), data

    return make


@pytest.fixture
def make_trainer(tmp_path):
    """Builds a Trainer on the CPU that writes nothing but what its callbacks write, below `tmp_path`."""

    def make(**settings) -> Trainer:
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 8,
            "logger": False,
            "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in settings.get("callbacks", [])),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
            "log_every_n_steps": 1,
        }
        return Trainer(**(defaults | settings))

    return make


class SmallDisk:
    """Files of this process cannot grow beyond some bytes: what a full disk does, as the system does it."""

    def __init__(self, size: int):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *args):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


class FullDisk:
    """A disk of its own in memory, at a folder, that is full as long as a file fills it. Only root can have one."""

    def __init__(self, folder: Path, size: int):
        self.folder, self.filler = folder, folder / "filler"
        folder.mkdir()
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
        if mount.returncode:
            pytest.skip("a disk of its own is root's to have")

    def __enter__(self):
        with self.filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(2**20))
        return self

    def __exit__(self, *args):
        self.filler.unlink()


@pytest.fixture(params=["quota", "tmpfs"])
def disk(request, tmp_path) -> Iterator[tuple[Path, SmallDisk | FullDisk]]:
    """A folder, and a context in which nothing more can be written there."""
    folder = tmp_path / "disk"
    if request.param == "quota":
        folder.mkdir()
        yield folder, SmallDisk(0)
        return
    full = FullDisk(folder, 64 * 2**20)
    yield folder, full
    subprocess.run(["umount", "--lazy", folder], check=True)


class Recorder(Callback):
    """Keeps what the hooks see."""

    def __init__(self):
        self.optimizer_steps, self.global_steps, self.leaks = [], [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        stepping = trainer.optimizers.index(optimizer)  # 0: discriminator, 1: generator
        self.optimizer_steps.append("dg"[stepping])
        other = pl_module.generator if stepping == 0 else pl_module.discriminator
        own = pl_module.discriminator if stepping == 0 else pl_module.generator
        assert all(parameter.grad is not None for parameter in own.parameters())
        self.leaks.append({name: parameter.grad for name, parameter in other.named_parameters()})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.global_steps.append(trainer.global_step)


class TableLogger(Logger):
    """Keeps what is logged: pairs of a step and its scalars."""

    name, version = "table", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, *args, **kwargs):
        pass


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch):
    """Undoes what a command sets for its process."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether two modules are equal bit for bit, buffers included."""
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
