"""The optimizers of two networks, and their schedules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gan.schedulers import WarmupCosine


def make_optimizers(
    networks: Mapping[str, nn.Module],
    make_optimizer: Sequence[Callable[..., Optimizer]],
    make_scheduler: Sequence[Callable[[Optimizer], LRScheduler] | None],
    max_steps: int,
) -> tuple[list[Optimizer], list[LRScheduler]]:
    """An optimizer for each of the networks, and the schedulers that are wanted.

    Raises:
        ValueError: if one of them cannot train a GAN, with the name of the setting.
    """
    optimizers = []
    for (name, network), make in zip(networks.items(), make_optimizer, strict=True):
        try:
            optimizers.append(make(network.parameters()))
        except ValueError as error:
            raise ValueError(f"model.{name}_optimizer: {error}") from error
        if isinstance(optimizers[-1], LBFGS):
            raise ValueError(f"model.{name}_optimizer: LBFGS evaluates a batch several times, which a GAN cannot")
    pairs = zip(make_scheduler, optimizers, strict=True)
    schedulers = [make(optimizer) for make, optimizer in pairs if make is not None]
    for scheduler in schedulers:
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError("ReduceLROnPlateau waits for a loss to fall, and those of a GAN do not: choose another")
        if isinstance(scheduler, WarmupCosine):
            scheduler.end(max_steps)
    # Torch's own schedulers compute a rate from the one before it: those take the checkpoint's settings.
    foreign = [scheduler.optimizer for scheduler in schedulers if not isinstance(scheduler, WarmupCosine)]
    for optimizer in optimizers:
        if optimizer not in foreign:
            optimizer.register_load_state_dict_pre_hook(keep_settings)
    return optimizers, schedulers


def keep_settings(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state to load, with the optimizer's own rates and betas: a run that is resumed with others follows those."""
    pairs = zip(optimizer.param_groups, state["param_groups"], strict=False)  # torch complains of another number
    return state | {"param_groups": [own | {"params": saved["params"]} for own, saved in pairs]}
