"""Scores at the terminal: a run shows them, keeps its best by them, and `validate` prints one table."""

import re

import pytest
import torch
from commands import FEW_SCORES, TRUSTED, command, equal, fit, load, resume, table
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from gan.loggers import CHARTS, RunTensorBoard, hyperparameters
from gan.metrics.features import FILES

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
    terms = "images against 512 test images, by mnist_cnn eba369ee93ab; floor "
    assert f"FID            of 250 {terms}" in out
    assert f"of batch 3, the best; 500 {terms}" in out
    (row,) = [row for row in table(tmp_path / "run") if row["fid/mnist_cnn"]]
    assert row["step"] == "3"
    assert (tmp_path / "run" / "samples" / "nearest_000003.png").is_file()
    assert load(tmp_path / "run" / "checkpoints" / "best.ckpt")["global_step"] == 3


def test_a_run_of_other_data_says_that_it_is_not_scored(tmp_path, capsys):
    fit(tmp_path / "run")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "FID" in line]
    assert line.startswith("FID            none: no features are shipped for SmallMNIST")
    assert not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def test_validate_prints_one_table(tmp_path, capsys):
    last = fit(tmp_path / "run", *DIGITS, *TRACKED)
    capsys.readouterr()
    command("validate", "--ckpt_path", last, *TRUSTED)
    out, errors = capsys.readouterr()
    assert "Scores of 500 images against 512 test images, by mnist_cnn eba369ee93ab; floor " in out
    assert out.count("│ FID   ") == 1
    for row in ("FID of infinitely many", "KID", "precision", "recall", "density", "coverage"):
        assert out.count(f"│ {row}") == 1, row
    for row in ("classes covered", "entropy of the classes, nats", "inception score"):
        assert out.count(f"│ {row}") == 1, row
    assert "Loss of the discriminator on images it has not seen: " in out
    assert "Validate metric" not in out
    assert "no logger configured" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("door", ["validate", "test"])
@pytest.mark.parametrize("again", ["FIDTracker", "GradientMonitor"])
def test_a_callback_that_the_run_had_is_given_otherwise(tmp_path, capsys, door, again):
    """The checkpoint carries the run's: the command's stands in its place, where two are an error of Lightning's."""
    last = fit(tmp_path / "run", *DIGITS, *TRACKED)
    capsys.readouterr()
    setting = {"FIDTracker": "final_samples=100", "GradientMonitor": "every=7"}[again]
    words = [f"--trainer.callbacks+=gan.callbacks.{again}", f"--trainer.callbacks.{setting}"]
    command(door, "--ckpt_path", last, *TRUSTED, *words)
    number = 100 if again == "FIDTracker" else 500
    assert f"Scores of {number} images against 512 test images" in capsys.readouterr().out


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


@pytest.mark.slow
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
    assert list(charts)[:2] == ["losses", "FID, and its floor"]
    assert charts["FID, and its floor"] == ["fid/.*", "scores/fid_floor/.*"]


def board(run_dir) -> EventAccumulator:
    return EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()


def hparams(events: EventAccumulator) -> tuple[dict[str, str | float], list[str]]:
    """The columns of TensorBoard's table of runs: settings, and the names of metrics."""
    contents = {
        tag: HParamsPluginData.FromString(events.summary_metadata[tag].plugin_data.content)
        for tag in (metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG)
    }
    started = contents[metadata.SESSION_START_INFO_TAG].session_start_info.hparams
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in started.items()}
    return settings, [info.name.tag for info in contents[metadata.EXPERIMENT_TAG].experiment.metric_infos]


def test_scores_are_one_group_and_each_chart_of_the_first_page_has_something_to_show(tmp_path):
    fit(tmp_path / "run", *DIGITS, *TRACKED, "--trainer.callbacks+=gan.callbacks.GradientMonitor")
    events = board(tmp_path / "run")
    tags = events.Tags()["scalars"]
    assert "hp_metric" not in tags
    groups = {tag.partition("/")[0] for tag in tags if "mnist_cnn" in tag}
    assert groups == {"fid", "scores"}  # the name of FID is fixed; it stands among the others too
    assert [point.value for point in events.Scalars("fid/mnist_cnn")] == [
        point.value for point in events.Scalars("scores/fid/mnist_cnn")
    ]
    for title, (_, patterns) in CHARTS["run"].items():
        assert any(re.match(pattern, tag) for pattern in patterns for tag in tags), title
    row = table(tmp_path / "run")[-1]
    assert "scores/kid/mnist_cnn" in row
    assert "scores/fid/mnist_cnn" not in row


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            [],
            {
                "data": "Digits(validation_size=16)",
                "batch_size": 8,
                "generator": "MLPGenerator(latent_dim=8)",
                "discriminator": "MLPDiscriminator",
                "loss": "NonSaturating",
                "penalties": "R1(weight=1.0, every=16)",
                "generator_lr": 0.004,
                "discriminator_lr": 0.004,
                "n_critic": 1,
                "seed": 42,
            },
        ),
        (
            [
                *("--model.loss=gan.losses.Wasserstein", "--model.penalties=[]", "--model.n_critic=2"),
                *("--model.generator_optimizer.lr=0.01", "--seed_everything=7", "--data.batch_size=4"),
            ],
            {
                "loss": "Wasserstein",
                "penalties": "none",
                "n_critic": 2,
                "generator_lr": 0.01,
                "discriminator_lr": 0.004,
                "seed": 7,
                "batch_size": 4,
            },
        ),
    ],
)
def test_the_table_of_runs_has_the_settings_that_people_vary_and_the_scores(tmp_path, words, expected):
    fit(tmp_path / "run", *DIGITS, *TRACKED, *words)
    events = board(tmp_path / "run")
    settings, metrics = hparams(events)
    assert len(settings) == 11
    assert {name: settings[name] for name in expected} == expected
    assert metrics[0] == "fid/mnist_cnn"
    assert {"scores/fid_of_best/mnist_cnn", "scores/kid/mnist_cnn", "scores/recall/mnist_cnn"} <= set(metrics)
    assert set(metrics) <= set(events.Tags()["scalars"])


def test_the_table_of_runs_without_scores_or_rates():
    config = {
        "seed_everything": 1,
        "data": {"class_path": "mine.Folder"},
        "model": {
            "generator": {"class_path": "mine.G", "init_args": {"image_shape": [1, 2, 2], "width": 3, "init": None}},
            "discriminator": {"class_path": "mine.D", "init_args": None},
            "loss": None,
            "penalties": [{"class_path": "gan.penalties.R1", "init_args": {"weight": 2}}, {"class_path": "mine.Own"}],
            "n_critic": 1,
            "generator_optimizer": None,
            "discriminator_optimizer": {"class_path": "mine.Own"},
        },
    }
    assert hyperparameters(config) == {
        "data": "Folder",
        "generator": "G(width=3)",
        "discriminator": "D",
        "loss": "NonSaturating",
        "penalties": "R1(weight=2), Own",
        "augment": "none",
        "n_critic": 1,
        "seed": 1,
    }


# ---------------------------------------------------------------------- no scores, and why


def test_a_tracker_that_has_nothing_to_see_with_is_silent_beside_one_that_has(tmp_path, capsys):
    """`callbacks+` leaves the default's, which has no features for these images."""
    own = ["--trainer.callbacks+=gan.callbacks.FIDTracker", "--trainer.callbacks.extractor=commands.Pooled"]
    last = fit(tmp_path / "run", *own)
    out = capsys.readouterr().out
    assert "FID            of 1,000 images" in out
    assert "none" not in out
    command("validate", "--ckpt_path", last, *TRUSTED)
    out = capsys.readouterr().out
    assert "by pooled" in out
    assert "No scores" not in out


@pytest.mark.parametrize("door", ["validate", "test"])
def test_scores_that_there_are_not_are_explained(tmp_path, capsys, door):
    last = fit(tmp_path / "run")
    for words, why in (
        (
            [],
            "No scores: no features are shipped for SmallMNIST; `python -m gan.cli train_features --data "
            "conftest.SmallMNIST --out smallmnist.safetensors` trains some, and `--trainer.callbacks+=FIDTracker "
            "--trainer.callbacks.extractor=smallmnist.safetensors` scores by them",
        ),
        (
            ["--trainer.callbacks=gan.callbacks.RunProgress"],
            "No scores: there is no FIDTracker among trainer.callbacks, which takes them",
        ),
    ):
        capsys.readouterr()
        command(door, "--ckpt_path", last, *words, *TRUSTED)
        assert why in capsys.readouterr().out.splitlines()
        command(door, "--ckpt_path", last, *words, "--verbose", "false", *TRUSTED)
        assert "No scores" not in capsys.readouterr().out
    for words, why in (
        (["--trainer.limit_val_batches=0", "--trainer.limit_test_batches=0"], f"nothing to {door} on"),
        (["--data=commands.Unseen", "--data.validation_size=16"], f"nothing to {door} on: Unseen gives no batches"),
        (
            [*FEW_SCORES, "--trainer.callbacks.final_samples=0"],
            "at least 20, and is 0; for no scores, leave FIDTracker",
        ),
    ):
        with pytest.raises(SystemExit):
            command(door, "--ckpt_path", last, *words, *TRUSTED)
        assert why in capsys.readouterr().err


def test_a_generator_of_nan_has_no_table(tmp_path, capsys):
    last = fit(tmp_path / "run", *DIGITS)
    checkpoint = load(last)
    for weight in checkpoint["state_dict"].values():
        weight.fill_(float("nan"))
    torch.save(checkpoint, last)
    capsys.readouterr()
    with pytest.warns(UserWarning, match="no FID of batch .*: the generator makes images that are NaN"):
        command("validate", "--ckpt_path", last, *TRUSTED)
    out = capsys.readouterr().out
    assert "No scores: the images, or what they look like to the extractor, are NaN or infinite" in out
    assert "│" not in out


@pytest.mark.slow
def test_features_that_guess_are_a_warning_at_the_start(tmp_path, recwarn):
    """By the card beside their file."""
    features = tmp_path / "guess.safetensors"
    features.write_bytes((FILES / "mnist_cnn.safetensors").read_bytes())
    for accuracy, warns in (("10.30", True), ("99.00", False)):
        text = f"# guess\n\n- Accuracy on the 10,000 test images: {accuracy}%\n"
        features.with_suffix(".md").write_text(text, encoding="utf-8")
        recwarn.clear()
        fit(tmp_path / accuracy, *DIGITS, *FEW_SCORES, f"--trainer.callbacks.extractor={features}")
        told = [str(warning.message) for warning in recwarn if "no better than chance" in str(warning.message)]
        assert len(told) == warns
