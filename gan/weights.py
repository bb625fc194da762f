"""The weights that images come from: shared by all processes, or lent for a while by a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from gan.checkpoints import step_path
from gan.lifecycle import Lifecycle
from gan.parallel import is_broken_off
from gan.parallel.fsdp2 import shard_like


def sampled(gan: Lifecycle) -> nn.Module:
    """The network that images come from: the average where there is one."""
    return gan.generator if gan.generator_ema is None else gan.generator_ema


def share_buffers(gan: Lifecycle, network: nn.Module) -> None:
    """Gives all processes the first one's buffers, as a checkpoint has them: each has batch statistics of its own.

    They are used in evaluation alone.
    """
    if gan.trainer.world_size > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)


def weights_of(step: int, trainer: Trainer, gan: Lifecycle) -> dict[str, Any] | None:
    """What images came from after batch `step`, by the checkpoint of that batch; None where that cannot be used."""
    if step in (-1, trainer.global_step):
        return None
    weights = None
    try:
        path = step_path(Path(trainer.default_root_dir, "checkpoints"), step)
        state = trainer.strategy.load_checkpoint(path, weights_only=True)["state_dict"]
        prefix = "generator_ema." if any(name.startswith("generator_ema.") for name in state) else "generator."
        weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        own = sampled(gan).state_dict()
        weights = {name: shard_like(weights[name], own[name]) for name in own}
    except Exception as error:  # a damaged file can raise anything, and the run has trained to its end
        if is_broken_off(error):  # shards are read by all processes together
            raise
        rank_zero_warn(f"the best generator, of batch {step:,}, cannot be scored again: {error}")
    usable = trainer.strategy.reduce_boolean_decision(weights is not None, all=True)
    return weights if usable else None


@contextmanager
def holding(network: nn.Module, weights: dict[str, Any] | None) -> Iterator[None]:
    """Lends weights to a network, if there are any, and gives it its own again."""
    if weights is None:
        yield
        return
    own = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    try:
        yield
    finally:
        network.load_state_dict(own)
