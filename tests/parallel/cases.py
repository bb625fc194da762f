"""Trains small GANs in float64 on one or several processes: `python cases.py OUT DEVICES CASE...`.

Writes what each run did, as the first process sees it, to OUT. Not a test itself: `test_parallel_ddp.py` starts it.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from conftest import Pairs, SmallMNIST
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch.optim import Adam

from gan import GAN, losses, penalties
from gan.augment import AdaptiveAugment, DiffAugment, InstanceNoise, ScheduledAugment
from gan.callbacks import GeneratorEMA
from gan.cli import keep_memory
from gan.games import Lookahead
from gan.networks import (
    AuxiliaryDCGANDiscriminator,
    ClassifierDCGANDiscriminator,
    ConditionalDCGANGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    PatchDiscriminator,
    ProjectionDCGANDiscriminator,
    UNetGenerator,
)
from gan.optim import ScheduledAdam
from gan.parallel import DDP
from gan.schedule import Schedule
from gan.terms import Classification, FeatureMatching, Reconstruction, SemiSupervised

SHAPE = (1, 28, 28)
BATCH = 16  # images over all processes
STEPS = 50


def mlps() -> tuple[torch.nn.Module, torch.nn.Module]:
    return MLPGenerator(SHAPE, latent_dim=8), MLPDiscriminator(SHAPE)


def convolutions(norm: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    return DCGANGenerator(SHAPE, 8, 4, norm="batch" if norm == "batch" else "layer"), DCGANDiscriminator(
        SHAPE, 4, norm=norm
    )


small = partial(convolutions, "none")


def groups() -> tuple[torch.nn.Module, torch.nn.Module]:
    judge = DCGANDiscriminator(SHAPE, 4, attention_resolution=7, minibatch_std=True)
    return DCGANGenerator(SHAPE, 8, 4, norm="layer", attention_resolution=14), judge


def conditional(judge: type[torch.nn.Module]) -> tuple[torch.nn.Module, torch.nn.Module]:
    return ConditionalDCGANGenerator(SHAPE, 10, 8, 4, norm="layer"), judge(SHAPE, 10, 4)


def few_labels() -> tuple[torch.nn.Module, torch.nn.Module]:
    return DCGANGenerator(SHAPE, 8, 4, norm="layer"), ClassifierDCGANDiscriminator(SHAPE, 10, 4)


def translation() -> tuple[torch.nn.Module, torch.nn.Module]:
    sources = Pairs.condition_shape
    return UNetGenerator(SHAPE, sources, 8, 4, norm="layer"), PatchDiscriminator(SHAPE, sources, 4)


LOSSES = (
    losses.NonSaturating,
    losses.Saturating,
    losses.LeastSquares,
    losses.Hinge,
    losses.Wasserstein,
    losses.RelativisticPaired,
)
PENALTIES = (penalties.R1, penalties.R2, penalties.GradientPenalty, penalties.DRAGAN)

CASES: dict[str, dict[str, Any]] = {cls.__name__: {"loss": cls()} for cls in LOSSES}
CASES |= {cls.__name__: {"penalties": [cls(1.0, every=2)]} for cls in PENALTIES}
CASES |= {
    "n_critic": {"n_critic": 3},
    "accumulate": {"accumulate": 2, "penalties": [penalties.DRAGAN(1.0), penalties.R1(1.0, every=3)]},
    "accumulate pairs": {"accumulate": 4, "loss": losses.RelativisticPaired()},
    "weight clip": {"loss": losses.Wasserstein(), "weight_clip": 0.05},
    "extragradient": {
        "extragradient": True,
        "lookahead": Lookahead(every=3),
        "penalties": [penalties.R1(1.0, every=2)],
        "accumulate": 2,
    },
    "normalized gradient": {"normalize_gradient": True, "loss": losses.Saturating(), "accumulate": 2, "n_critic": 2},
    "layer norm": {"networks": partial(convolutions, "layer")},
    "spectral norm": {"networks": partial(convolutions, "spectral"), "loss": losses.Hinge()},
    "all at once": {
        "networks": partial(convolutions, "spectral"),
        "loss": losses.RelativisticPaired(),
        "penalties": [penalties.R1(1.0, every=4), penalties.GradientPenalty(1.0)],
        "n_critic": 2,
    },
    "fully connected": {"networks": mlps},
    "DiffAugment": {"augment": DiffAugment(), "penalties": [penalties.R1(1.0, every=2)], "accumulate": 2},
    "ADA": {"augment": AdaptiveAugment(ramp=400), "penalties": [penalties.DRAGAN(1.0)], "n_critic": 2},
    "schedules": {
        "penalties": [penalties.R1(Schedule(2, 0.1), every=2), penalties.R2(Schedule(0, 1, "linear", batches=30))],
        "augment": InstanceNoise(Schedule(0.5, 0, share=0.7)),
        "optimizer": partial(ScheduledAdam, lr=1e-3, betas=(0.0, Schedule(0.9, 0.99))),
        "half_life": Schedule(0, 200),
        "accumulate": 2,
        "n_critic": 2,
    },
    "scheduled augmentation": {
        "augment": ScheduledAugment(Schedule(0, 0.6)),
        "penalties": [penalties.R1(1.0)],
        "loss": losses.RelativisticPaired(),
    },
    "groups of images": {"networks": groups, "accumulate": 2},
    "projection": {
        "networks": partial(conditional, ProjectionDCGANDiscriminator),
        "penalties": [penalties.R1(1.0, every=2)],
        "accumulate": 2,
    },
    "auxiliary classifier": {
        "networks": partial(conditional, AuxiliaryDCGANDiscriminator),
        "classification": Classification(),
    },
    "few labels": {
        "networks": few_labels,
        "classification": SemiSupervised(0.7),
        "penalties": [penalties.R1(1.0, every=2)],
        "accumulate": 2,
        "data": partial(SmallMNIST, labels=20),
    },
    "translation": {
        "networks": translation,
        "penalties": [penalties.R1(1.0, every=2), penalties.GradientPenalty(0.5)],
        "reconstruction": Reconstruction(3.0),
        "accumulate": 2,
        "data": Pairs,
    },
}

# What cannot equal one process: batch norm sees one process's images, and bfloat16 rounds.
OTHERS: dict[str, dict[str, Any]] = {
    "feature matching": {"feature_matching": FeatureMatching()},  # of the means of each process
    "batch norm": {"networks": partial(convolutions, "batch"), "steps": 28, "validation_size": 64},  # an epoch of 28
    "bfloat16": {"precision": "bf16-mixed", "penalties": [penalties.R1(1.0, every=4)]},
}


class Record(Logger):
    """Keeps every value that is logged."""

    name, version = None, None

    def __init__(self):
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics, step=None):
        self.rows.append({**metrics, "step": step})

    def log_hyperparams(self, *args, **kwargs):
        pass


class Gradients(Callback):
    """Keeps every gradient as callbacks see it, and what went over the wire for it."""

    def __init__(self):
        self.seen: list[torch.Tensor] = []
        self.sent: list[tuple[str, int]] = []
        self.batches: list[list[tuple[str, int]]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradient = torch.cat([p.grad.flatten() for group in optimizer.param_groups for p in group["params"]])
        self.seen.append(torch.cat([gradient.norm()[None], gradient[::97]]))  # all of them would fill a disk

    def on_train_start(self, *args):
        self.sent.clear()

    def on_train_batch_end(self, *args):
        self.batches.append(list(self.sent))
        self.sent.clear()

    def spy(self, name: str) -> None:
        original = getattr(dist, name)

        def counted(*args, **kwargs):
            self.sent.append((name, sum(arg.numel() for arg in args if isinstance(arg, torch.Tensor))))
            return original(*args, **kwargs)

        setattr(dist, name, counted)


WIRE = [
    name
    for name in dir(dist)
    if name.startswith(("all_", "broadcast", "reduce", "gather", "scatter", "send", "isend", "barrier"))
    and callable(getattr(dist, name))
    and not isinstance(getattr(dist, name), type)
]


def train(
    devices: int, networks=None, steps=STEPS, precision="64-true", validation_size=0, data=SmallMNIST, **settings
) -> dict[str, Any]:
    torch.manual_seed(7 + int(os.environ.get("LOCAL_RANK", 0)))  # the first one's weights are those that count
    make = settings.pop("optimizer", None) or partial(Adam, lr=1e-3, betas=(0.5, 0.9))
    average = GeneratorEMA(settings.pop("half_life", 100))
    gan = GAN(*(networks or small)(), generator_optimizer=make, discriminator_optimizer=make, **settings)
    loaded = data(BATCH // devices // settings.get("accumulate", 1), validation_size)
    record, gradients = Record(), Gradients()
    wire = {name: getattr(dist, name) for name in WIRE}
    for name in WIRE:
        gradients.spy(name)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=DDP() if devices > 1 else "auto",
        precision=precision,
        max_steps=steps,
        logger=record,
        callbacks=[average, gradients],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(gan, loaded)
    for name, function in wire.items():
        setattr(dist, name, function)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (gan.discriminator, gan.generator)]
    return {
        "weights": {name: value.clone() for name, value in gan.state_dict().items()},
        "gradients": gradients.seen,
        "losses": record.rows,
        "wire": gradients.batches,
        "sizes": sizes,
    }


def main(out: str, devices: int, names: list[str]) -> None:
    torch.set_num_threads(1)
    keep_memory()
    cases = CASES | OTHERS
    results = {name: train(devices, **dict(cases[name])) for name in names or cases}
    rank = dist.get_rank() if dist.is_initialized() else 0
    torch.save(results, Path(out, f"{devices}-{rank}.pt"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
