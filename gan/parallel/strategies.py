"""Which strategies there are, under which names, and which ones are refused."""

from lightning import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry

from gan.parallel.ddp import DDP


def check_strategy(trainer: Trainer) -> None:
    """Refuses what would train two networks in turn wrongly, or not at all.

    Raises:
        ValueError: with the way out.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, SingleDeviceStrategy | DDP):
        raise ValueError(
            f"trainer.strategy {type(strategy).__name__} cannot train two networks in turn: take ddp on the command "
            "line, or Trainer(strategy=gan.parallel.DDP()) in Python"
        )
    if getattr(strategy, "_layer_sync", None) and strategy.root_device.type == "cpu":
        raise ValueError(
            "trainer.sync_batchnorm needs GPUs, which torch's SyncBatchNorm is for: leave it out, or choose networks "
            "with norm: layer, group, spectral or none, which need no other process"
        )


def replace_lightnings() -> None:
    """Puts `DDP` in the place of Lightning's own, under all its names and as what is taken for several devices."""
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
