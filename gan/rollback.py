"""The state that a run can go back to."""

from copy import deepcopy
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gan.gradients.places import Places


class State:
    """A copy of all that training changes: weights, averages and buffers, both optimizers and their schedules.

    The scale of float16 training is not in it: what it has learnt stays true.
    """

    @torch.no_grad()
    def __init__(self, trainer: Trainer, pl_module: LightningModule):
        self.step = trainer.global_step
        self.tensors = Places([pl_module]).keep()
        self.optimizers = [
            (optimizer, copies(dict(optimizer.state)), [copy_of(group) for group in optimizer.param_groups])
            for optimizer in trainer.optimizers
        ]
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        self.schedulers = [(scheduler, deepcopy(scheduler.state_dict())) for scheduler in schedulers]

    @torch.no_grad()
    def restore(self) -> None:
        """Puts everything back to what it was; the copy stays."""
        self.tensors.restore()
        for scheduler, state in self.schedulers:
            scheduler.load_state_dict(deepcopy(state))
        for optimizer, state, groups in self.optimizers:
            optimizer.state.clear()
            optimizer.state.update(copies(state))
            for group, kept in zip(optimizer.param_groups, groups, strict=True):
                group.update(copy_of(kept))


def copies(state: dict[Any, Any]) -> dict[Any, Any]:
    """The state of an optimizer by parameter, its tensors copied."""
    return {parameter: tree_map_only(Tensor, torch.clone, each) for parameter, each in state.items()}


def copy_of(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group of parameters, copied, and the parameters themselves."""
    parameters = [*group["params"]]
    return deepcopy({key: value for key, value in group.items() if key != "params"}) | {"params": parameters}
