"""The table: a row per step, whatever comes, stops or breaks."""

import csv

import pytest

from gan.loggers import MetricsTable


def rows(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_entries_of_a_step_are_one_row(tmp_path):
    table = MetricsTable(tmp_path)
    table.log_metrics({"loss/generator": 1.5}, step=1)
    table.log_metrics({"images_per_second": 7.0}, step=1)
    table.log_metrics({"loss/generator": 2.5}, step=2)
    table.finalize("success")
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
    assert rows(tmp_path) == [{"step": "1", "a": "0.5", "b": "0.25"}, {"step": "2", "a": "1.0", "b": "0.5"}]


def test_columns_grow_and_nothing_is_lost(tmp_path):
    """Also where a scalar comes that is in no row before, or one that was there is missing."""
    table = MetricsTable(tmp_path)
    table.log_metrics({"b": 1.0}, step=1)
    table.log_metrics({"b": 2.0, "a": 3.0}, step=2)
    table.log_metrics({"c": 4.0}, step=3)
    table.finalize("success")
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "step,b,a,c"
    assert rows(tmp_path) == [
        {"step": "1", "b": "1.0", "a": "", "c": ""},
        {"step": "2", "b": "2.0", "a": "3.0", "c": ""},
        {"step": "3", "b": "", "a": "", "c": "4.0"},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_goes_on_with_a_file_that_exists(tmp_path):
    """In its columns, whatever the order of the new ones."""
    for step, metrics in [(1, {"b": 1.0, "a": 2.0}), (2, {"a": 3.0}), (3, {"a": 4.0, "c": 5.0, "b": 6.0})]:
        table = MetricsTable(tmp_path)
        table.log_metrics(metrics, step=step)
        table.finalize("success")
    assert rows(tmp_path) == [
        {"step": "1", "a": "2.0", "b": "1.0", "c": ""},
        {"step": "2", "a": "3.0", "b": "", "c": ""},
        {"step": "3", "a": "4.0", "b": "6.0", "c": "5.0"},
    ]


def test_rows_that_come_again_are_there_once(tmp_path):
    """Those of a run that was killed, since the checkpoint that it goes on from; steps compare as numbers."""
    table = MetricsTable(tmp_path)
    for step in (8, 9, 10, 11):
        table.log_metrics({"a": step / 2}, step=step)
    table.save()
    table = MetricsTable(tmp_path)
    for step in (10, 11, 12):
        table.log_metrics({"a": step / 4}, step=step)
    table.finalize("success")
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [
        ("8", "4.0"),
        ("9", "4.5"),
        ("10", "2.5"),
        ("11", "2.75"),
        ("12", "3.0"),
    ]


def test_numbers_survive_exactly(tmp_path):
    value = 0.1 + 0.2
    table = MetricsTable(tmp_path)
    table.log_metrics({"a": value, "b": float("nan"), "c": 1e-30}, step=1)
    table.log_metrics({"d": 1.0}, step=2)  # rewrites the first row
    table.finalize("success")
    first = rows(tmp_path)[0]
    assert (float(first["a"]), first["b"], float(first["c"])) == (value, "nan", 1e-30)


def test_failure_while_columns_grow_leaves_the_table(tmp_path, monkeypatch):
    table = MetricsTable(tmp_path)
    table.log_metrics({"a": 1.0}, step=1)
    table.save()
    before = (tmp_path / "metrics.csv").read_text()

    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("csv.DictWriter.writerows", full)
    table.log_metrics({"b": 1.0}, step=2)
    with pytest.raises(OSError, match="No space left"):
        table.save()
    assert (tmp_path / "metrics.csv").read_text() == before


def test_without_entries_there_is_no_file(tmp_path):
    table = MetricsTable(tmp_path)
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
