"""What the processes of test_parallel_monitor.py do: `python monitored.py FOLDER` starts two of them."""

import sys
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from conftest import SmallMNIST
from lightning import Callback, Trainer
from torch.optim import Adam

from gan import GAN
from gan.callbacks import GradientMonitor
from gan.losses import Hinge, RelativisticPaired
from gan.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from gan.parallel import DDP, FSDP2, replace_lightnings
from gan.penalties import DRAGAN, R1
from parallel import sharded

SHAPE = (1, 28, 28)
BATCH = 16  # images over all processes


class Keep(Callback):
    """Keeps every record of a monitor that stands before it."""

    def __init__(self):
        self.records = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        (monitor,) = (callback for callback in trainer.callbacks if isinstance(callback, GradientMonitor))
        if monitor.stats is not None and monitor.stats.step == trainer.global_step:
            self.records.append(asdict(monitor.stats))


def with_penalties() -> GAN:
    """ReLUs, five of them dead, tanh, penalties, critic steps; no batch norm, which sees one process's images."""
    torch.manual_seed(0)
    make = partial(Adam, lr=1e-3, betas=(0.5, 0.9))
    networks = MLPGenerator(SHAPE, 8), DCGANDiscriminator(SHAPE, 4)
    torch.nn.init.constant_(networks[0].hidden1.bias[:5], -100)
    optimizers = {"generator_optimizer": make, "discriminator_optimizer": make}
    return GAN(*networks, penalties=[R1(1.0, every=4), DRAGAN(2.0)], n_critic=2, **optimizers)


def spectral() -> GAN:
    torch.manual_seed(0)
    return GAN(MLPGenerator(SHAPE, 8), DCGANDiscriminator(SHAPE, 4, norm="spectral"), loss=Hinge())


def relativistic() -> GAN:
    torch.manual_seed(0)
    return GAN(DCGANGenerator(SHAPE, 8, 4, norm="batch"), MLPDiscriminator(SHAPE), loss=RelativisticPaired())


def fit(gan: GAN, devices: int, strategy, folder: Path, monitored: bool = True, **settings) -> list[dict]:
    keep = Keep()
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        max_steps=4,
        callbacks=[GradientMonitor(every=3), keep] if monitored else [],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(gan, SmallMNIST(BATCH // devices, validation_size=0))
    trainer.save_checkpoint(folder / "last.ckpt")
    return keep.records


# By name: how to make it, and its precision under FSDP2.
SHARDED = {
    "spectral": (spectral, "32-true"),
    "relativistic": (relativistic, "bf16-mixed"),
}


def two(folder: Path) -> None:
    records = {"ddp": fit(with_penalties(), 2, DDP(patience=120), folder / "ddp", precision="64-true")}
    for name, (make, precision) in SHARDED.items():
        records[name] = fit(make(), 2, FSDP2(patience=120), folder / name, precision=precision)
        fit(make(), 2, FSDP2(patience=120), folder / f"{name} alone", monitored=False, precision=precision)
    torch.save(records, folder / f"records-{sharded.RANK}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    replace_lightnings()
    sharded.run(two, 2, Path(sys.argv[1]))
