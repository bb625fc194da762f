"""The run's checkpoint: whole at every moment, resumable, and written when it should be."""

import os
import signal

import pytest
import torch
from conftest import same_weights
from lightning import Callback

from gan.callbacks import AtomicCheckpointIO, RunCheckpoint


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


def test_saves_every_so_often_and_at_the_end(make_gan, make_trainer, data, tmp_path):
    saved = []

    class Watch(Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            saved.append(trainer.global_step)

    gan = make_gan()
    make_trainer(max_steps=8, callbacks=[RunCheckpoint(every=3), Watch()], plugins=[AtomicCheckpointIO()]).fit(
        gan, data
    )
    assert saved == [3, 6, 8]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8


def test_full_disk_warns_and_the_last_good_checkpoint_stays(make_gan, make_trainer, data, tmp_path):
    trainer = make_trainer(callbacks=[RunCheckpoint(every=3)], plugins=[Disk(full_from=2, full_to=3)])
    with pytest.warns(UserWarning, match=r"No space left.*batch 3 is kept.*Training goes on"):
        trainer.fit(make_gan(), data)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8


@pytest.mark.filterwarnings("ignore:.*No space left")
def test_disk_still_full_at_the_end_is_an_error(make_gan, make_trainer, data, tmp_path):
    trainer = make_trainer(callbacks=[RunCheckpoint(every=3)], plugins=[Disk(full_from=2)])
    with pytest.raises(ValueError, match=r"cannot write .*last\.ckpt.*batch 3 is kept. Make room"):
        trainer.fit(make_gan(), data)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]  # no half file either
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


class Press(Callback):
    """Presses Ctrl-C in the middle of a batch."""

    def __init__(self, batch: int, times: int = 1):
        self.batch, self.times = batch, times

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.batch and optimizer is trainer.optimizers[0]:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_finishes_the_batch_and_saves(make_gan, make_trainer, data, tmp_path):
    whole, stopped, resumed = make_gan(), make_gan(), make_gan()
    make_trainer(max_steps=9).fit(whole, data)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):  # Lightning's answer to Ctrl-C
        make_trainer(max_steps=9, callbacks=[RunCheckpoint(every=100), Press(batch=4)]).fit(stopped, data)
    signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 5
    make_trainer(max_steps=9).fit(resumed, data, ckpt_path=last)
    assert same_weights(whole, resumed)


def test_second_ctrl_c_ends_at_once(make_gan, make_trainer, data, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        make_trainer(max_steps=9, callbacks=[RunCheckpoint(every=100), Press(4, times=2)]).fit(make_gan(), data)
    signal.signal(signal.SIGINT, handler)
    assert not (tmp_path / "checkpoints").exists()


def test_handler_is_put_back(make_gan, make_trainer, data):
    before = signal.getsignal(signal.SIGINT)
    make_trainer(max_steps=2, callbacks=[RunCheckpoint()]).fit(make_gan(), data)
    assert signal.getsignal(signal.SIGINT) is before


def test_half_written_file_never_replaces_a_whole_one(tmp_path):
    disk = AtomicCheckpointIO()
    disk.save_checkpoint({"value": 1}, tmp_path / "a.ckpt")
    with pytest.raises(OSError, match="No space"):
        disk.save_checkpoint({"value": torch.zeros(1000), "end": Breaks()}, tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt", weights_only=True) == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_bad_every():
    with pytest.raises(ValueError, match="every"):
        RunCheckpoint(every=0)
