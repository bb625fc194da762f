"""Scores at the terminal: a run shows them, keeps its best by them, and `validate` prints one table."""

import pytest
from commands import TRUSTED, command, equal, fit, load, resume, table
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from gan.loggers import RunTensorBoard

DIGITS = ["--data", "commands.Digits"]
TRACKED = [
    "--trainer.callbacks+=gan.callbacks.FIDTracker",
    "--trainer.callbacks.every=2",
    "--trainer.callbacks.num_samples=300",
    "--trainer.callbacks.final_samples=500",
]


def test_a_run_is_scored(tmp_path, capsys):
    fit(tmp_path / "run", *DIGITS)
    out = capsys.readouterr().out
    terms = "images against 512 test images, by mnist_cnn 1bf69f526faa; floor "
    assert f"FID            of 250 {terms}" in out
    assert f"of batch 3, the best; 500 {terms}" in out
    (row,) = [row for row in table(tmp_path / "run") if row["fid/mnist_cnn"]]
    assert row["step"] == "3"
    assert (tmp_path / "run" / "samples" / "nearest_000003.png").is_file()
    assert load(tmp_path / "run" / "checkpoints" / "best.ckpt")["global_step"] == 3


def test_a_run_of_other_data_says_that_it_is_not_scored(tmp_path, capsys):
    fit(tmp_path / "run")
    assert capsys.readouterr().out.count("FID") == 1
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def test_validate_prints_one_table(tmp_path, capsys):
    last = fit(tmp_path / "run", *DIGITS, *TRACKED)
    capsys.readouterr()
    command("validate", "--ckpt_path", last, *TRUSTED)
    out, errors = capsys.readouterr()
    assert "Scores of 500 images against 512 test images, by mnist_cnn 1bf69f526faa; floor " in out
    assert out.count("│ FID   ") == 1
    for row in ("FID of infinitely many", "KID", "precision", "recall", "density", "coverage"):
        assert out.count(f"│ {row}") == 1, row
    for row in ("classes covered", "entropy of the classes, nats", "inception score"):
        assert out.count(f"│ {row}") == 1, row
    assert "Loss of the discriminator on images it has not seen: " in out
    assert "Validate metric" not in out
    assert "no logger configured" not in errors


def test_the_score_survives_resume_to_the_bit(tmp_path):
    whole = fit(tmp_path / "whole", *DIGITS, *TRACKED, "--trainer.max_steps", 8)
    fit(tmp_path / "run", *DIGITS, *TRACKED, "--trainer.max_steps", 6)
    parted = resume(tmp_path / "run", "--trainer.max_steps", 8)
    one, two = load(whole), load(parted)
    key = next(key for key in one["callbacks"] if key.startswith("FIDTracker"))
    assert one["callbacks"][key]["best_step"] > 0
    assert equal(one["callbacks"][key], two["callbacks"][key])
    assert equal(one["state_dict"], two["state_dict"])
    scores = [[(row["step"], row["fid/mnist_cnn"]) for row in table(tmp_path / run)] for run in ("whole", "run")]
    assert scores[0] == scores[1]


def test_an_extractor_of_ones_own_by_class_path_and_by_file(tmp_path, capsys):
    own = ["--trainer.callbacks+=gan.callbacks.FIDTracker", "--trainer.callbacks.extractor=commands.Pooled"]
    fit(tmp_path / "run", *own)  # of data that nothing is shipped for
    assert "by pooled " in capsys.readouterr().out
    assert load(tmp_path / "run" / "checkpoints" / "best.ckpt")["global_step"] == 3
    with pytest.raises(SystemExit):
        fit(tmp_path / "other", *DIGITS, TRACKED[0], "--trainer.callbacks.extractor=nowhere.safetensors")
    assert "there is no feature extractor 'nowhere.safetensors'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_two_extractors_two_tables(tmp_path, capsys):
    own = ["--trainer.callbacks+=gan.callbacks.fid_tracker.FIDTracker", "--trainer.callbacks.extractor=commands.Pooled"]
    last = fit(tmp_path / "run", *DIGITS, *own, "--trainer.callbacks.final_samples=300")
    assert {"fid/mnist_cnn", "fid/pooled"} <= table(tmp_path / "run")[-1].keys()
    capsys.readouterr()
    command("validate", "--ckpt_path", last, *TRUSTED)
    out = capsys.readouterr().out
    assert "Scores of 500 images against 512 test images, by mnist_cnn" in out
    assert "Scores of 300 images against 512 test images, by pooled" in out
    assert "Validate metric" not in out


def test_nothing_to_validate_on(tmp_path, capsys):
    last = fit(tmp_path / "run", *DIGITS, "--data.validation_size", "0")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        command("validate", "--ckpt_path", last, *TRUSTED)
    assert "set data.validation_size above 0, or use `test`" in capsys.readouterr().err
    command("test", "--ckpt_path", last, *TRUSTED)
    assert "Scores of 500 images against 512 test images, by mnist_cnn" in capsys.readouterr().out


def test_charts_that_belong_together(tmp_path):
    logger = RunTensorBoard(tmp_path)
    assert isinstance(logger, TensorBoardLogger)
    logger.log_metrics({"loss/generator": 1.0}, step=1)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir).Reload()
    assert events.Scalars("loss/generator")[0].value == 1
    (tag,) = [tag for tag in events.Tags()["tensors"] if "custom_scalars" in tag]
    layout = Layout.FromString(events.Tensors(tag)[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert list(charts) == ["losses", "FID, and its floor", "gradients", "throughput"]
    assert charts["FID, and its floor"] == ["fid/.*", "fid_floor/.*"]
