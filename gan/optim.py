"""The optimizers of two networks, their schedules, and the passes of a batch that make one step."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

OPTIMIZER_ORDER = ("discriminator", "generator")  # of a trainer's optimizers: the first one's steps are the batches


def network_of(optimizer: Optimizer, optimizers: Sequence[Optimizer]) -> str:
    """The name of the network that one of a trainer's optimizers moves."""
    return OPTIMIZER_ORDER[optimizers.index(optimizer)]


def make_optimizers(
    networks: Mapping[str, nn.Module],
    make_optimizer: Sequence[Callable[..., Optimizer]],
    make_scheduler: Sequence[Callable[[Optimizer], LRScheduler] | None],
    max_steps: int,
) -> tuple[list[Optimizer], list[LRScheduler]]:
    """An optimizer for each of the networks, and the schedulers that are wanted.

    Raises:
        ValueError: If one of them cannot train a GAN, with the name of the setting.
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


def in_passes(passes: int, *tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """The tensors (N, ...) of a batch in parts of equal size, one for each pass; None stays None.

    Raises:
        ValueError: If the batch does not come out even.
    """
    if passes == 1:
        return iter([tensors])
    num = next(len(tensor) for tensor in tensors if tensor is not None)
    if num % passes:
        raise ValueError(
            f"model.accumulate={passes} cannot divide a batch of {num} images into equal parts: "
            "let the data loader give a multiple of it"
        )
    nothing = [None] * passes
    return zip(*(nothing if tensor is None else tensor.chunk(passes) for tensor in tensors), strict=True)


def mean(passes: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each scalar () over the passes of a batch, without their graphs."""
    if len(passes) == 1:
        return {name: value.detach() for name, value in passes[0].items()}
    return {name: torch.stack([scalars[name].detach() for scalars in passes]).mean() for name in passes[0]}


class WarmupCosine(LRScheduler):
    """Linear warm-up, then half a cosine down to zero (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Warm-up matters under Adam: its first steps have the size of the learning rate, however small the gradient.

    Args:
        optimizer: The optimizer whose learning rates are scaled.
        warmup: Steps (in a GAN, training batches) over which the rate rises from zero.
        total: Steps after which the rate is zero; a GAN takes `trainer.max_steps` if it is not given.
    """

    def __init__(self, optimizer: Optimizer, warmup: int = 100, total: int | None = None):
        if warmup < 0:
            raise ValueError(f"WarmupCosine: warmup must be at least 0 steps, got {warmup}")
        self.warmup = warmup
        self.total = total
        super().__init__(optimizer)

    def end(self, max_steps: int) -> None:
        """Sets `total` where it was not given.

        Raises:
            ValueError: If no step would be left after the warm-up.
        """
        self.total = max_steps if self.total is None else self.total
        if self.total <= self.warmup:
            raise ValueError(
                f"WarmupCosine falls to zero over the whole run: it needs trainer.max_steps above its "
                f"warmup={self.warmup}, got {self.total}. Set trainer.max_steps, or choose another scheduler"
            )

    def get_lr(self) -> list[float | Tensor]:
        step = self.last_epoch  # torch's name for the steps done
        if step < self.warmup:
            scale = (step + 1) / (self.warmup + 1)
        elif self.total is None:  # during construction, before `end`
            scale = 1.0
        else:
            progress = min(1.0, (step - self.warmup) / (self.total - self.warmup))
            scale = 0.5 * (1 + math.cos(math.pi * progress))
        return [scale * rate for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        # The position alone: a run that is resumed with other settings follows those.
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
