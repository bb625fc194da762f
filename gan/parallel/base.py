"""Processes that start together, wait for each other so long and no longer, and end together."""

import math
from datetime import timedelta

import torch.distributed as dist
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from gan.checkpoints import AtomicCheckpointIO
from gan.errors import GANError
from gan.parallel.launcher import Launcher


class TwoNetworkStrategy(ParallelStrategy):
    """What `DDP` and `FSDP2` share, for two networks that step in turn.

    In a batch, a process waits `patience` seconds for the others before it gives up. Starting, writing a checkpoint
    and ending may take their time.
    """

    patience: float
    unlimited: dist.ProcessGroup | None = None  # a group without that limit, other than torch's half an hour

    @property
    def checkpoint_io(self) -> CheckpointIO:
        """Ours, which reads a folder of parts too, unless the trainer was given another."""
        if self._checkpoint_io is None:
            self._checkpoint_io = AtomicCheckpointIO()
        return self._checkpoint_io

    @checkpoint_io.setter
    def checkpoint_io(self, io: CheckpointIO) -> None:
        self._checkpoint_io = io

    def setup_environment(self) -> None:
        super().setup_environment()
        if self.unlimited is None:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)  # every process is in it
            self.unlimited = group

    def barrier(self, name: str | None = None) -> None:
        """Waits for all processes; at the "end", the first one, which has most to do, no longer than `patience`."""
        if self.unlimited is not None:
            work = dist.barrier(group=self.unlimited, async_op=True)
            assert work is not None  # every process is in the group
            work.wait(timedelta(seconds=self.patience if name == "end" and self.is_global_zero else 0))  # 0: no limit

    def on_train_start(self) -> None:
        limit = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # before torch 2.14
        for group in self.groups():
            limit(timedelta(seconds=self.patience), group)

    def groups(self) -> list[dist.ProcessGroup]:
        """The groups by which batches are worked through."""
        assert dist.group.WORLD is not None  # since `setup_environment`
        return [dist.group.WORLD]

    def _configure_launcher(self) -> None:  # private, as is Lightning's launcher
        super()._configure_launcher()
        if self._launcher is None or isinstance(self._launcher, _SubprocessScriptLauncher):
            # pyright does not see that the strategies which this is mixed into have both numbers.
            processes, nodes = self.num_processes, self.num_nodes  # pyright: ignore[reportAttributeAccessIssue]
            self._launcher = Launcher(self.cluster_environment, processes, nodes, self.patience)


def checked(patience: float) -> float:
    """The seconds that a process waits.

    Raises:
        ValueError: If they are no length of time.
    """
    if not 0 < patience < math.inf:
        raise GANError(f"the strategy's patience must be a number of seconds above 0, got {patience}")
    return patience
