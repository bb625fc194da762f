"""Which strategies there are, under which names, and which ones are refused."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, StrategyRegistry

from gan.errors import GANError
from gan.parallel.ddp import DDP
from gan.parallel.fsdp2 import FSDP2, PRECISIONS
from gan.schedule import ends

FSDP1 = "is FSDP1, which cannot save two networks that step in turn: set it to fsdp2"
TENSOR_PARALLEL = "splits layers (tensor parallelism), which is not supported: set it to fsdp2"


def check_settings(trainer: Any) -> None:
    """Refuses settings of `trainer` that Lightning would not take, or not in time to say so in a line.

    Raises:
        ValueError: If there is one, with the way out.
    """
    check_manual(trainer)
    check_devices(trainer)
    name = getattr(trainer.strategy, "class_path", str(trainer.strategy)).rpartition(".")[2]
    if name.lower().startswith("fsdp") and name.lower() != "fsdp2":
        raise GANError(f"trainer.strategy={name} {FSDP1}")
    if name == ModelParallelStrategy.__name__:
        raise GANError(f"trainer.strategy={name} {TENSOR_PARALLEL}")
    if name.startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
        raise GANError(f"trainer.strategy={name} is for Python sessions: on the command line use ddp")
    if name.lower() == "fsdp2" and str(trainer.precision) not in (*PRECISIONS, "32", "bf16", "None"):
        raise GANError(
            f"trainer.strategy=fsdp2 does not know trainer.precision={trainer.precision}: "
            f"set it to one of {', '.join(PRECISIONS)}, or trainer.strategy to ddp"
        )
    known = ("auto", "fsdp2", *StrategyRegistry.available_strategies())
    if isinstance(trainer.strategy, str) and trainer.strategy.lower() not in known:
        raise GANError(
            f"trainer.strategy={trainer.strategy} is not known: set it to auto, ddp or fsdp2, or to the "
            "path of a class that can be imported"
        )


def check_devices(trainer: Any) -> None:
    """Refuses what is no number of processes on a CPU; of GPUs it may be a list, or -1 for all.

    Raises:
        ValueError: If they are not.
    """
    if trainer.accelerator != "cpu" and not (trainer.accelerator == "auto" and not torch.accelerator.is_available()):
        return
    devices = str(trainer.devices)
    if devices != "auto" and not (devices.isdecimal() and int(devices) > 0):
        raise GANError(
            f"trainer.devices={devices} must be a number of processes, at least 1, of a run on the CPU: only GPUs can "
            "be listed, or be counted by -1"
        )


def check_manual(trainer: Any) -> None:
    """Refuses settings of `trainer` that are for one optimizer, which Lightning drops or refuses with other words.

    And intervals of 0, by which it divides.

    Raises:
        ValueError: If there is one, with the way out.
    """
    if trainer.accumulate_grad_batches != 1:
        raise GANError("trainer.accumulate_grad_batches is for one optimizer: use model.accumulate")
    for name in ("gradient_clip_val", "gradient_clip_algorithm"):
        if getattr(trainer, name):
            raise GANError(
                f"trainer.{name} is for one optimizer, and does nothing for a GAN: "
                "add the callback GradientClipping, which clips either network"
            )
    for name in ("check_val_every_n_epoch", "val_check_interval"):
        if getattr(trainer, name, None) == 0:
            raise GANError(
                f"trainer.{name} must be above 0, got 0; --trainer.limit_val_batches 0 leaves validation out"
            )


def check_strategy(trainer: Trainer, penalties: Iterable[Any]) -> None:
    """Refuses what would train two networks in turn wrongly, or not at all.

    Raises:
        ValueError: If there is one, with the way out.
    """
    strategy = trainer.strategy
    if isinstance(strategy, FSDPStrategy):
        raise GANError(f"trainer.strategy={type(strategy).__name__} {FSDP1}")
    if type(strategy) is ModelParallelStrategy:
        raise GANError(f"trainer.strategy={type(strategy).__name__} {TENSOR_PARALLEL}")
    if not isinstance(strategy, SingleDeviceStrategy | DDP | FSDP2):
        raise GANError(
            f"trainer.strategy={type(strategy).__name__} cannot train two networks in turn: take ddp on the command "
            "line, or Trainer(strategy=gan.parallel.DDP()) in Python"
        )
    if isinstance(strategy, FSDP2):
        due = [type(each).__name__ for each in penalties if max(ends(each.weight)) > 0 and each.differentiates_twice]
        if trainer.state.fn == "fit" and due:
            raise GANError(
                f"model.penalties=[{', '.join(due)}] differentiate twice, which fails under trainer.strategy=fsdp2: "
                "set trainer.strategy to ddp, or take ApproximateR1, which does not; --config hinge_sn "
                "(configs/hinge_sn.yaml) is a recipe without"
            )
    elif getattr(strategy, "_layer_sync", None) and strategy.root_device.type == "cpu":
        raise GANError(
            "trainer.sync_batchnorm needs GPUs, which torch's SyncBatchNorm is for: leave it out, or choose networks "
            "with norm: layer, group, spectral or none, which need no other process"
        )


def replace_lightnings() -> None:
    """Puts `DDP` in the place of Lightning's own, under all its names and as what is taken for several devices."""
    StrategyRegistry.register("fsdp2", FSDP2, override=True)
    for name, start_method in {
        "ddp": "popen",
        "ddp_spawn": "spawn",
        "ddp_fork": "fork",
        "ddp_notebook": "fork",
    }.items():
        for suffix, unused in {
            "": False,
            "_find_unused_parameters_false": False,
            "_find_unused_parameters_true": True,
        }.items():
            settings = {"start_method": start_method, "find_unused_parameters": unused}
            StrategyRegistry.register(name + suffix, DDP, override=True, **settings)
