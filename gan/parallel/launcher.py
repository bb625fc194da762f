"""Starts the processes of one machine, and sees that they end together."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from lightning import Trainer
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine, and leaves none of them behind.

    Lightning's kills this process without a word when another one fails. Here the others find out by themselves, since
    what they exchange breaks off, say so, and end; who has not after `GRACE` seconds is ended.
    """

    GRACE = 10

    def __init__(self, cluster_environment: Any, num_processes: int, num_nodes: int, patience: float) -> None:
        super().__init__(cluster_environment, num_processes, num_nodes)
        self.patience = patience
        self.returned = threading.Event()  # what was launched has come to its end here

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Runs `function` here and in the other processes.

        Raises:
            ConnectionError: If another process is gone, or silent for longer than `patience`.
        """
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=self.watch, daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        self.returned.clear()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            self.end_others()
            if not is_broken_off(error):
                raise
            environment = self.cluster_environment
            raise ConnectionError(
                f"process {environment.global_rank()} of {environment.world_size()} lost the others: one has ended, or "
                f"did not answer for {self.patience:g} s (the strategy's patience). What that one printed says why; "
                f"here it was: {str(error).splitlines()[0]}"
            ) from error
        finally:
            self.returned.set()

    def watch(self) -> None:
        """Ends this process where one of the others failed and nothing else tells it so."""
        while not any(process.poll() for process in self.procs):
            if all(process.poll() == 0 for process in self.procs):
                return
            if self.returned.wait(0.5):
                return
        if self.returned.wait(2 * self.GRACE):
            return
        # Still here: waiting for a GPU, say, that waits for the one that is gone.
        failed = next(rank for rank, process in enumerate(self.procs, 1) if process.poll())
        print(f"error: process {failed} ended with status {self.procs[failed - 1].poll()}", file=sys.stderr, flush=True)
        self.kill(signal.SIGKILL)
        os._exit(1)

    def end_others(self) -> None:
        """Waits for the processes that were started here, and ends those that are there after `GRACE` seconds."""
        deadline = time.monotonic() + self.GRACE
        for process in self.procs:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_broken_off(error: BaseException) -> bool:
    """Whether an error is torch's word for: what processes exchange has come to an end."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
