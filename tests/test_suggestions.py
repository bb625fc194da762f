"""A mistyped name is answered by the known one that is most like it, in the line of the complaint."""

import re
from importlib import import_module

import pytest
from commands import SHORT

from gan.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *words) -> str:
    """The one line of a command that fails."""
    with pytest.raises(SystemExit, match="2"):
        main([*words])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.count("did you mean") <= 1
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sample", "--ckpt=a"],
            "--out is missing: give FILE.png for one grid, .*, or FILE.txt for texts, one a line$",
        ),
        (["export"], "--ckpt is missing: give a checkpoint of a run, such as [^;]*; --out is missing: give FILE.pt2"),
        (["translate", "--out=a", "--ckpt=a"], "--images is missing: give folder of image files [^;]*$"),
        (["cure"], "--run_dir is missing: give folder of the run, which has ended$"),
        (["train_features"], "--out is missing: give weights to write, .safetensors$"),
    ],
)
def test_what_is_missing_says_what_to_give(capsys, words, message):
    assert re.search(f"^error: {message}", refused(capsys, *words))


@pytest.mark.parametrize(
    ("setting", "name", "meant"),
    [
        ("model.generator", "DCGANGenerater", "DCGANGenerator"),
        ("model.discriminator", "gan.networks.MLPDiscriminater", "MLPDiscriminator"),
        ("model.generator", "gan.netwrks.MLPGenerator", "networks"),
        ("model.loss", "Wasserstien", "Wasserstein"),
        ("model.generator_optimizer", "Adma", "Adam"),
        ("model.discriminator_optimizer", "torch.optim.RMSPorp", "RMSprop"),
        ("model.generator_scheduler", "WarmupCosin", "WarmupCosine"),
        ("model.penalties+", "GradientPenality", "GradientPenalty"),
        ("model.augment", "DifAugment", "DiffAugment"),
        ("data", "MNISTDatamodule", "MNISTDataModule"),
        ("trainer.callbacks+", "ImageLoger", "ImageLogger"),
        ("model.generator.norm", "bacth", "batch"),
        ("trainer.precision", "bf16-mixd", "bf16-mixed"),
    ],
)
def test_values(capsys, setting, name, meant):
    assert f"; did you mean {meant}?" in refused(capsys, "fit", f"--{setting}={name}")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--model.n_critics=2", "--model.n_critic"),
        ("--trainer.max_step=2", "--trainer.max_steps"),
        ("--max_steps=2", "--trainer.max_steps"),
        ("--batch_size=2", "--data.batch_size"),
        ("--rundir=2", "--run_dir"),
        ("--model.generator.latentdim=2", "latent_dim"),
        ("--data.batchsize=2", "batch_size"),
        ("--model.generator_optimizer.beta=2", "betas"),
        ("--config=trainer: {max_step: 2}", "trainer.max_steps"),
        ("--config=model: {n_critics: 2}", "model.n_critic"),
        ("--config=modle: {n_critic: 2}", "model.n_critic"),
        ("--config=model: {penalties: [{class_path: R1, init_args: {wieght: 3}}]}", "weight"),
        ("--config=model: {generator: {class_path: MLPGenrator}}", "MLPGenerator"),
    ],
)
def test_settings(capsys, word, meant):
    assert f"; did you mean {meant}?" in refused(capsys, "fit", word)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["fitt"], "fit"),
        (["train_feature"], "train_features"),
        (["validate", "--ckptpath", "x"], "--ckpt_path"),
        (["fit", "--ckpt_path", "x"], "--resume"),
        (["sample", "--ckpt", "x", "--out", "y", "--sed", "1"], "--seed"),
        (["export", "--chkpt", "x", "--out", "y"], "--ckpt"),
        (["lab", "dirac", "--sed", "3"], "--seed"),
        (["train_features", "--out", "x", "--dta", "MNIST"], "--data"),
    ],
)
def test_other_commands(capsys, words, meant):
    assert f"; did you mean {meant}?" in refused(capsys, *words)


@pytest.mark.parametrize("word", ["--model.generator=Zzz", "--zzz=1", "--data=nowhere.Flowers"])
def test_where_nothing_is_like_it(capsys, word):
    assert "did you mean" not in refused(capsys, "fit", *SHORT, word)


DEGRADED = "--data={class_path: gan.data.DegradedDataModule, init_args: {of: gan.data.MNISTDataModule"
OF_DEGRADED = "data: gan.data.DegradedDataModule: "  # whose argument it is


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "--data=torch.nn.Linear",
            "data=torch.nn.Linear is no lightning.LightningDataModule: give a class that derives",
        ),
        (
            "--model.loss=torch.nn.BCELoss",
            "model.loss=torch.nn.BCELoss is no gan.losses.Loss: give a class that derives",
        ),
        ("--model.generator=torch.optim.Adam", "model.generator=torch.optim.Adam is no torch.nn.Module: give a class"),
        ("--model.penalties+=gan.losses.Hinge", "model.penalties=gan.losses.Hinge is no gan.penalties.Penalty: give"),
        ("--model.loss=gan.losses.Loss", "model.loss=gan.losses.Loss is abstract: give a class that derives from it"),
        ("--model.generator_optimizer=torch.relu", "model.generator_optimizer=torch.relu is no torch.optim.Optimizer"),
        (
            "--config=trainer: {callbacks: [torch.nn.Linear]}",
            "trainer.callbacks=torch.nn.Linear is no lightning.Callback",
        ),
        ("--data=Zzz", "data=Zzz is no class known by that name: give its path, as in package.module.Class"),
        ("--data=gan.data.Zzz", "data: gan.data.Zzz: module 'gan.data' has no attribute 'Zzz'"),
        (
            "--model.penalties=gan.penalties.R1",
            "model.penalties: gan.penalties.R1: the following arguments are required: w",
        ),
        ("--data.batch_size=x", 'data: conftest.SmallMNIST: "batch_size" must be int, got x'),
        (
            "--model.generator_optimizer.lr=abc",
            'model.generator_optimizer: torch.optim.Adam: "lr" must be float, got abc',
        ),
        ("--trainer.limit_val_batches=x", '"trainer.limit_val_batches" must be int or float, got x'),
        (f"{DEGRADED}, degradation: Blurr}}}}", f"{OF_DEGRADED}degradation=Blurr is no class known by that name: give"),
        (f"{DEGRADED}, degradation: gan.data.Degradation}}}}", f"{OF_DEGRADED}degradation=gan.data.Degradation is abs"),
        (f"{DEGRADED}, degradation: gan.losses.Hinge}}}}", f"{OF_DEGRADED}degradation=gan.losses.Hinge is no Degrada"),
    ],
)
def test_complaints_say_what_is_wanted(capsys, word, line):
    """In one short line, without the parser's list of all that a value might have been."""
    complaint = refused(capsys, "fit", *SHORT, word)
    assert complaint.startswith(f"error: {line}")
    assert not any(word in complaint for word in ("Parser key", "subtypes", "Namespace", "NoneType"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data.folder=photos"], "'folder' is not accepted; ImageFolder takes it: --data ImageFolder"),
        (["--model.augment=ADA"], "as in package.module.Class; known are AdaptiveAugment, DiffAugment"),
        (["--data=photos"], "known are DegradedDataModule, ImageFolder, InMemoryDataModule, MNISTDataModule, Pair"),
    ],
)
def test_who_does_not_know_a_class_is_told_which_there_are(capsys, words, line):
    assert line in refused(capsys, "fit", *words)


def test_of_optimizers_which_are_many_none_are_listed(capsys):
    assert "known are" not in refused(capsys, "fit", "--model.generator_optimizer=Zzzz")


def test_a_name_of_two_classes_is_answered_by_both_paths(capsys):
    import_module("gan.muon")  # as a config that names it does
    line = refused(capsys, "fit", "--model.generator_optimizer", "Muon")
    assert line == (
        "error: model.generator_optimizer=Muon is the name of more than one class: give a path, torch.optim.Muon or "
        "gan.muon.Muon"
    )


def test_a_setting_that_another_data_module_takes_is_not_its_own_suggestion(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--data", "StreamDataModule", "--data.labels", "100"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert "Option 'labels' is not accepted" in line
    assert "did you mean" not in line


RATE = "a rate takes no schedule here: it follows model.generator_scheduler or model.discriminator_scheduler"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr", "{start: 0.01, end: 0.001}"], f"torch.optim.Adam: {RATE}"),
        (["gan.optim.ScheduledAdam", "lr", "{start: 0.01, end: 0.001}"], f"gan.optim.ScheduledAdam: {RATE}"),
        (
            ["gan.optim.ScheduledAdam", "betas", "[0.5]"],
            'gan.optim.ScheduledAdam: "betas" must be a tuple with 2 elements, got [0.5]',
        ),
        (["gan.optim.ScheduledAdam", "eps", "small"], 'gan.optim.ScheduledAdam: "eps" must be float, got small'),
    ],
)
def test_an_optimizers_argument_is_refused_in_few_words(capsys, words, message):
    *path, name, value = words
    given = ["--model.generator_optimizer", *path] if path else []
    line = refused(capsys, "fit", *given, f"--model.generator_optimizer.{name}", value)
    assert line == f"error: model.generator_optimizer: {message}"
