"""The run's checkpoints: one whole at every moment, resumable, written and removed when they should be."""

import os
import re
import signal
from contextlib import suppress
from datetime import timedelta

import pytest
import torch
from conftest import Recorder, same_weights
from lightning import Callback
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gan.callbacks import AtomicCheckpointIO, RunCheckpoint
from gan.checkpoints import check_checkpoint
from gan.errors import GANError
from gan.loggers import MetricsTable


class Disk(AtomicCheckpointIO):
    """Fails from a given save on, half-way through the file, as a full disk does."""

    def __init__(self, full_from: int, full_to: int = 10**9):
        self.saves, self.full = 0, range(full_from, full_to)

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.saves += 1
        if self.saves in self.full:
            checkpoint = checkpoint | {"too much": Breaks()}
        super().save_checkpoint(checkpoint, path, storage_options)


class Breaks:
    def __reduce__(self):
        raise OSError(28, "No space left on device")


class Saves(Callback):
    """Notes the batches at which something is saved."""

    def __init__(self):
        self.steps = []

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.steps.append(trainer.global_step)


def names(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


def saved_step(tmp_path, name="last.ckpt") -> int:
    return torch.load(tmp_path / "checkpoints" / name, weights_only=True)["global_step"]


def test_saves_every_so_often_and_at_the_end(make_gan, make_trainer, data, tmp_path):
    saves = Saves()
    make_trainer(max_steps=8, callbacks=[RunCheckpoint(every=3), saves]).fit(make_gan(), data)
    assert saves.steps == [3, 6, 8]
    assert names(tmp_path) == ["last.ckpt", "step_000006.ckpt", "step_000008.ckpt"]
    for name, step in (("last.ckpt", 8), ("step_000006.ckpt", 6), ("step_000008.ckpt", 8)):
        assert saved_step(tmp_path, name) == step
        check_checkpoint(tmp_path / "checkpoints" / name)


def test_every_batch_of_two_epochs_with_validations(make_gan, make_trainer, data):
    """It waits for the validation and for the end of the epoch, and misses no batch for it."""
    saves = Saves()
    data.validation_size = 448  # 4 batches an epoch
    trainer = make_trainer(max_steps=8, val_check_interval=2, callbacks=[RunCheckpoint(every=1), saves])
    trainer.fit(make_gan(), data)
    assert saves.steps == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("keep", [1, 3])
def test_keeps_the_newest(make_gan, make_trainer, data, tmp_path, keep):
    """At each moment: the new one is whole before an old one goes."""
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append([name for name in os.listdir(tmp_path / "checkpoints") if name.startswith("step")])

    (tmp_path / "checkpoints").mkdir()
    others = ["best.ckpt", "step_2.ckpt", "notes.txt"]
    for name in [*others, "step_000002.ckpt.partial"]:
        (tmp_path / "checkpoints" / name).touch()
    make_trainer(max_steps=8, callbacks=[RunCheckpoint(every=1, keep=keep), Look()]).fit(make_gan(), data)
    own = [f"step_00000{step}.ckpt" for step in range(9 - keep, 9)]
    assert names(tmp_path) == sorted([*others, "last.ckpt", *own])
    assert [len(files) - 1 for files in seen] == [min(step, keep) for step in range(8)]


def test_checkpoints_that_the_run_went_back_behind_do_not_count(make_gan, make_trainer, data, tmp_path):
    """Those beyond the one that it went on from may be damaged: the good ones must not make room for them."""
    make_trainer(max_steps=6, callbacks=[RunCheckpoint(every=2, keep=3)]).fit(make_gan(), data)
    folder = tmp_path / "checkpoints"
    for name in ("last.ckpt", "step_000006.ckpt", "step_000004.ckpt"):
        (folder / name).unlink()
        (folder / name).write_bytes(b"damaged")
    trainer = make_trainer(max_steps=5, callbacks=[RunCheckpoint(every=10, keep=2)])
    trainer.fit(make_gan(), data, ckpt_path=folder / "step_000002.ckpt")
    assert names(tmp_path) == ["last.ckpt", "step_000002.ckpt", "step_000005.ckpt", "step_000006.ckpt"]
    assert saved_step(tmp_path, "step_000002.ckpt") == 2
    assert saved_step(tmp_path) == 5


def test_saves_by_the_clock(make_gan, make_trainer, data, monkeypatch):
    """Lightning's own timed checkpoints are never written in manual optimization."""
    now, saves = [0.0], Saves()
    monkeypatch.setattr("gan.callbacks.run_checkpoint.time.monotonic", lambda: now[0])

    class Clock(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            now[0] += 20  # seconds

    make_trainer(max_steps=10, callbacks=[RunCheckpoint(every=4, minutes=1), saves, Clock()]).fit(make_gan(), data)
    assert saves.steps == [3, 4, 7, 8, 10]


def test_timed_checkpoint_of_lightning_is_refused(make_gan, make_trainer, data, tmp_path):
    timed = ModelCheckpoint(train_time_interval=timedelta(minutes=1))
    with pytest.raises(ValueError, match=r"train_time_interval never saves.*set RunCheckpoint's minutes"):
        make_trainer(callbacks=[RunCheckpoint(), timed]).fit(make_gan(), data)
    make_trainer(callbacks=[RunCheckpoint(), ModelCheckpoint(tmp_path)]).fit(make_gan(), data)


@pytest.mark.parametrize("own", [None, Disk(full_from=9)], ids=["none", "own"])
def test_file_is_written_beside_its_place(make_gan, make_trainer, data, own):
    """From Python too, where nobody thinks of a plugin. One that the user gives is left alone."""
    trainer = make_trainer(callbacks=[RunCheckpoint()], plugins=[] if own is None else [own])
    trainer.fit(make_gan(), data)
    assert type(trainer.strategy.checkpoint_io) is (AtomicCheckpointIO if own is None else Disk)


def test_two_are_refused(make_gan, make_trainer, data):
    with pytest.raises(ValueError, match="two RunCheckpoints"):
        make_trainer(callbacks=[RunCheckpoint(), RunCheckpoint(every=5)]).fit(make_gan(), data)


def test_checkpoint_that_is_written_later_is_refused(make_gan, make_trainer, data):
    trainer = make_trainer(callbacks=[RunCheckpoint()], plugins=[AsyncCheckpointIO()])
    with pytest.raises(ValueError, match="leave AsyncCheckpointIO out"):
        trainer.fit(make_gan(), data)


def test_full_disk_warns_and_the_last_good_checkpoint_stays(make_gan, make_trainer, data, tmp_path):
    trainer = make_trainer(callbacks=[RunCheckpoint(every=3)], plugins=[Disk(full_from=2, full_to=3)])
    with pytest.warns(UserWarning, match=r"No space left.*batch 3 is kept.*Training goes on"):
        trainer.fit(make_gan(), data)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8


@pytest.mark.filterwarnings("ignore:.*No space left")
def test_disk_still_full_at_the_end_is_an_error(make_gan, make_trainer, data, tmp_path):
    trainer = make_trainer(callbacks=[RunCheckpoint(every=3)], plugins=[Disk(full_from=2)])
    with pytest.raises(ValueError, match=r"cannot write .*step_000008\.ckpt.*batch 3 is kept. Make room"):
        trainer.fit(make_gan(), data)
    assert names(tmp_path) == ["last.ckpt", "step_000003.ckpt"]  # no half file either
    assert saved_step(tmp_path) == 3


def test_disk_full_for_the_second_name(make_gan, make_trainer, data, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gan.callbacks.run_checkpoint.name_again", full)
    trainer = make_trainer(max_steps=4, callbacks=[RunCheckpoint(every=2)])
    with (
        pytest.warns(UserWarning, match=r"cannot write .*No space left.*Training goes on"),
        pytest.raises(ValueError, match="Make room"),
    ):
        trainer.fit(make_gan(), data)
    assert names(tmp_path) == ["step_000002.ckpt", "step_000004.ckpt"]


class Press(Callback):
    """Presses Ctrl-C, or sends another signal, in the middle of a batch."""

    def __init__(self, batch: int, *signals: signal.Signals):
        self.batch, self.signals = batch, signals or [signal.SIGINT]

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.batch and optimizer is trainer.optimizers[0]:
            for number in self.signals:
                signal.raise_signal(number)  # to this thread: two that wait for another one would become one


@pytest.fixture
def handlers():
    """Puts back what Lightning does not: it leaves SIGINT ignored, as a shell does in the background."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield before | {signal.SIGINT: signal.default_int_handler}
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("batch", [2, 3, 4])  # the last of the epoch among them
def test_ctrl_c_finishes_the_batch_and_saves(make_gan, make_trainer, data, tmp_path, handlers, batch):
    whole, stopped, resumed = make_gan(), make_gan(), make_gan()
    data.validation_size = 448  # 4 batches an epoch
    make_trainer(max_steps=9).fit(whole, data)
    with pytest.raises(SystemExit):  # Lightning's answer to Ctrl-C
        make_trainer(max_steps=9, callbacks=[RunCheckpoint(every=100), Press(batch)]).fit(stopped, data)
    assert names(tmp_path) == ["last.ckpt", f"step_00000{batch + 1}.ckpt"]
    assert saved_step(tmp_path) == batch + 1
    signal.signal(signal.SIGINT, handlers[signal.SIGINT])
    trainer = make_trainer(max_steps=9, callbacks=[RunCheckpoint()])
    trainer.fit(resumed, data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert same_weights(whole, resumed)


def test_second_ctrl_c_ends_at_once(make_gan, make_trainer, data, tmp_path, handlers):
    twice = Press(4, signal.SIGINT, signal.SIGINT)
    with pytest.raises(SystemExit):
        make_trainer(max_steps=9, callbacks=[RunCheckpoint(every=100), twice]).fit(make_gan(), data)
    assert not (tmp_path / "checkpoints").exists()


def test_sigterm_during_a_validation(make_gan, make_trainer, data, tmp_path, handlers):
    """The run ends after it. Lightning's own handler is not asked: it talks to the other processes at once."""

    class Terminate(Callback):
        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx):
            os.kill(os.getpid(), signal.SIGTERM)
            assert not trainer.received_sigterm

    data.validation_size = 448
    trainer = make_trainer(max_steps=9, num_sanity_val_steps=0, callbacks=[RunCheckpoint(every=100), Terminate()])
    with pytest.raises(SIGTERMException):
        trainer.fit(make_gan(), data)
    assert saved_step(tmp_path) == 4


def test_handlers_are_put_back(make_gan, make_trainer, data, handlers):
    inside = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            inside.append([signal.getsignal(number) for number in handlers])

    make_trainer(max_steps=2, callbacks=[RunCheckpoint(), Look()]).fit(make_gan(), data)
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert all(handler not in handlers.values() for handler in inside[0])


# ---------------------------------------------------------------------- the end


class Hooks(Callback):
    """Notes what is called, and does something at the end of the run."""

    def __init__(self, at_the_end=lambda trainer: None):
        self.called, self.at_the_end = [], at_the_end

    def on_train_start(self, trainer, pl_module):
        self.called.append("start")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.called.append(trainer.global_step)

    def on_train_end(self, trainer, pl_module):
        self.called.append("end")
        self.at_the_end(trainer)


def fails(trainer) -> None:
    raise RuntimeError("in the end")


def ended(tmp_path, name="last.ckpt") -> bool:
    return torch.load(tmp_path / "checkpoints" / name, weights_only=True).get("ended", False)


def test_end_is_marked_when_all_of_it_is_done(make_gan, make_trainer, data, tmp_path):
    """In each name of the last checkpoint, and of no other. A run that trains on has its end before it again."""
    marks = []
    gan = make_gan()
    gan.on_train_end = lambda: marks.append(ended(tmp_path))  # the module's comes after all callbacks'
    hooks = Hooks(lambda trainer: marks.append(ended(tmp_path)))
    make_trainer(max_steps=4, callbacks=[RunCheckpoint(every=3), hooks]).fit(gan, data)
    assert marks == [False, False]
    assert {name: ended(tmp_path, name) for name in names(tmp_path)} == {
        "last.ckpt": True,
        "step_000003.ckpt": False,
        "step_000004.ckpt": True,
    }
    trainer = make_trainer(max_steps=6, callbacks=[RunCheckpoint(), Hooks(fails)])
    with pytest.raises(RuntimeError, match="in the end"):
        trainer.fit(make_gan(), data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert saved_step(tmp_path) == 6
    assert not ended(tmp_path)


class StopAt(Callback):
    """Ends a run, as early stopping does."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or trainer.global_step == 5


@pytest.mark.parametrize(
    ("settings", "stop"),
    [({"max_steps": 8}, []), ({"max_steps": 50, "max_epochs": 2}, []), ({"max_steps": 50}, [StopAt()])],
    ids=["batches", "epochs", "stopped early"],
)
def test_end_that_is_due_is_done(make_gan, make_trainer, data, tmp_path, settings, stop):
    """Once, and without another batch, by a run from Python too."""
    data.validation_size = 448  # 4 batches an epoch
    last, called = tmp_path / "checkpoints" / "last.ckpt", []
    for at_the_end in (fails, lambda trainer: None):
        hooks = Hooks(at_the_end)
        path = last if called else None
        with suppress(RuntimeError):
            make_trainer(callbacks=[RunCheckpoint(), hooks, *stop], **settings).fit(make_gan(), data, ckpt_path=path)
        called.append(hooks.called)
    steps = 5 if stop else 8
    assert called == [["start", *range(steps), "end"], ["start", "end"]]
    assert saved_step(tmp_path) == steps
    assert ended(tmp_path)
    if not stop:  # early stopping has no limit that a checkpoint could have reached
        hooks = Hooks(fails)
        make_trainer(callbacks=[RunCheckpoint(), hooks], **settings).fit(make_gan(), data, ckpt_path=last)
        assert hooks.called == []


def test_signal_before_the_end(make_gan, make_trainer, data, tmp_path, handlers):
    """After the last batch, when nothing looks for one any more: the end is left to another run."""

    class Late(Checkpoint):  # which comes after RunCheckpoint
        def on_train_epoch_end(self, trainer, pl_module):
            signal.raise_signal(signal.SIGINT)

    hooks = Hooks()
    with pytest.raises(SystemExit):
        make_trainer(max_steps=3, callbacks=[RunCheckpoint(), Late(), hooks]).fit(make_gan(), data)
    assert hooks.called == ["start", 0, 1, 2]
    assert (saved_step(tmp_path), ended(tmp_path)) == (3, False)


def test_end_of_which_the_disk_has_no_room_for_the_mark(make_gan, make_trainer, data, tmp_path):
    """It is done again, and that is said."""
    trainer = make_trainer(max_steps=4, callbacks=[RunCheckpoint()], plugins=[Disk(full_from=2)])
    with pytest.warns(UserWarning, match=r"cannot write .*step_000004.*, and ckpt_path='last' or --resume auto does"):
        trainer.fit(make_gan(), data)
    assert (saved_step(tmp_path), ended(tmp_path)) == (4, False)


def test_rows_that_the_disk_does_not_take_hold_the_checkpoint_back(make_gan, make_trainer, data, tmp_path):
    """A run that goes on from it would not log them again."""
    (tmp_path / "metrics.jsonl").mkdir()  # what is in its way
    trainer = make_trainer(max_steps=4, callbacks=[RunCheckpoint(every=2)], logger=MetricsTable(tmp_path))
    with (
        pytest.warns(UserWarning, match=r"cannot write .*step_000002\.ckpt: .*Is a directory.*Training goes on"),
        pytest.raises(ValueError, match=r"cannot write .*step_000004\.ckpt: .*Is a directory"),
    ):
        trainer.fit(make_gan(), data)
    assert "last.ckpt" not in names(tmp_path)


def test_loop_of_lightning(make_trainer):
    """What takes its place, or is called, here is private. Without it, a run would not do its end when it goes on."""
    loop = make_trainer().fit_loop
    for name in ("run", "on_run_start", "on_run_end"):
        assert callable(getattr(loop, name))
    assert isinstance(type(loop).done, property)
    assert {"skip", "on_run_start", "on_run_end"} <= set(type(loop).run.__code__.co_names)


@pytest.mark.parametrize(
    ("setting", "value"), [("every", 0), ("minutes", 0), ("minutes", -1), ("keep", 0)], ids=lambda value: str(value)
)
def test_bad_setting(setting, value):
    with pytest.raises(ValueError, match=f"RunCheckpoint's {setting}"):
        RunCheckpoint(**{setting: value})


def test_scale_of_the_loss_goes_on(make_gan, make_trainer, data, tmp_path):
    """Of half precision: it grows by batches without an overflow, and how many there were counts too."""
    scales = {}

    def scaler(name):
        class Scale(Callback):
            def on_train_batch_end(self, trainer, pl_module, *args):
                scales[name, trainer.global_step] = trainer.precision_plugin.scaler.get_scale()

        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=5)  # 2 steps a batch
        return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)], "callbacks": [RunCheckpoint(every=4), Scale()]}

    whole, parts, resumed = make_gan(), make_gan(), make_gan()
    make_trainer(max_steps=9, **scaler("whole")).fit(whole, data)
    make_trainer(max_steps=4, **scaler("parts")).fit(parts, data)
    trainer = make_trainer(max_steps=9, **scaler("parts"))
    trainer.fit(resumed, data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert same_weights(whole, resumed)
    assert scales["whole", 4] != scales["whole", 9]
    for step in range(1, 10):
        assert scales["whole", step] == scales["parts", step]


# ---------------------------------------------------------------------- from Python


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_a_run_from_python_is_given_the_line_of_python(
    make_gan, make_trainer, data, tmp_path, handlers, capsys, number
):
    """A command would go on with other settings. The line does what it says."""
    whole, parts = make_gan(), make_gan()
    make_trainer(callbacks=[RunCheckpoint()], default_root_dir=tmp_path / "whole").fit(whole, data)
    settings = {"default_root_dir": tmp_path / "it's mine"}
    with suppress(SystemExit, KeyboardInterrupt, SIGTERMException):
        make_trainer(callbacks=[RunCheckpoint(), Signal(number, 3)], **settings).fit(parts, data)
    first, line = capsys.readouterr().out.splitlines()[-2:]
    assert re.fullmatch(r"stopped after batch (\d); saved as of batch \1\. Go on with:", first)
    assert "gan.cli" not in line
    model, recorder = make_gan(), Recorder()
    trainer = make_trainer(callbacks=[RunCheckpoint(), recorder], **settings)
    exec(line.strip(), {"trainer": trainer, "model": model, "data": data})
    assert recorder.global_steps == list(range(int(re.search(r"\d+", first)[0]) + 1, 9))
    assert same_weights(model, whole)


class Signal(Callback):
    """Sends this process a signal in a batch."""

    def __init__(self, number: int, batch: int):
        self.number, self.batch = number, batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.batch:
            signal.raise_signal(self.number)


def test_the_last_one_by_its_name(make_gan, make_trainer, data, tmp_path):
    """Lightning looks for one of ModelCheckpoint alone, and a run would begin anew."""
    whole, parts = make_gan(), make_gan()
    make_trainer(callbacks=[RunCheckpoint()], default_root_dir=tmp_path / "whole").fit(whole, data)
    make_trainer(callbacks=[RunCheckpoint(every=2)], max_steps=5).fit(parts, data)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "last.ckpt").write_bytes(b"PK")  # the disk has damaged it, under both of its names
    model, recorder = make_gan(), Recorder()
    trainer = make_trainer(callbacks=[RunCheckpoint(), recorder])
    trainer.fit(model, data, ckpt_path="last")
    assert recorder.global_steps == [5, 6, 7, 8]
    assert same_weights(model, whole)
    for scored in (make_trainer(callbacks=[RunCheckpoint()]), trainer):
        (score,) = scored.test(model, data, ckpt_path="last", verbose=False)
        assert score["validation/discriminator"] > 0


def test_the_last_one_where_there_is_none(make_gan, make_trainer, data, recwarn):
    """As Lightning has it: the same line can be given from the start."""
    trainer = make_trainer(callbacks=[RunCheckpoint()], max_steps=2)
    trainer.fit(make_gan(), data, ckpt_path="last")
    assert trainer.global_step == 2
    assert [str(warned.message) for warned in recwarn if "no last checkpoint available" in str(warned.message)]


@pytest.mark.parametrize("ckpt_path", ["best", None])
def test_the_best_one_by_its_name(make_gan, make_trainer, data, tmp_path, ckpt_path):
    model, trainer = make_gan(), make_trainer(callbacks=[RunCheckpoint(every=2)], max_steps=4)
    trainer.fit(model, data)
    given = {"model": model} if ckpt_path else {}  # without a module, Lightning takes the best of the one before
    with pytest.raises(GANError, match=r"there is no .*best\.ckpt: no FIDTracker .* Give ckpt_path='last'"):
        trainer.test(datamodule=data, ckpt_path=ckpt_path, **given)
    (tmp_path / "checkpoints" / "best.ckpt").symlink_to("step_000002.ckpt")
    (best,) = trainer.test(datamodule=data, ckpt_path=ckpt_path, verbose=False, **given)
    path = tmp_path / "checkpoints" / "step_000002.ckpt"
    (same,) = make_trainer(callbacks=[RunCheckpoint()]).test(make_gan(), data, ckpt_path=path, verbose=False)
    (last,) = trainer.test(model, data, ckpt_path="last", verbose=False)
    assert best == same
    assert best != last


def test_a_run_with_nothing_left_to_train_says_so(make_gan, make_trainer, data, tmp_path):
    make_trainer(callbacks=[RunCheckpoint()]).fit(make_gan(), data)
    for most in (8, 3):
        with pytest.warns(UserWarning, match=rf"last\.ckpt is of batch 8: by max_steps {most}.*nothing is trained"):
            make_trainer(callbacks=[RunCheckpoint()], max_steps=most).fit(make_gan(), data, ckpt_path="last")
