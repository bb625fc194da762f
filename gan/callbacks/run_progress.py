"""What a run says on the terminal, and how fast it goes."""

import math
import shlex
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar, Timer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gan.errors import GANError, counted
from gan.loggers import CHARTS_PAGE, RunTensorBoard
from gan.module import GAN
from gan.networks import evaluating, given
from gan.order import callbacks_of
from gan.spec import class_name
from gan.text import noun

UNKNOWN_EVERY = 10  # seconds between two lines of a run whose length is not known


class RunProgress(ProgressBar):
    """Says what runs, shows one bar over all training batches, and says where the results are.

    Also logs `images_per_second`: real images trained on, over all processes, with all that a run does besides.
    Where the output is no terminal, the bar is a line every tenth of the run, or every ten seconds of one of unknown
    length.

    Args:
        refresh: Seconds between two redraws of the bar; each takes time from training.
    """

    def __init__(self, refresh: float = 0.5):
        if not refresh >= 0:
            raise GANError(f"RunProgress's refresh must be 0 seconds or more, got {refresh}")
        super().__init__()
        self.refresh = refresh
        self.enabled = True
        self.has_bar = True  # else it says how a run begins and ends, and nothing in between
        self.console = Console(highlight=False, soft_wrap=True)
        self.bar: Progress | None = None

    def disable(self) -> None:
        self.enabled = False  # Lightning does so on every rank but the first

    def enable(self) -> None:
        self.enabled = True

    def print(self, *args: Any, markup: bool = False, **kwargs: Any) -> None:
        if self.enabled:
            known = self.console.encoding  # a letter that it has not must not end a run
            lines = [
                arg.encode(known, "backslashreplace").decode(known) if isinstance(arg, str) else arg for arg in args
            ]
            with suppress(OSError):  # the output may be a file on a full disk; it stays in the buffer of that file
                self.console.print(*lines, markup=markup, **kwargs)

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        self.total = total_batches(trainer)
        for line in report(trainer, pl_module):
            self.print(line)
        self.images, self.since = 0, time.perf_counter()
        self.drawn_at = self.since if self.total is None else 0.0
        self.tenths = trainer.global_step * 10 // self.total if self.total else 0
        if self.enabled and self.has_bar and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("batch {task.completed:,}/{task.fields[of]}"),
                BarColumn(bar_width=10),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                TextColumn("{task.fields[scalars]}"),
                console=self.console,
                auto_refresh=False,  # its thread would take turns with training
            )
            of = "?" if self.total is None else f"{self.total:,}"
            self.task = self.bar.add_task("", total=self.total, completed=trainer.global_step, of=of, scalars="")
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: GAN, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.images += len(batch[0]) * trainer.world_size
        now = time.perf_counter()
        # pyright does not see what Lightning's connectors give a trainer.
        if pl_module.logs_now:
            pl_module.log_scalars({"images_per_second": self.images / (now - self.since)})
            self.images, self.since = 0, now
        if not self.has_bar:
            return
        if self.bar is not None:
            if now - self.drawn_at > self.refresh:
                self.drawn_at = now
                self.draw(trainer)
        elif self.total is None:
            if now - self.drawn_at > UNKNOWN_EVERY:
                self.drawn_at = now
                self.print(f"batch {trainer.global_step:,}/?  {scalars(trainer)}")
        elif trainer.global_step * 10 // self.total > self.tenths:
            self.tenths = trainer.global_step * 10 // self.total
            self.print(f"batch {trainer.global_step:,}/{self.total:,}  {scalars(trainer)}")

    def draw(self, trainer: Trainer) -> None:
        """Moves the bar to the present batch, where there is one."""
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, scalars=scalars(trainer))
            self.bar.refresh()

    def stop(self, trainer: Trainer) -> None:
        """Draws the bar for the last time, where there is one."""
        if self.bar is not None:
            self.draw(trainer)
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self.stop(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: GAN) -> None:
        self.print(f"ended          after batch {trainer.global_step:,}: {why_ended(trainer)}")
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
            return  # a trial, of which a command keeps nothing
        folder = Path(trainer.default_root_dir)
        kind = "texts" if noun(pl_module.generator) == "text" else "pictures"
        for what, path in ((kind, folder / "samples"), ("checkpoint", folder / "checkpoints" / "last.ckpt")):
            if path.exists():
                self.print(f"{what:<15}{path}")

    def on_exception(self, trainer: Trainer, pl_module: GAN, exception: BaseException) -> None:
        self.stop(trainer)


def report(trainer: Trainer, gan: GAN) -> list[str]:
    """What will run, in five lines, and one for each number that follows a schedule."""
    condition = gan.trial_condition(1)
    folder, data = trainer.default_root_dir, trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue] # as above
    name = "given data loaders" if data is None else type(data).__name__
    shape = "x".join(map(str, getattr(data, "image_shape", None) or getattr(data, "sample_shape", ())))
    batches = trainer.num_training_batches
    page = f"   (charts: page {CHARTS_PAGE})" if any(isinstance(log, RunTensorBoard) for log in trainer.loggers) else ""
    epoch = "? batches" if batches == math.inf else counted(int(batches), "batch", "batches")
    frozen, kind = gan.frozen_layers, noun(gan.generator)
    few = getattr(data, "num_labels", None)
    labels = f", {counted(few, 'label')} kept" if isinstance(few, int) else ""
    return [
        f"device         {device_name(trainer)}, precision {trainer.precision}",
        f"data           {name} {shape}, {epoch} an epoch{labels}",
        f"generator      {describe(gan.generator, gan.fixed_latents[:1], condition)} per {kind}",
        f"discriminator  {describe(gan.discriminator, gan(gan.fixed_latents[:1], condition), condition)} per {kind}",
        *(
            [f"frozen         of the discriminator, its first {counted(len(frozen), 'layer')}: {', '.join(frozen)}"]
            if frozen
            else []
        ),
        *(f"schedule       {name}: {schedule}" for name, schedule in gan.schedules()),
        f"run            {folder}{page}   (watch: tensorboard --logdir {shlex.quote(str(folder))})"
        if not trainer.fast_dev_run  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        else "run            one batch to try, of which nothing is kept",
    ]


def device_name(trainer: Trainer) -> str:
    """What a trainer computes on, and how many of them."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"CPU, {counted(threads, 'thread')}"
    return name if trainer.world_size == 1 else f"{trainer.world_size} x {name}"


def describe(network: nn.Module, inputs: Tensor, condition: Tensor | None = None) -> str:
    """Class, parameters and multiply-adds for one input (1, ...), and its condition (1, ...) if there is one."""
    (told,) = given(condition, network)
    with torch.no_grad(), evaluating(network), FlopCounterMode(display=False) as counter:
        told(inputs)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    multiply_adds = counter.get_total_flops() // 2
    return f"{class_name(network)}, {counted(parameters, 'parameter')}, {counted(multiply_adds, 'multiply-add')}"


def total_batches(trainer: Trainer) -> int | None:
    """The training batches that a run will end at, or None where only a time limit or nothing ends it."""
    ends = []
    if trainer.max_steps > 0:
        ends.append(trainer.max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        ends.append(trainer.max_epochs * trainer.num_training_batches)  # infinite for a stream of unknown length
    return int(min(ends)) if ends and min(ends) < math.inf else None


def ends_with_epoch(trainer: Trainer) -> bool:
    """Whether the epoch that is just over is the last one of the run: by their number, or since somebody stops it."""
    return trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs


def why_ended(trainer: Trainer) -> str:
    """What has ended a run, as a setting or a callback."""
    if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        return "trainer.fast_dev_run, which keeps nothing"
    step = trainer.global_step
    epochs = trainer.fit_loop.epoch_progress.current.processed  # pyright: ignore[reportAttributeAccessIssue]
    limit = trainer.limit_train_batches  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
    if 0 in (limit, trainer.num_training_batches):
        return "there are no training batches (trainer.limit_train_batches, data)"
    for stopper in callbacks_of(trainer, EarlyStopping):
        if stopper.stopping_reason_message:
            return f"EarlyStopping, {' '.join(stopper.stopping_reason_message.split())}"
    if 0 <= trainer.max_steps <= step:
        return f"trainer.max_steps {trainer.max_steps:,}"
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs:
        return f"trainer.max_epochs {trainer.max_epochs:,}"
    if any(
        left is not None and left <= 0 for left in (timer.time_remaining() for timer in callbacks_of(trainer, Timer))
    ):
        return "its time is over (trainer.max_time, or a Timer)"
    return "a callback asked for it" if trainer.should_stop else "there were no more batches"


def scalars(trainer: Trainer) -> str:
    """The losses, the FID and the speed, as one line."""
    metrics = trainer.progress_bar_metrics
    short = {"discriminator": "D", "generator": "G"}
    losses = {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}
    parts = [f"{short.get(name, name)} {value:.2f}" for name, value in losses.items()]
    parts += [f"FID {value:.3f}" for name, value in metrics.items() if name.startswith("fid/")]
    if "images_per_second" in metrics:
        parts.append(f"{metrics['images_per_second']:,.0f} {noun(trainer.lightning_module.generator)}s/s")
    return "  ".join(parts)


def say(trainer: Trainer, text: str) -> None:
    """Shows the user a line, where the trainer shows anything, on the first process."""
    if trainer.progress_bar_callback is not None:
        trainer.progress_bar_callback.print(text)
