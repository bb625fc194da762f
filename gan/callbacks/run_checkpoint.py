"""The run's own checkpoints: one whole at every moment, and written when a run is stopped."""

import math
import shlex
import signal
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector  # private
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gan.callbacks.fid_tracker import FIDTracker, active_trackers
from gan.checkpoints import (
    BEST,
    LAST,
    AtomicCheckpointIO,
    name_again,
    newest_whole,
    parts,
    remove,
    remove_partial,
    step_path,
    steps,
)
from gan.errors import GANError, counted
from gan.module import GAN
from gan.order import callbacks_of
from gan.outbox import outbox

STOP_EVERY = 10  # batches between two looks, of several processes, at whether one of them is to stop


class RunCheckpoint(Checkpoint):
    """Saves the run as `checkpoints/step_001000.ckpt` and, the same one again, as `checkpoints/last.ckpt`.

    It does so every so many batches or minutes, at the end, when the run is stopped, and, where a FIDTracker is at
    work, when its score is the best so far: that one is `checkpoints/best.ckpt` too. Ctrl-C ends the run after the
    batch in progress, so that what is saved is never half a step; a second Ctrl-C ends it at once, without saving.
    SIGTERM likewise ends the run after the batch. Several processes stop together, at most ten batches later. A save
    that fails, on a full disk say, is a warning while there is training left to do, and an error at the end;
    `last.ckpt` stays what it was.

    What callbacks do at the end of a run, as the last pictures and the score of the best generator, comes after the
    checkpoint of the last batch. When it is done, that checkpoint is written again with the mark `ended`; a run that
    goes on from one without, and has no batch left, does its end. There a signal ends the run at once.

    Args:
        every: Training batches between two saves.
        minutes: Minutes after which to save even so, by the clock of the first process; never if not given.
        keep: How many of the newest `step_*.ckpt` stay, besides the best. Where the disk damages one, the run goes on
            from another.
    """

    def __init__(self, every: int = 1000, minutes: float | None = None, keep: int = 2):
        if not every >= 1:
            raise GANError(f"RunCheckpoint's every must be at least 1 training batch, got {every}")
        if minutes is not None and not 0 < minutes < math.inf:
            raise GANError(f"RunCheckpoint's minutes must be above 0, got {minutes}; leave it out for never")
        if not keep >= 1:
            raise GANError(f"RunCheckpoint's keep must be at least 1 checkpoint, got {keep}")
        self.every = every
        self.minutes = minutes
        self.keep = keep
        self.saved_at = -1
        self._between_epochs = False
        self._tracker: FIDTracker | None = None
        self._signal: int | None = None  # the one that asks to stop
        self._end_is_due = False  # of the run that this one goes on with
        self._began = False  # to train, or to do that end
        self._ending = False
        self._previous_handlers: dict[int, Any] = {}

    def folder(self, trainer: Trainer) -> Path:
        """Where the run's checkpoints are."""
        return Path(trainer.default_root_dir, "checkpoints")

    # ------------------------------------------------------------------ saving

    def save(self, trainer: Trainer) -> None:
        """Saves, unless this batch is saved already. All processes come here in the same batch.

        Raises:
            ValueError: If it cannot be written, in all of them. The checkpoints before it are left as they were.
        """
        step = trainer.global_step
        # pyright does not see what Lightning's connectors give a trainer.
        if step == self.saved_at or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        self._saved_when = time.monotonic()
        path = step_path(self.folder(trainer), step)
        failure = self.send(trainer)  # before the checkpoint: a run that goes on from it does not log this again
        try:
            trainer.save_checkpoint(path)
        except OSError as error:
            failure = error
            trainer.strategy.barrier()  # the one at the end of `save_checkpoint`, where the other processes wait
        if not self._any(trainer, failure is not None) and trainer.is_global_zero:
            try:
                self.name(path, step)
            except OSError as error:
                failure = error
        trainer.strategy.barrier()  # which may take longer than a batch may
        if self._any(trainer, failure is not None):
            kept = f"; the one of batch {self.saved_at} is kept" if self.saved_at >= 0 else ""
            reason = failure or "another process failed"
            raise GANError(f"cannot write {path}: {reason}{kept}. Make room on the disk") from failure
        self.saved_at = step
        self._written.add(step)
        if trainer.is_global_zero:
            self.prune(trainer)
        trainer.strategy.barrier()

    def send(self, trainer: Trainer) -> OSError | None:
        """Has everything written that waits for it. Returns why something that was logged is not on the disk, if so."""
        outbox(trainer).send()
        try:
            for logger in trainer.loggers:
                logger.save()
        except OSError as error:
            return error
        behind = (getattr(logger, "behind", None) for logger in trainer.loggers)  # Lightning's DummyLogger has anything
        return next((failure for failure in behind if isinstance(failure, OSError)), None)

    def name(self, path: Path, step: int) -> None:
        """Gives a checkpoint its other names.

        Raises:
            OSError: If one cannot be given.
        """
        if step == self.best_step:
            name_again(path, path.with_name(BEST))  # first, lest a run goes on from here without it
        name_again(path, path.with_name(LAST))

    def prune(self, trainer: Trainer) -> None:
        """Removes all but the newest checkpoints of this run, and those that it has overtaken without them."""
        # Those beyond the checkpoint that the run went on from may be damaged: they do not count among the good ones.
        passed = {step: path for step, path in steps(self.folder(trainer)).items() if step <= self.saved_at}
        good = [step for step in passed if step <= self._began_at or step in self._written]
        for step in passed.keys() - {*good[-self.keep :], self.best_step}:
            with suppress(OSError):  # it will be tried again
                remove(passed[step])

    @property
    def best_step(self) -> int:
        """The batches after which the images were best, by the first FIDTracker; -1 if nobody has measured it."""
        return -1 if self._tracker is None else self._tracker.best_step

    # ------------------------------------------------------------------ stopping

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        if self._ending:  # all that can be is saved, and the end can be done another time
            raise KeyboardInterrupt if signum == signal.SIGINT else SIGTERMException
        self._signal = signum
        if signum == signal.SIGINT:
            signal.signal(signum, self._previous_handlers[signum])  # a second Ctrl-C ends the run at once

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}

    def _any(self, trainer: Trainer, decision: bool) -> bool:
        """Whether one of the processes says yes. All of them must ask."""
        return trainer.strategy.reduce_boolean_decision(decision, all=False)

    def _wanted(self, trainer: Trainer) -> tuple[bool, type[BaseException] | None]:
        """Whether to save now, and what to end the run with: the same in all processes."""
        step = trainer.global_step
        due = step // self.every > self._looked_at // self.every or step in (trainer.max_steps, self.best_step)
        self._looked_at = step
        if trainer.world_size > 1 and step % STOP_EVERY:
            return due, None
        late = self.minutes is not None and time.monotonic() - self._saved_when >= 60 * self.minutes
        if not self._any(trainer, self._signal is not None or (late and trainer.is_global_zero)):
            return due, None
        return True, self._asked(trainer)

    def _asked(self, trainer: Trainer) -> type[BaseException] | None:
        """What some process was asked to end the run with. All of them must ask."""
        if self._any(trainer, self._signal == signal.SIGINT):
            return KeyboardInterrupt
        return SIGTERMException if self._any(trainer, self._signal == signal.SIGTERM) else None

    def _look(self, trainer: Trainer, log: Callable[[], None] | None = None) -> None:
        """Saves and ends the run where that is wanted; then `log` does at once what Lightning logs after this hook."""
        save, end = self._wanted(trainer)
        if end is not None and log is not None:
            log()
        if save:
            self._save_or_warn(trainer, must=end is not None)
        if end is not None:
            raise end

    def _save_or_warn(self, trainer: Trainer, must: bool = False) -> None:
        """Saves; where that fails, and it is no must, says so."""
        try:
            self.save(trainer)
        except ValueError as error:
            if must:
                raise
            if error.__cause__ is not None:  # this process is the one that could not write
                warnings.warn(f"{error}. Training goes on", stacklevel=2)

    # ------------------------------------------------------------------ the end

    def _run(self, trainer: Trainer) -> None:
        """In place of the loop's `run`, which does nothing where no batch is left, were the end done or not."""
        loop, self._began = trainer.fit_loop, False
        if loop.done and trainer.ckpt_path is not None and not self._end_is_due:
            most = f"max_steps {trainer.max_steps:,}, max_epochs {trainer.max_epochs}"
            rank_zero_warn(f"{trainer.ckpt_path} is of batch {trainer.global_step:,}: by {most}, nothing is trained")
        type(loop).run(loop)
        if self._end_is_due and not self._began and loop.done:
            loop.on_run_start()
            loop.on_run_end()

    def _end(self, trainer: Trainer) -> None:
        """In place of the loop's `on_run_end`, which calls what is to be done at the end."""
        if not callbacks_of(trainer, RunCheckpoint):  # a trial of BatchSizeFinder, which sets all callbacks aside
            type(trainer.fit_loop).on_run_end(trainer.fit_loop)
            return
        self._save_or_warn(trainer)
        self._ending = True
        if end := self._asked(trainer):
            raise end
        loop = trainer.fit_loop
        type(loop).on_run_end(loop)
        self.save(trainer)
        trainer.strategy.barrier("end")  # that of all processes is done
        self._mark(trainer)
        self._restore_handlers()

    def _mark(self, trainer: Trainer) -> None:
        """Writes into the checkpoint of the last batch that the end of the run is done, if all of it is on the disk."""
        # pyright does not see what Lightning's connectors give a trainer.
        if trainer.is_global_zero and not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            path, disk = step_path(self.folder(trainer), trainer.global_step), trainer.strategy.checkpoint_io
            from_python = trainer.lightning_module.run_config is None  # pyright: ignore[reportAttributeAccessIssue] # a GAN
            how = "ckpt_path='last' or --resume auto" if from_python else "--resume auto"
            again = f"Make room on the disk, and {how} does the end of the run again"
            try:
                if failure := self.send(trainer):
                    raise failure
                if lost := outbox(trainer).give_up():
                    warnings.warn(f"{counted(len(lost), 'file')} could not be written. {again}", stacklevel=2)
                else:
                    part = parts(path)[0]  # of a folder: all but the shards is read from there
                    disk.save_checkpoint(disk.load_checkpoint(part) | {"ended": True}, part)
                    self.name(path, trainer.global_step)
            except Exception as error:  # a damaged file can raise anything
                warnings.warn(f"cannot write {path}: {error}. {again}", stacklevel=2)
        trainer.strategy.barrier()

    # ------------------------------------------------------------------ Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: GAN, stage: str) -> None:
        if stage != "fit":
            return
        if len(callbacks_of(trainer, RunCheckpoint)) > 1:
            raise GANError("two RunCheckpoints would remove each other's checkpoints: leave one out")
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None:
                raise GANError(
                    "ModelCheckpoint's train_time_interval never saves where a module steps its own optimizers, as a "
                    "GAN does: set RunCheckpoint's minutes instead"
                )
        if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
            raise GANError("RunCheckpoint must know when a checkpoint is whole: leave AsyncCheckpointIO out")
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        # What Lightning does about SIGTERM exchanges a tensor in every batch, and one from within the handler, wherever
        # the other processes are then. Ours look together, every so many batches.
        self._signal = None
        self._end_is_due = False
        trainer.fit_loop.run = partial(self._run, trainer)
        trainer.fit_loop.on_run_end = partial(self._end, trainer)
        trainer._signal_connector._sigterm_notifier_fn = self._on_signal  # private
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # private
        here = str(trainer.ckpt_path)
        first = trainer.strategy.broadcast(here)
        if self._any(trainer, here != first):
            raise GANError(
                f"the processes do not see the same run folder: the first would go on from {first}, and "
                f"{'another one not' if here == first else f'this one from {here}'}. "
                "Put run_dir on a disk that all machines share"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: GAN, checkpoint: dict[str, Any]) -> None:
        checkpoint["should_stop"] = trainer.should_stop  # of a run that early stopping, say, is about to end

    def on_load_checkpoint(self, trainer: Trainer, pl_module: GAN, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit" and not checkpoint.get("ended"):
            self._end_is_due = True
            trainer.should_stop = checkpoint.get("should_stop", False)
        # From the end of an epoch, Lightning would go on with an epoch of no batches, and count that too.
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        self._between_epochs = progress["total"]["processed"] == progress["total"]["ready"]
        if self._between_epochs:
            for counts in progress.values():
                counts["completed"] = counts["processed"]

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        if self._between_epochs:
            trainer.fit_loop.epoch_loop.restarting = False
        self._began, self._ending = True, False
        self._began_at = self._looked_at = trainer.global_step
        self._tracker = next(iter(active_trackers(trainer)), None)
        self._written = set()
        self._saved_when = time.monotonic()
        folder = self.folder(trainer)
        own = trainer.ckpt_path is not None and Path(trainer.ckpt_path).parent.resolve() == folder.resolve()
        self.saved_at = trainer.global_step if own and step_path(folder, trainer.global_step).exists() else -1
        if trainer.is_global_zero and not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            remove_partial(folder)
        if threading.current_thread() is threading.main_thread():  # elsewhere signals are not ours to handle
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous_handlers[number] = signal.getsignal(number)
                signal.signal(number, self._on_signal)

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Lightning would not go back to a validation that is due now: save after it, or after the epoch.
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None  # private; it has fetched this batch
        if not trainer.is_last_batch and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # private
            self._look(trainer, trainer._logger_connector.update_train_step_metrics)  # private

    def on_validation_end(self, trainer: Trainer, pl_module: GAN) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self._look(trainer, trainer._logger_connector.update_train_epoch_metrics)  # private

    def on_exception(self, trainer: Trainer, pl_module: GAN, exception: BaseException) -> None:
        self._restore_handlers()
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if stopped and trainer.is_global_zero and self.saved_at >= 0:
            command = f"python -m gan.cli fit --run_dir {shlex.quote(str(trainer.default_root_dir))} --resume auto"
            if pl_module.run_config is None:  # from Python, where no command knows the rest of the run
                command = f"trainer.fit(model, data, ckpt_path={str(self.folder(trainer) / LAST)!r})"
            with suppress(OSError):  # the output may be a file on a full disk
                print(f"stopped after batch {trainer.global_step:,}; saved as of batch {self.saved_at:,}. Go on with:")
                print(f"  {command}", flush=True)


# ---------------------------------------------------------------------- "last" and "best"

lightnings = _CheckpointConnector._parse_ckpt_path  # private: it asks ModelCheckpoint alone what is last and best


def parse_ckpt_path(
    self: _CheckpointConnector, state_fn: TrainerFn, ckpt_path: Any, model_provided: bool, model_connected: bool
) -> Any:
    """The checkpoint that `ckpt_path` stands for in `trainer.fit`, `validate` and `test`: `last` and `best` as here.

    Raises:
        GANError: If no score has told which one is best, or there are some, and none can be used.
    """
    for callback in callbacks_of(self.trainer, RunCheckpoint)[:1]:
        folder = callback.folder(self.trainer)
        if ckpt_path is None and model_connected and not model_provided:
            ckpt_path = "best"  # as Lightning does: the module is that of the `fit` before
        if ckpt_path == "last" and (found := newest_whole(folder)):
            ckpt_path = found[0]
        elif ckpt_path == "best":
            ckpt_path = folder / BEST
            if not ckpt_path.exists():
                raise GANError(f"there is no {ckpt_path}: no FIDTracker has said which is best. Give ckpt_path='last'")
    return lightnings(self, state_fn, ckpt_path, model_provided=model_provided, model_connected=model_connected)


_CheckpointConnector._parse_ckpt_path = parse_ckpt_path
