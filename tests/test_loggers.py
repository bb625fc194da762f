"""The table: a row per step, whatever comes, stops or breaks."""

import csv
import json
import os
import signal

import numpy as np
import pytest
import torch
from conftest import SmallDisk

from gan.loggers import MetricsTable, RunTensorBoard
from gan.outbox import replace


def rows(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def log(folder, *entries, resumed=None) -> None:
    """A run that logs these steps and scalars."""
    table = MetricsTable(folder, resumed)
    for step, metrics in entries:
        table.log_metrics(metrics, step)
    table.finalize("success")


def test_entries_of_a_step_are_one_row(tmp_path):
    log(tmp_path, (1, {"loss/generator": 1.5}), (1, {"images_per_second": 7.0}), (2, {"loss/generator": 2.5}))
    assert rows(tmp_path) == [
        {"step": "1", "images_per_second": "7.0", "loss/generator": "1.5"},
        {"step": "2", "images_per_second": "", "loss/generator": "2.5"},
    ]


def test_entry_after_its_row_was_written_is_not_a_second_row(tmp_path):
    """A checkpoint has the table written, and the validation of that batch comes after it."""
    table = MetricsTable(tmp_path)
    for step in (1, 2):
        table.log_metrics({"a": step / 2}, step=step)
        table.save()
        assert rows(tmp_path)[-1]["step"] == str(step)
        table.log_metrics({"b": step / 4}, step=step)
        table.save()
        table.save()
    table.log_metrics({"c": 7.0}, step=1)  # of an earlier row
    table.save()
    assert rows(tmp_path) == [
        {"step": "1", "a": "0.5", "b": "0.25", "c": "7.0"},
        {"step": "2", "a": "1.0", "b": "0.5", "c": ""},
    ]


def test_entry_without_a_step_is_of_the_latest(tmp_path):
    log(tmp_path, (None, {"a": 1.0}), (3, {"b": 2.0}), (None, {"a": 3.0}))
    assert rows(tmp_path) == [{"step": "0", "a": "1.0", "b": ""}, {"step": "3", "a": "3.0", "b": "2.0"}]
    log(tmp_path, (None, {"c": 4.0}), resumed=3)
    assert rows(tmp_path)[1:] == [{"step": "3", "a": "3.0", "b": "2.0", "c": "4.0"}]


def test_columns_grow_and_nothing_is_lost(tmp_path):
    """Also where a scalar comes that is in no row before, or one that was there is missing."""
    log(tmp_path, (1, {"b": 1.0}), (2, {"b": 2.0, "a": 3.0}), (3, {"c": 4.0}))
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()[0] == "step,b,a,c"
    assert rows(tmp_path) == [
        {"step": "1", "b": "1.0", "a": "", "c": ""},
        {"step": "2", "b": "2.0", "a": "3.0", "c": ""},
        {"step": "3", "b": "", "a": "", "c": "4.0"},
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_goes_on_with_files_that_exist(tmp_path):
    """In its columns, whatever the order of the new ones."""
    for entry in [(1, {"b": 1.0, "a": 2.0}), (2, {"a": 3.0}), (3, {"a": 4.0, "c": 5.0, "b": 6.0})]:
        log(tmp_path, entry)
    assert rows(tmp_path) == [
        {"step": "1", "a": "2.0", "b": "1.0", "c": ""},
        {"step": "2", "a": "3.0", "b": "", "c": ""},
        {"step": "3", "a": "4.0", "b": "6.0", "c": "5.0"},
    ]


@pytest.mark.parametrize("resumed", [None, 9])
def test_rows_that_come_again_are_there_once(tmp_path, resumed):
    """Those of a run that was killed, since the checkpoint that it goes on from; steps compare as numbers."""
    log(tmp_path, *((step, {"a": step / 2}) for step in (8, 9, 10, 11)))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    log(tmp_path, *((step, {"a": step / 4}) for step in (10, 12)), resumed=resumed)
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [
        ("8", "4.0"),
        ("9", "4.5"),
        ("10", "2.5"),
        ("12", "3.0"),
    ]
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(before)  # it only grows


def test_row_of_the_checkpoint_is_kept(tmp_path):
    """The end of a run adds to it, and one that was killed in its end does so again."""
    log(tmp_path, (6, {"a": 1.0}), (7, {"a": 2.0}))
    for again in (1, 2):
        log(tmp_path, (7, {"fid": 0.5}), resumed=7)
        assert rows(tmp_path) == [{"step": "6", "a": "1.0", "fid": ""}, {"step": "7", "a": "2.0", "fid": "0.5"}]
        assert lines(tmp_path).count({"resumed": 7}) == again


def test_a_run_that_begins_anew_in_its_folder(tmp_path):
    """It died before its first checkpoint."""
    log(tmp_path, (1, {"a": 1.0}), (2, {"a": 2.0}))
    log(tmp_path, (2, {"a": 3.0}), resumed=-1)
    assert rows(tmp_path) == [{"step": "2", "a": "3.0"}]


@pytest.mark.parametrize("lost", range(1, 30, 4))
def test_half_a_line_is_none(tmp_path, lost):
    """Of a run that was killed while it wrote; what the next ones write is whole."""
    log(tmp_path, (1, {"a": 1.0}), (2, {"a": 2.0}), (3, {"a": 2.0, "b": 3.0}))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-lost])
    log(tmp_path, (3, {"a": 4.0}), resumed=1)
    log(tmp_path, (4, {"a": 5.0}), resumed=3)
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [("1", "1.0"), ("3", "4.0"), ("4", "5.0")]


def test_a_run_of_an_earlier_version(tmp_path):
    """It left a table alone, and its last row may be half there."""
    text = "step,a,b/c,d\r\n50,0.30000000000000004,,nan\r\n100,1e-30,2,word\r\n150,7.0"
    (tmp_path / "metrics.csv").write_text(text, newline="", encoding="utf-8")
    log(tmp_path, (100, {"e": 1.0}), (150, {"a": 0.5}), resumed=100)
    assert rows(tmp_path) == [
        {"step": "50", "a": "0.30000000000000004", "b/c": "", "d": "nan", "e": ""},
        {"step": "100", "a": "1e-30", "b/c": "2", "d": "word", "e": "1.0"},
        {"step": "150", "a": "0.5", "b/c": "", "d": "", "e": ""},
    ]
    assert [line.get("step") for line in lines(tmp_path)] == [50, 100, 150, None, 100, 150]


def test_numbers_survive_exactly(tmp_path):
    value = 0.1 + 0.2
    metrics = {"a": value, "b": float("nan"), "c": 1e-30, "f": torch.tensor(0.5), "g": np.float32(0.25), "step": 9}
    log(tmp_path, (1, metrics), (2, {"d": 1.0, "e": 'a, "b"'}))
    log(tmp_path, (3, {"a": 1.0}))  # takes all of it up
    first, second, _ = rows(tmp_path)
    assert (float(first["a"]), first["b"], float(first["c"])) == (value, "nan", 1e-30)
    assert (first["step"], first["f"], first["g"], second["e"]) == ("1", "0.5", "0.25", 'a, "b"')


def test_killed_in_any_line(tmp_path):
    """In a process of its own, without a word. What was logged before the last save is there."""
    pid = os.fork()
    if pid == 0:
        table = MetricsTable(tmp_path)
        for step in range(1, 8):
            table.log_metrics({"a": step / 2}, step)
            if step == 5:
                table.save()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert [row["step"] for row in rows(tmp_path)] == [
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
    ]  # but the one that was not complete
    log(tmp_path, (6, {"b": 1.0}), resumed=5)
    assert [(row["step"], row["b"]) for row in rows(tmp_path)][4:] == [("5", ""), ("6", "1.0")]


def test_full_for_a_while(disk):
    """The table stays what it was; then every row is there."""
    folder, full = disk
    table = MetricsTable(folder)
    table.log_metrics({"a": 1.0}, step=1)
    table.save()
    before = (folder / "metrics.csv").read_bytes()
    with full:
        table.log_metrics({"b": 1.0, "text": "x" * 10_000}, step=2)  # what is left of a block would take a number
        with pytest.warns(UserWarning, match="cannot write .*metrics.jsonl"):
            table.log_metrics({"b": 2.0}, step=3)  # the row before is complete
        table.save()
        assert table.behind is not None
        assert (folder / "metrics.csv").read_bytes() == before
    table.log_metrics({"b": 3.0}, step=4)
    table.save()
    assert table.behind is None
    assert [(row["step"], row["b"]) for row in rows(folder)] == [("1", ""), ("2", "1.0"), ("3", "2.0"), ("4", "3.0")]
    assert len(lines(folder)) == 4


def test_a_table_that_is_gone_is_there_again(tmp_path):
    table = MetricsTable(tmp_path)
    for step in (1, 2):
        table.log_metrics({"a": 1.0}, step)
        table.save()
        assert [row["step"] for row in rows(tmp_path)] == ["1", "2"][:step]
        (tmp_path / "metrics.csv").unlink()


def test_a_table_grows(tmp_path, monkeypatch):
    """Each row is written once: a run that saves after each batch would else write half of their number squared."""
    whole = []
    monkeypatch.setattr(
        "gan.outbox.replace", lambda path, content, replace=replace: whole.append(replace(path, content))
    )
    table = MetricsTable(tmp_path)
    for step in range(1, 101):
        table.log_metrics({"a": 1.0}, step)
        table.save()
    assert len(whole) == 1
    table.log_metrics({"a": 2.0}, 100)
    table.save()
    table.log_metrics({"a": 3.0, "b": 0.5}, 101)
    table.finalize("success")
    assert len(whole) == 3
    assert [row["a"] for row in rows(tmp_path)] == ["1.0"] * 99 + ["2.0", "3.0"]


def test_still_full_at_the_end(tmp_path):
    table = MetricsTable(tmp_path)
    table.log_metrics({"a": 1.0}, step=1)
    with SmallDisk(0), pytest.warns(UserWarning, match=r"metrics\.csv: .*\. It is lost$"):
        table.finalize("success")


def test_without_entries_there_is_no_file(tmp_path):
    table = MetricsTable(tmp_path, resumed=5)
    table.log_hyperparams({"a": 1})
    table.save()
    table.finalize("success")
    assert list(tmp_path.iterdir()) == []


def test_flushed_at_a_checkpoint(make_gan, make_trainer, data, tmp_path):
    """A run that is killed after a checkpoint does not log the batch of it again: its row must be there by then."""
    from lightning import Callback

    from gan.callbacks import AtomicCheckpointIO, RunCheckpoint

    steps = []

    class Kill(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 4:
                steps.extend(row["step"] for row in rows(tmp_path))

    trainer = make_trainer(
        callbacks=[RunCheckpoint(every=4), Kill()], plugins=[AtomicCheckpointIO()], logger=MetricsTable(tmp_path)
    )
    trainer.fit(make_gan(), data)
    assert steps == ["1", "2", "3", "4"]
    assert [row["step"] for row in rows(tmp_path)] == [str(step) for step in range(1, 9)]


def test_board_is_behind_while_the_disk_is_full(tmp_path):
    """What RunCheckpoint asks before it saves."""
    board = RunTensorBoard(tmp_path, name="", version="tensorboard")
    assert board.behind is None
    with SmallDisk(0), pytest.warns(UserWarning, match="cannot write"):
        board.log_metrics({"loss/generator": 1.0}, step=1)
    assert board.behind.errno == 27
    board.save()
    assert board.behind is None
    board.finalize("success")
    assert board.behind is None
    assert [path.name.split(".")[0] for path in (tmp_path / "tensorboard").iterdir()] == ["events"]
