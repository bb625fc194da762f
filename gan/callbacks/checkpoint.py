"""The run's own checkpoint: whole at every moment, and written when a run is stopped."""

import os
import shlex
import signal
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gan.module import GAN


class RunCheckpoint(Checkpoint):
    """Saves the run as `checkpoints/last.ckpt`: every so many batches, at the end, and when it is stopped.

    Ctrl-C ends the run after the batch in progress, so that what is saved is never half a step; a second Ctrl-C ends
    it at once, without saving. SIGTERM likewise ends the run after the batch. A save that fails, on a full disk say,
    is a warning while there is training left to do, and an error at the end; `last.ckpt` stays what it was.

    Args:
        every: Training batches between two saves.
    """

    def __init__(self, every: int = 1000):
        if every < 1:
            raise ValueError(f"RunCheckpoint's every is a number of training batches of at least 1, and is {every}")
        self.every = every
        self.interrupted = False
        self.saved_at = -1
        self._previous_handler: Any = None

    def path(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir, "checkpoints", "last.ckpt")

    def save(self, trainer: Trainer) -> None:
        """Saves, unless this batch is saved already.

        Raises:
            ValueError: if the file cannot be written. The one before it is left as it was.
        """
        if trainer.global_step == self.saved_at or trainer.fast_dev_run:
            return
        try:
            trainer.save_checkpoint(self.path(trainer))
            for logger in trainer.loggers:
                logger.save()  # what is logged so far is not logged again by a run that goes on from here
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            kept = f"; the one of batch {self.saved_at} is kept" if self.saved_at >= 0 else ""
            raise ValueError(f"cannot write {self.path(trainer)}: {error}{kept}. Make room on the disk") from error
        self.saved_at = trainer.global_step

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        self.interrupted = False
        try:
            self._previous_handler = signal.signal(signal.SIGINT, self._on_ctrl_c)
        except ValueError:  # only the main thread may: elsewhere Ctrl-C is not ours to handle
            self._previous_handler = None

    def _on_ctrl_c(self, signum: int, frame: FrameType | None) -> None:
        self.interrupted = True
        self._restore_handler()

    def _restore_handler(self) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        stopping = self.interrupted or trainer.received_sigterm
        if stopping or trainer.global_step % self.every == 0:
            try:
                self.save(trainer)
            except ValueError as error:
                if stopping:
                    raise
                warnings.warn(f"{error}. Training goes on", stacklevel=2)
        if self.interrupted:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self._restore_handler()
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: GAN, exception: BaseException) -> None:
        self._restore_handler()
        if isinstance(exception, SIGTERMException):  # it can come in between two batches, or in a validation
            self.save(trainer)
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if stopped and trainer.is_global_zero and self.saved_at >= 0:
            folder = shlex.quote(str(trainer.default_root_dir))
            print(f"stopped after batch {trainer.global_step:,}; saved as of batch {self.saved_at:,}. Go on with:")
            print(f"  python -m gan.cli fit --run_dir {folder} --resume auto", flush=True)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when it is whole and on the disk.

    Lightning's own writes to the system's temporary folder and copies from there: a disk that fills up on the way
    leaves half a file where the good one was.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
