"""Starts the processes of one machine, and sees that they end together."""

import atexit
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
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed  # private
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher  # private

from gan.errors import LostConnection

Process = subprocess.Popen[bytes]

STARTED: list[Process] = []  # the other processes of this machine, in the one that has started them
PARENT = "GAN_PARENT"  # in the environment of those: the id of that one
GRACE = 10  # seconds in which a process may find out by itself that another one is gone, say so, and end
HURRY = 2  # seconds for that after Ctrl-C, which has come to all: where it ends them at once, some wait for each other
INTERRUPTED = (-signal.SIGINT, 128 + signal.SIGINT)


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine, and leaves none of them behind.

    Where one of them fails, the others find out by themselves, since what they exchange breaks off, say so, and end;
    who has not after `GRACE` seconds is ended. The process that has started the others waits for them before it ends,
    with the worst status of all. They end with it, whatever ends it.

    Lightning's launcher kills this process without a word when another one fails, and looks at none of them once its
    own `fit` is over. Torch's agent (`elastic_launch`) is a process more, between the user and those that train. Where
    that is killed, the others train on, since they exchange nothing with it; where one of them hangs at its end, it
    waits for good; and a script that calls `fit` would get its networks back untrained.
    """

    def __init__(self, cluster_environment: Any, num_processes: int, num_nodes: int, patience: float) -> None:
        super().__init__(cluster_environment, num_processes, num_nodes)
        self.patience = patience
        self.returned = threading.Event()  # what was launched has come to its end here

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Runs `function` here and in the other processes.

        Raises:
            ConnectionError: If another process is gone, or silent for longer than `patience`.
        """
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            os.environ[PARENT] = str(os.getpid())
            self._call_children_scripts()  # private
            del os.environ[PARENT]  # what else this process starts may outlive it
            STARTED.extend(self.procs)
            atexit.register(self.finish)
        elif (parent := os.environ.pop(PARENT, None)) and os.name == "posix":  # Windows keeps the number of one gone
            threading.Thread(target=self.end_with, args=(int(parent),), daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        self.returned.clear()
        if STARTED:
            threading.Thread(target=self.watch, daemon=True).start()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            late = end_others(HURRY if isinstance(error, KeyboardInterrupt) else GRACE)
            silent = [process for process in STARTED if not 0 <= process.returncode <= 128 and process not in late]
            ended = [self.told(process) for process in silent]  # by a signal: those have printed nothing
            STARTED.clear()
            if not is_broken_off(error):
                raise
            reason = "; ".join(ended) or (
                f"one has ended, or did not answer for {self.patience:g} s (the strategy's patience). What that one "
                f"printed says why; here it was: {str(error).splitlines()[0]}"
            )
            raise LostConnection(
                f"process {environment.global_rank()} of {environment.world_size()} lost the others: {reason}"
            ) from error
        finally:
            self.returned.set()

    def watch(self) -> None:
        """Ends this process where one of the others failed and nothing else tells it so."""
        while not any(process.poll() for process in STARTED):
            if self.returned.wait(0.5):
                return
        failed = [process for process in STARTED if process.returncode]
        interrupted = all(process.returncode in INTERRUPTED for process in failed)
        if not self.returned.wait(HURRY if interrupted else 2 * GRACE):
            # Still here: waiting for a GPU, say, that waits for the one that is gone; or for that one to begin.
            self.leave(failed)

    def finish(self) -> None:
        """Waits for the others, at the end of this process, which ends as the worst of them where any has failed."""
        if late := end_others(self.patience):
            self.leave(late, f", since it had not ended {self.patience:g} s after this one")
        if failed := [process for process in STARTED if process.returncode]:
            self.leave(failed)

    def end_with(self, parent: int) -> None:
        """Ends this process some time after the one that has started it, which may be gone already."""
        while os.getppid() == parent:
            time.sleep(0.5)
        time.sleep(GRACE)
        rank = self.cluster_environment.global_rank()
        print(f"error in process {rank}: the process that started it is gone", file=sys.stderr, flush=True)
        os._exit(1)

    def leave(self, failed: list[Process], why: str = "") -> None:
        """Says how others have failed, and ends this process as the worst of them has ended."""
        for process in failed:
            if process.returncode not in INTERRUPTED:
                print(f"error: {self.told(process)}{why}", file=sys.stderr)
        end_others(0)
        sys.stdout.flush()
        sys.stderr.flush()
        codes = [process.returncode for process in failed]
        os._exit(max(code if code > 0 else 128 - code for code in codes))  # as shells count signals

    def told(self, process: Process) -> str:
        """How another process has ended."""
        rank = self.cluster_environment.global_rank() + 1 + STARTED.index(process)
        code = process.returncode
        return f"process {rank} " + (f"was killed by signal {-code}" if code < 0 else f"ended with status {code}")


def end_others(seconds: float) -> list[Process]:
    """Waits for the processes that this one has started. Those that are there after `seconds` it ends and returns."""
    deadline = time.monotonic() + seconds
    try:
        for process in STARTED:
            process.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # after Ctrl-C, nobody is to wait
        pass
    late = [process for process in STARTED if process.poll() is None]
    for process in late:
        process.kill()
        process.wait()
    return late


def is_broken_off(error: BaseException) -> bool:
    """Whether an error is torch's word for: what processes exchange has come to an end."""
    words = ("gloo", "Operation timed out!")  # of a wait with a limit of its own, torch says no more
    told = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return told or isinstance(error, dist.DistError)
