"""What a run says while it goes, and how fast it says it goes."""

import io
import os
import re
from types import SimpleNamespace

import pytest
import torch
from commands import fit, table
from lightning import Callback
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from rich.console import Console

from gan.callbacks import ImageLogger, RunCheckpoint, RunProgress
from gan.callbacks.run_progress import ends_with_epoch, scalars, total_batches
from gan.optim import WarmupCosine


class Clock:
    """Stands still but for what a test adds."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(
            "gan.callbacks.run_progress.time", SimpleNamespace(perf_counter=self.look, monotonic=self.look)
        )

    def look(self) -> float:
        return self.now

    def ticking(self, seconds: float) -> Callback:
        """A callback by which each batch takes that long."""
        clock = self

        class Tick(Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                clock.now += seconds

        return Tick()


class Kept(Logger):
    name, version = "kept", None

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows += [(step, metrics["images_per_second"])] if "images_per_second" in metrics else []

    def log_hyperparams(self, params):
        pass


def run_in_terminal(make_gan, make_trainer, data, callbacks=(), **settings) -> str:
    """All that a terminal 200 columns wide is sent, as text."""
    progress = RunProgress(refresh=0.0)
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=200, highlight=False)
    make_trainer(enable_progress_bar=True, callbacks=[*callbacks, progress], **settings).fit(make_gan(), data)
    return progress.console.file.getvalue()


def plain_text(output: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)


def frames(text: str) -> list[str]:
    """The bar, each time that it was drawn."""
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip().startswith("batch ")]


# ---------------------------------------------------------------------- images per second


def test_images_per_second_counts_images(make_gan, make_trainer, data, monkeypatch):
    """16 images in each half second, whatever the number of batches between two entries."""
    clock, logger = Clock(monkeypatch), Kept()
    callbacks = [clock.ticking(0.5), RunProgress()]
    trainer = make_trainer(
        max_steps=7, log_every_n_steps=3, logger=logger, enable_progress_bar=True, callbacks=callbacks
    )
    trainer.fit(make_gan(), data)
    assert logger.rows == [(3, 32.0), (6, 32.0)]


def test_images_per_second_of_several_processes(make_gan, make_trainer, data, monkeypatch):
    """Each has its own batch: four of them train on four times as many images."""
    clock, logger = Clock(monkeypatch), Kept()

    class Four(Callback):
        def on_train_start(self, trainer, pl_module):
            monkeypatch.setattr(type(trainer), "world_size", 4)

    callbacks = [Four(), clock.ticking(0.5), RunProgress()]
    make_trainer(max_steps=2, logger=logger, enable_progress_bar=True, callbacks=callbacks).fit(make_gan(), data)
    assert logger.rows == [(1, 128.0), (2, 128.0)]


def test_a_pause_counts(make_gan, make_trainer, data, monkeypatch):
    """Validation, pictures and checkpoints are part of what a run takes; the time before the first batch is not."""
    clock, logger = Clock(monkeypatch), Kept()

    class Pause(Callback):
        def on_fit_start(self, trainer, pl_module):
            clock.now += 1000

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 1:
                clock.now += 1.5

    callbacks = [clock.ticking(0.5), Pause(), RunProgress()]
    make_trainer(max_steps=2, logger=logger, enable_progress_bar=True, callbacks=callbacks).fit(make_gan(), data)
    assert logger.rows == [(1, 8.0), (2, 32.0)]


def test_images_per_second_is_in_the_table(tmp_path):
    fit(tmp_path / "run")
    text = (tmp_path / "run" / "metrics.csv").read_text(encoding="utf-8")
    assert "images_per_second" in text.splitlines()[0]
    assert len(table(tmp_path / "run")) == 3


# ---------------------------------------------------------------------- the bar


def test_bar_in_a_terminal(make_gan, make_trainer, data):
    text = plain_text(run_in_terminal(make_gan, make_trainer, data, max_steps=8))
    lines = frames(text)
    assert {line.split()[1] for line in lines} >= {f"{step}/8" for step in range(1, 9)}
    last = lines[-1]
    assert re.search(r"D \d+\.\d\d  G \d+\.\d\d  [\d,]+ images/s", last)
    assert "━" in last


def test_bar_shows_the_values_of_its_batch(make_gan, make_trainer, data):
    seen = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(f"{trainer.progress_bar_metrics['loss/generator']:.2f}")

    text = plain_text(run_in_terminal(make_gan, make_trainer, data, callbacks=[Losses()], max_steps=4))
    shown = dict(re.findall(r"batch (\d)/4.* G (\d+\.\d\d)", "\n".join(frames(text))))
    assert shown == {str(step): value for step, value in enumerate(seen, start=1)}


def test_bar_comes_after_the_start_and_before_the_end(make_gan, make_trainer, data):
    writers = [ImageLogger(), RunCheckpoint()]
    text = plain_text(run_in_terminal(make_gan, make_trainer, data, max_steps=2, callbacks=writers))
    order = [text.index(word) for word in ("device  ", "run  ", "batch 1/2", "batch 2/2", "pictures  ", "checkpoint  ")]
    assert order == sorted(order)


def test_bar_is_redrawn_so_often_and_not_more(make_gan, make_trainer, data, monkeypatch):
    """Each redraw takes time from training."""
    clock, drawn = Clock(monkeypatch), []
    monkeypatch.setattr(RunProgress, "draw", lambda self, trainer: drawn.append(trainer.global_step))
    progress = RunProgress(refresh=1.0)
    progress.console = Console(file=io.StringIO(), force_terminal=True)
    callbacks = [clock.ticking(0.4), progress]
    make_trainer(max_steps=8, enable_progress_bar=True, callbacks=callbacks).fit(make_gan(), data)
    assert drawn == [1, 4, 7, 8]


def test_cursor_comes_back_when_a_run_breaks(make_gan, make_trainer, data):
    """A bar that is left running hides the cursor of the terminal for good."""

    class Bug(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 2:
                raise KeyError("a bug")

    progress = RunProgress(refresh=0.0)
    progress.console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(KeyError, match="a bug"):
        make_trainer(enable_progress_bar=True, callbacks=[progress, Bug()]).fit(make_gan(), data)
    output = progress.console.file.getvalue()
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert progress.bar is None


def test_without_a_terminal_a_line_every_tenth(make_gan, make_trainer, data, capsys):
    progress = RunProgress()
    make_trainer(max_steps=25, enable_progress_bar=True, callbacks=[progress]).fit(make_gan(), data)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("batch ")]
    assert [line.split()[1] for line in lines] == [f"{step}/25" for step in (3, 5, 8, 10, 13, 15, 18, 20, 23, 25)]
    assert all(re.search(r"  D \d+\.\d\d  G \d+\.\d\d  [\d,]+ images/s$", line) for line in lines)


def test_resumed_run_starts_where_it_stopped(make_gan, make_trainer, data, tmp_path, capsys):
    trainer = make_trainer(max_steps=10)
    trainer.fit(make_gan(), data)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    progress = RunProgress(refresh=0.0)
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=200)
    trainer = make_trainer(max_steps=20, enable_progress_bar=True, callbacks=[progress])
    trainer.fit(make_gan(), data, ckpt_path=tmp_path / "half.ckpt")
    shown = re.findall(r"batch (\d+)/20", plain_text(progress.console.file.getvalue()))
    assert {int(step) for step in shown} == set(range(10, 21))

    capsys.readouterr()
    trainer = make_trainer(max_steps=20, enable_progress_bar=True, callbacks=[RunProgress()])
    trainer.fit(make_gan(), data, ckpt_path=tmp_path / "half.ckpt")
    assert re.findall(r"^batch (\d+)/20", capsys.readouterr().out, re.M) == ["12", "14", "16", "18", "20"]


def test_lightning_can_silence_it(make_gan, make_trainer, data, capsys):
    """As it does in every process but the first."""
    progress = RunProgress()
    progress.disable()
    make_trainer(enable_progress_bar=True, callbacks=[progress]).fit(make_gan(), data)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
def test_output_on_a_full_disk(make_gan, make_trainer, data):
    """The run goes on."""
    progress = RunProgress()
    gan, full = make_gan(), open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
    progress.console = Console(file=full)
    make_trainer(enable_progress_bar=True, callbacks=[progress]).fit(gan, data)
    assert gan.global_step == 8
    with pytest.raises(OSError, match="No space left"):
        full.close()


def test_markup_in_a_folder_is_not_for_rich(make_gan, make_trainer, data, tmp_path, capsys):
    """Names with square brackets are lost where they are taken for markup, and long ones broken for wrapping."""
    folder = tmp_path / "[red]" / ("long" * 40)
    trainer = make_trainer(max_steps=1, enable_progress_bar=True, callbacks=[RunProgress()], default_root_dir=folder)
    trainer.fit(make_gan(), data)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run ")]
    assert line == f"run            {folder}   (watch: tensorboard --logdir '{folder}')"


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({"max_steps": 30}, 30),
        ({"max_steps": 30, "max_epochs": 2}, 30),
        ({"max_steps": 100, "max_epochs": 2}, 64),
        ({"max_steps": -1, "max_epochs": 2}, 64),
        ({"max_steps": -1, "max_epochs": 2, "limit_train_batches": 5}, 10),
        ({"max_steps": -1, "max_epochs": -1}, None),
    ],
)
def test_total_batches(make_gan, make_trainer, data, settings, total):
    """512 images in batches of 16."""
    totals = []

    class Total(Callback):
        def on_train_start(self, trainer, pl_module):
            totals.append(total_batches(trainer))
            trainer.should_stop = True

    make_trainer(callbacks=[Total()], **settings).fit(make_gan(), data)
    assert totals == [total]


@pytest.mark.parametrize(
    ("settings", "stops", "last"),
    [({"max_epochs": 2}, 0, [False, True]), ({"max_epochs": -1}, 20, [False, True]), ({"max_epochs": 9}, 3, [True])],
)
def test_whether_an_epoch_is_the_last(make_gan, make_trainer, data, settings, stops, last):
    """512 images in batches of 16, ten of them an epoch."""
    seen = []

    class Look(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == stops

        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(ends_with_epoch(trainer))

    settings = {"max_steps": -1, "limit_train_batches": 10, **settings}
    make_trainer(callbacks=[Look()], **settings).fit(make_gan(), data)
    assert seen == last


def test_run_without_an_end(make_gan, make_trainer, data):
    """Ended by a time limit, or by hand: no total, and no division by it."""

    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = trainer.global_step == 3

    settings = {"max_steps": -1, "max_epochs": -1}
    assert "batch 3/?" in plain_text(run_in_terminal(make_gan, make_trainer, data, callbacks=[Stop()], **settings))
    make_trainer(enable_progress_bar=True, callbacks=[Stop(), RunProgress()], **settings).fit(make_gan(), data)


def test_any_bar_shows_the_losses_and_the_speed_alone(make_gan, make_trainer, data):
    """A chart holds dozens of scalars, and a bar has one line."""
    trainer = make_trainer(max_steps=3, log_every_n_steps=1, enable_progress_bar=True, callbacks=[RunProgress()])
    trainer.fit(make_gan(generator_scheduler=WarmupCosine), data)
    assert {"lr/generator", "loss/generator"} <= set(trainer.callback_metrics)
    assert {name.partition("/")[0] for name in trainer.progress_bar_metrics} == {"loss", "images_per_second"}


@pytest.mark.parametrize(
    ("seconds", "reason"), [(0, r"its time is over \(trainer\.max_time, or a Timer\)"), (1000, r"trainer\.max_steps 3")]
)
def test_a_timer_that_has_ended_a_run_is_named(make_gan, make_trainer, data, capsys, seconds, reason):
    timer = Timer({"seconds": seconds}, interval="step")
    make_trainer(max_steps=3, enable_progress_bar=True, callbacks=[RunProgress(), timer]).fit(make_gan(), data)
    assert re.search(rf"ended +after batch \d: {reason}\n", capsys.readouterr().out)


def test_scalars_is_one_short_line():
    metrics = {
        "loss/discriminator": torch.tensor(1.23456),
        "loss/r1": 0.5,
        "images_per_second": 12345.6,
        "grad_norm/generator": 3.0,
    }
    images, texts = (SimpleNamespace(generator=SimpleNamespace(**own)) for own in ({}, {"characters": "ab"}))
    for gan, unit in ((images, "images/s"), (texts, "texts/s")):
        trainer = SimpleNamespace(progress_bar_metrics=metrics, lightning_module=gan)
        assert scalars(trainer) == f"D 1.23  r1 0.50  12,346 {unit}"
    assert scalars(SimpleNamespace(progress_bar_metrics={})) == ""
