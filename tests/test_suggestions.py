"""A mistyped name is answered by the known one that is most like it, in the line of the complaint."""

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
