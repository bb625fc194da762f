"""Data-parallel training of two networks that step in turn."""

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from gan.parallel.base import TwoNetworkStrategy, checked

YIELD = getattr(os, "sched_yield", lambda: None)  # Windows has none


class DDP(TwoNetworkStrategy, DDPStrategy):
    """Data-parallel training of networks that step in turn: each step averages the gradients of its own network.

    Lightning's DDPStrategy wraps the whole module, so that every backward reduces both networks, or fails because one
    of them took no part. Here the module stays as it is; start weights come from rank 0; and an optimizer that is about
    to step averages the gradients of its own parameters over the processes, in one flat all-reduce, before they are
    unscaled and before any callback sees them. Double backward, several backwards to a step, and frozen
    networks need nothing special: nothing happens before the step.

    One flat all-reduce, or torch's DDP wrappers, which overlap theirs with the backward? Measured on two gloo processes
    of one thread each, nothing lay between them, so this is the simpler one. With the default networks (0.35 and 0.66
    MB of gradients) a batch took 68.6 ms flat and 68.7 ms wrapped (1.000 of flat, 0.973 to 1.032 in 15 rounds); with
    four times the channels (2.96 and 10.52 MB) 683 ms and 677 ms (0.991 of flat, 0.986 to 1.304). Since then the flat
    one waits awake, see `all_reduce`, and the real command trains 1.849 times as many images a second on two processes
    as on one (1.847 to 1.869 in 3 runs; communication takes 8.2 %). `python scripts/benchmark.py ddp`, 2 cores of an
    AMD EPYC, torch 2.14.1.

    Buffers follow rank 0 as in torch's DDP, but only when they are used: at the start, in evaluation and in
    checkpoints. In training mode, each process normalises by its own part of a batch unless
    `trainer.sync_batchnorm` is set.

    Args:
        patience: Seconds that a process waits for the others in a batch before it gives up. Writing a checkpoint,
            starting and ending are not limited by it. The process that has started the others waits for their ends
            as long, from its own.
        start_method: How processes are started: "popen" (the command again), "spawn" or "fork".
        find_unused_parameters: Not needed, and ignored with a warning.
    """

    def __init__(
        self,
        patience: float = 45,
        start_method: Literal["popen", "spawn", "fork"] = "popen",
        find_unused_parameters: bool = False,
    ) -> None:
        super().__init__(start_method=start_method)
        self.patience = checked(patience)
        if find_unused_parameters:
            rank_zero_warn(
                "find_unused_parameters is ignored: each step averages the gradients of the network that it trains, "
                "so that no parameter is ever unused"
            )
        self._flat: dict[Optimizer, list[tuple[Tensor, list[Tensor], list[Tensor]]]] = {}

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """Averages the gradients of `optimizer`, and steps."""
        if self.world_size > 1:
            self.average_gradients(optimizer)
        return super().optimizer_step(optimizer, closure, model, **kwargs)

    @torch.no_grad()
    def average_gradients(self, optimizer: Optimizer) -> None:
        """Replaces the gradients of the optimizer's parameters by their means over all processes.

        A parameter that has no gradient on any process keeps none.
        """
        groups = by_dtype(optimizer)
        known = [[id(parameter) for parameter in parameters] for *_, parameters in self._flat.get(optimizer, [])]
        if known != [
            [id(parameter) for parameter in group] for group in groups
        ]:  # at first, and where some are unfrozen
            self._flat[optimizer] = [flat_views(group) for group in groups]
        for flat, views, parameters in self._flat[optimizer]:
            silent = [(p, view) for p, view in zip(parameters, views, strict=True) if p.grad is None]
            for _, view in silent:
                view.zero_()
            heard = [(view, p.grad) for p, view in zip(parameters, views, strict=True) if p.grad is not None]
            if heard:
                mine, gradients = map(list, zip(*heard, strict=True))
                torch._foreach_copy_(mine, gradients)  # pyright: ignore[reportPrivateImportUsage] # no public name
            all_reduce(flat)
            flat.div_(self.world_size)
            for parameter, view in zip(parameters, views, strict=True):
                if parameter.grad is not None or view.any():
                    parameter.grad = view

    # ------------------------------------------------------------------ Lightning's hooks

    def setup_optimizers(self, trainer: Trainer) -> None:
        super().setup_optimizers(trainer)
        self._flat = {}

    def configure_ddp(self) -> None:
        """Gives all processes the start weights of the first, where Lightning would wrap the module."""
        assert self.model is not None
        self.broadcast_from_first([*self.model.parameters(), *self.model.buffers()])

    def on_validation_start(self) -> None:
        assert self.model is not None
        self.broadcast_from_first(self.model.buffers())

    @torch.no_grad()
    def broadcast_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Makes tensors what they are in the first process, in place."""
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def all_reduce(tensor: Tensor) -> None:
    """Sums a tensor over the processes. On a CPU it waits awake, and lets whoever has work go first.

    A core that falls asleep while its process waits takes milliseconds to wake: with the default networks an exchange
    took 0.7 ms rather than 3.5, of 60 ms a batch.
    """
    work = dist.all_reduce(tensor, async_op=True)
    if tensor.device.type == "cpu":
        while not work.is_completed():
            YIELD()
    work.wait()


def by_dtype(optimizer: Optimizer) -> list[list[Tensor]]:
    """The trainable parameters of an optimizer, those of one dtype and device together."""
    groups: dict[Any, list[Tensor]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return list(groups.values())


def flat_views(parameters: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """One flat tensor, a view of it for each parameter, with its shape and strides, and the parameters."""
    flat = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters))
    views, start = [], 0
    for parameter in parameters:
        dense = torch.empty_like(parameter)  # preserves strides where they leave no gaps
        views.append(flat.as_strided(parameter.shape, dense.stride(), start))
        start += parameter.numel()
    return flat, views, parameters
