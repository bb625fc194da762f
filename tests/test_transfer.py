"""Runs that begin with trained weights, and first layers that stay as they are."""

import pickle
import re
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from commands import PAIRS, SHORT, SMALL, TRANSLATION, command, fit, load, process, resume
from conftest import SmallMNIST, same_weights
from lightning import Callback
from torch import nn

from gan import GAN
from gan.callbacks import GeneratorEMA, GradientClipping, GradientMonitor
from gan.checkpoints import write
from gan.gradients.clip import Adaptive, Auto, ByNorm, ByValue
from gan.networks import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from gan.penalties import R1
from gan.transfer import start_from

SHAPE = (1, 28, 28)


def dcgan(channels: int = 4, latent_dim: int = 8, norm: str = "batch", seed: int = 0, **settings) -> GAN:
    torch.manual_seed(seed)
    generator = DCGANGenerator(SHAPE, latent_dim, channels)
    return GAN(generator, DCGANDiscriminator(SHAPE, channels, norm), **settings)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The checkpoint of a few batches of small DCGANs, with an average, and the module as it was then."""
    from lightning import Trainer

    folder = tmp_path_factory.mktemp("source")
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=3,
        callbacks=[GeneratorEMA()],
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )
    gan = dcgan()
    trainer.fit(gan, SmallMNIST(batch_size=16, validation_size=0))
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder, gan


# ---------------------------------------------------------------------- what is taken over


def test_what_fits_is_taken_over_to_the_bit(source):
    folder, trained = source
    gan = dcgan(seed=1)
    latents = gan.fixed_latents.clone()
    assert not same_weights(gan.generator, trained.generator)
    lines = start_from(gan, folder)
    assert lines == [
        f"15 of 15 tensors of generator from {folder / 'last.ckpt'}",
        f"16 of 16 tensors of discriminator from {folder / 'last.ckpt'}",
    ]
    assert same_weights(gan.generator, trained.generator)
    assert not same_weights(gan.generator, trained.generator_ema)
    assert same_weights(gan.discriminator, trained.discriminator)
    assert gan.generator_ema is None  # that is the run's to have
    assert torch.equal(gan.fixed_latents, latents)


def test_an_average_that_is_there_follows(source):
    folder, trained = source
    gan = dcgan(seed=1)
    gan.add_ema()
    start_from(gan, folder)
    assert same_weights(gan.generator_ema, trained.generator)
    assert not any(parameter.requires_grad for parameter in gan.generator_ema.parameters())


def test_what_does_not_fit_stays_and_is_named(source):
    folder, trained = source
    gan = dcgan(latent_dim=5, norm="none", seed=1)
    before = deepcopy(gan)
    lines = start_from(gan, folder / "last.ckpt")
    path = folder / "last.ckpt"
    assert lines == [
        f"14 of 15 tensors of generator from {path}; left as they start: project.weight (392, 8) against (392, 5)",
        f"6 of 8 tensors of discriminator from {path}; left as they start: down2.bias (8,) missing there, down3.bias "
        "(16,) missing there; not used: norm2.weight (8,), norm2.bias (8,), norm2.running_mean (8,), norm2.running_var "
        "(8,) and 6 more",
    ]
    for name, value in gan.generator.state_dict().items():
        origin = before if name == "project.weight" else trained
        assert torch.equal(value, origin.generator.state_dict()[name]), name
    assert torch.equal(gan.discriminator.down2.bias, before.discriminator.down2.bias)
    assert torch.equal(gan.discriminator.down2.weight, trained.discriminator.down2.weight)


@pytest.mark.parametrize("inner", [False, True])
def test_compiled_networks_have_the_same_names(source, inner):
    folder, trained = source
    gan = dcgan(seed=1)
    if inner:
        gan.generator.up1 = torch.compile(gan.generator.up1, backend="eager")
    else:
        gan.generator = torch.compile(gan.generator, backend="eager")
    lines = start_from(gan, folder)
    assert lines[0].startswith("15 of 15 tensors of generator")
    own = {name.replace("_orig_mod.", ""): value for name, value in gan.generator.state_dict().items()}
    assert all(torch.equal(own[name], value) for name, value in trained.generator.state_dict().items())


def test_nothing_that_the_file_names_is_imported(source, tmp_path):
    folder, trained = source
    checkpoint = load(folder / "last.ckpt")
    checkpoint["hyper_parameters"]["generator"] = {"class_path": "antigravity.Generator"}
    write(checkpoint, tmp_path / "foreign.ckpt")
    gan = dcgan(seed=1)
    start_from(gan, tmp_path / "foreign.ckpt")
    assert same_weights(gan.generator, trained.generator)
    assert "antigravity" not in sys.modules


def test_parts_of_a_checkpoint_are_put_together(source, tmp_path):
    """As the processes of FSDP2 may write it: each has half of a weight's rows."""
    folder, trained = source
    whole = load(folder / "last.ckpt")
    name = "generator.up1.weight"
    for rank, rows in enumerate(whole["state_dict"][name].chunk(2)):
        state = whole["state_dict"] | {name: {"shard": rows.clone(), "shape": list(whole["state_dict"][name].shape)}}
        write(whole | {"state_dict": state}, tmp_path / "last.ckpt" / f"{rank}-of-2.ckpt")
    gan = dcgan(seed=1)
    start_from(gan, tmp_path)
    assert same_weights(gan.generator, trained.generator)


# ---------------------------------------------------------------------- files of other kinds


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_wrong_files_are_a_line(source, tmp_path):
    folder, _ = source
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.ckpt").write_text("a text", encoding="utf-8")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    torch.save({"state_dict": nn.Linear(2, 2).state_dict()}, tmp_path / "other.ckpt")
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "code.ckpt")
    cut = (folder / "last.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(cut[: len(cut) // 2])
    for name, words in {
        "none": "no checkpoint at none",
        "empty": "no checkpoint at empty; a run writes its own to RUN/checkpoints/last.ckpt",
        "text.ckpt": "text.ckpt is not a checkpoint",
        "pickle.ckpt": "pickle.ckpt is not a checkpoint",
        "other.ckpt": "is a checkpoint of something else: it has no generator of this project",
        "code.ckpt": "asks to run code",
        "cut.ckpt": "its end is missing",
        "https://x.y/last.ckpt": "is a URL",
    }.items():
        gan = dcgan()
        before = deepcopy(gan)
        with pytest.raises(ValueError, match=re.escape(words)) as error:
            start_from(gan, name)
        assert "\n" not in str(error.value)
        assert same_weights(gan, before)


def test_weights_of_other_networks_are_a_line(source):
    """Where nothing fits but biases, as of the last layers, which are alike in many networks."""
    folder, _ = source
    gan = GAN(MLPGenerator(SHAPE, latent_dim=8), MLPDiscriminator(SHAPE))
    before = deepcopy(gan)
    with pytest.raises(ValueError, match="no weights there fit MLPGenerator and MLPDiscriminator, by name and shape"):
        start_from(gan, folder)
    assert same_weights(gan, before)


# ---------------------------------------------------------------------- by the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run; no test changes it."""
    return fit(tmp_path_factory.mktemp("trained") / "run").parents[1]


def test_a_run_begins_with_them_and_says_so(trained, capsys):
    """Optimizers, counters and the order of the data begin anew; the config and the checkpoints say where from."""
    still = ["--model.generator_optimizer.lr", "0", "--model.discriminator_optimizer.lr", "0"]
    capsys.readouterr()
    ckpt = fit("new", "--init", trained, *still, "--trainer.max_steps", "2")
    path = str(trained / "checkpoints" / "last.ckpt")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("init ")]
    assert lines == [
        f"init           6 of 6 tensors of generator from {path}",
        f"init           6 of 6 tensors of discriminator from {path}",
    ]
    one, two = load(path), load(ckpt)
    networks = [name for name in one["state_dict"] if name.startswith(("generator.", "discriminator."))]
    assert len(networks) == 12
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in networks)
    assert two["global_step"] == 2
    assert two["optimizer_states"][0]["state"][0]["step"] == 2
    assert two["config"]["init"] == path
    assert yaml.safe_load(Path("new/config.yaml").read_text("utf-8"))["init"] == path
    assert one["config"]["init"] is None


def test_a_run_that_goes_on_has_its_own(trained, capsys):
    fit("new", "--init", trained, "--resume", "auto", "--trainer.max_steps", "2")  # where nothing is yet
    assert "6 of 6 tensors of generator" in capsys.readouterr().out
    for end, path in enumerate([trained, "no/such/run"], start=3):
        resume("new", "--init", path, "--trainer.max_steps", end)
        output = capsys.readouterr().out
        said = [line for line in output.splitlines() if line.startswith("init ")]
        assert said == [
            f"init           nothing of {path}: the run goes on with the weights of new/checkpoints/last.ckpt"
        ]
        assert "changed        init" not in output
        assert load("new/checkpoints/last.ckpt")["config"]["init"] == str(trained / "checkpoints" / "last.ckpt")


def test_a_config_tells_how_its_run_began(trained, capsys):
    fit("new", "--init", trained, "--trainer.max_steps", "1")
    capsys.readouterr()
    command("fit", "--config", "new/config.yaml", "--run_dir", "again")
    assert "6 of 6 tensors of generator" in capsys.readouterr().out
    command("fit", "--config", "new/config.yaml", "--init", "null", "--run_dir", "scratch")
    assert "tensors of generator" not in capsys.readouterr().out
    command("validate", "--config", "new/config.yaml", "--ckpt_path", "new")  # which has no use for it


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--init", "TRAINED", "--resume", "TRAINED"], "goes on with all of a run, and"),
        (["fit", "--init", "nothing"], "no checkpoint at nothing"),
        (
            ["validate", "--init", "TRAINED", "--ckpt_path", "TRAINED"],
            "--init is for `fit`: validate takes the weights",
        ),
        (
            ["fit", *SHORT, "--init", "TRAINED", *PAIRS, "Downsample", *TRANSLATION],
            "no weights there fit UNetGenerator and PatchDiscriminator",
        ),
        (["fit", *SHORT, "--model.freeze_discriminator", "3"], "MLPDiscriminator has 3 layers (hidden1, hidden2,"),
        (["fit", *SHORT, "--model.freeze_discriminator", "-1"], "must be at least 0 layers, got -1"),
    ],
)
def test_what_cannot_be_is_a_line(trained, words, message, capsys, tmp_path):
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        command(*(trained if word == "TRAINED" else word for word in words))
    errors = capsys.readouterr().err
    errors = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not list(tmp_path.iterdir())  # nothing half-begun


# ---------------------------------------------------------------------- layers that stay


class Look(Callback):
    """Keeps what moves, and with which gradients."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.optimized = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
        self.without = [name for name, p in pl_module.discriminator.named_parameters() if p.grad is None]


FROZEN = ("down1.", "down2.", "norm2.")


@pytest.mark.parametrize(
    ("norm", "clip"),
    [("batch", ByNorm(0.01)), ("spectral", ByValue(1e-4)), ("layer", Adaptive()), ("batch", Auto())],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_frozen_layers_stay_to_the_bit(make_trainer, norm, clip):
    """Weights and buffers, beneath clipping of weights and gradients, measurements and validation; all others move."""
    gan = dcgan(norm=norm, freeze_discriminator=2, weight_clip=0.01, n_critic=2, penalties=[R1(1, every=2)])
    before = deepcopy(gan.discriminator.state_dict())
    monitor, look = GradientMonitor(every=2), Look()
    callbacks = [GeneratorEMA(), GradientClipping(discriminator=clip), monitor, look]
    data = SmallMNIST(batch_size=64, validation_size=64)
    make_trainer(max_steps=10, callbacks=callbacks, val_check_interval=2).fit(gan, data)
    moved = {name for name, value in gan.discriminator.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in moved if name.startswith(FROZEN)]
    parameters = dict(gan.discriminator.named_parameters())
    assert moved >= {name for name in parameters if not name.startswith(FROZEN)}
    assert not [name for name in look.without if not name.startswith(FROZEN)]
    assert all((id(p) in look.optimized) != name.startswith(FROZEN) for name, p in parameters.items())
    layers = monitor.stats.discriminator.parameter_gradients
    assert all((value > 0) != f"{layer}.".startswith(FROZEN) for layer, value in layers.items())
    assert not [layer for layer in monitor.stats.discriminator.update_ratios if f"{layer}.".startswith(FROZEN)]
    assert not [name for name in monitor.stats.discriminator.activation_gradients if f"{name}.".startswith(FROZEN)]
    assert monitor.stats.discriminator.update_ratio > 0
    gan.train()
    training = {name for name, module in gan.discriminator.named_modules() if name and module.training}
    assert not [name for name in training if f"{name}.".startswith(FROZEN)]
    assert "down3" in training


def test_frozen_normalisations_use_what_they_came_with(make_trainer):
    """A batch's own statistics would make other features of the same image."""
    gan = dcgan(freeze_discriminator=2)
    seen = []
    gan.discriminator.norm2.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    make_trainer(max_steps=2).fit(gan, SmallMNIST(batch_size=16, validation_size=0))
    norm = gan.discriminator.norm2
    for inputs, output in seen:
        expected = (inputs / (1 + norm.eps) ** 0.5) * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
        torch.testing.assert_close(output, expected)  # a mean of 0 and a variance of 1, as before training


def test_a_frozen_run_resumes_to_the_bit_and_says_what_else_it_would_move(trained, capsys):
    words = ["--model.freeze_discriminator", "2", "--trainer.max_steps"]
    fit("whole", "--init", trained, *words, "6")
    fit("parts", "--init", trained, *words, "3")
    assert "frozen         of the discriminator, its first 2 layers: hidden1, hidden2" in capsys.readouterr().out
    resume("parts", "--trainer.max_steps", "6")
    one, two = (load(f"{run}/checkpoints/last.ckpt") for run in ("whole", "parts"))
    assert all(torch.equal(one["state_dict"][name], value) for name, value in two["state_dict"].items())
    capsys.readouterr()
    with pytest.warns(
        UserWarning, match="discriminator_optimizer: 4 parameters to move in place of 2; its state starts"
    ):
        resume("parts", "--trainer.max_steps", "7", "--model.freeze_discriminator", "1")
    assert "changed        model.freeze_discriminator: 2 -> 1" in capsys.readouterr().out


def test_without_trained_weights_a_warning_says_that_they_are_random():
    with pytest.warns(UserWarning, match="keeps layers as they start, which is at random: give trained ones by --init"):
        fit("run", "--model.freeze_discriminator", "1")


# ---------------------------------------------------------------------- several processes


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_several_processes_begin_with_the_same_and_keep_the_same_layers(strategy, tmp_path):
    networks = ["--model.generator.base_channels", "4", "--model.generator.latent_dim", "8", "--model.generator.norm"]
    networks += ["layer", "--model.discriminator.base_channels", "4", "--model.discriminator.norm", "layer"]
    words = ["--data.batch_size", "8", "--model.penalties", "[]", "--trainer.accelerator", "cpu", *networks]
    fast = [word for word in SHORT if word not in ("gan.networks.MLPGenerator", "gan.networks.MLPDiscriminator")]
    fast = fast[:2] + SMALL + words
    command("fit", *fast, "--run_dir", "trained", "--trainer.max_steps", "3")
    run = ["fit", *fast, "--run_dir", "new", "--init", "trained", "--trainer.devices", "2", "--trainer.strategy"]
    run += [strategy, "--model.freeze_discriminator", "2", "--trainer.max_steps", "3"]
    started = process([sys.executable, "-m", "gan.cli", *map(str, run)], cwd=tmp_path)
    output, errors = started.communicate()
    assert started.returncode == 0, errors
    assert output.count("tensors of discriminator from") == 1
    one, two = load("trained/checkpoints/last.ckpt")["state_dict"], load("new/checkpoints/last.ckpt")["state_dict"]
    for name, value in two.items():
        if name.startswith("discriminator."):
            still = name.removeprefix("discriminator.").startswith(FROZEN)
            assert torch.equal(value, one[name]) == still, name
