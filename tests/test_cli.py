"""The commands from outside: what they take, what they write, what they print, and that a run can go on."""

import gc
import inspect
import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from commands import (
    FAST,
    FEW_SCORES,
    MLPS,
    SHORT,
    TRUSTED,
    At,
    Watch,
    command,
    equal,
    fit,
    load,
    process,
    resume,
    table,
)
from conftest import ROOT, same_weights
from lightning import Callback
from torch import nn

from gan import GAN
from gan.callbacks import RunProgress
from gan.cli import main
from gan.images import to_pil
from gan.losses import Hinge
from gan.networks import DCGANDiscriminator, DCGANGenerator, MLPGenerator
from gan.run import GANCLI


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """An empty working directory: nothing may depend on standing in the checkout."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def saved_config(run_dir) -> dict:
    return yaml.safe_load(Path(run_dir, "config.yaml").read_text(encoding="utf-8"))


def help_of(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stop:
        command(*words)
    assert stop.value.code == 0
    return capsys.readouterr().out


# ---------------------------------------------------------------------- fit


def test_bare_fit_works_from_any_folder(here):
    """Fails if the default config, or anything it names, is looked for in the working directory."""
    schedule = ["--model.generator_scheduler", "null", "--model.discriminator_scheduler.warmup", "1"]
    command("fit", "--trainer.max_steps", "3", "--trainer.log_every_n_steps", "1", *schedule)
    assert [path.name for path in here.iterdir()] == ["runs"]
    (run,) = Path("runs", "default").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run.name)
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "findings.json",
        "gradients",
        "metrics.csv",
        "metrics.jsonl",
        "report.md",
        "samples",
        "tensorboard",
    ]
    names = ["best.ckpt", "last.ckpt", "step_000003.ckpt"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    assert {"fixed_000000.png", "fixed_000003.png", "real.png"} <= {path.name for path in (run / "samples").iterdir()}
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert [row["step"] for row in table(run)] == ["1", "2", "3"]
    assert {"loss/generator", "loss/discriminator", "loss/r1"} <= table(run)[0].keys()


@pytest.mark.slow
def test_default_folder_has_the_name_of_the_last_config(monkeypatch):
    """Two runs that start in one second must not share a folder."""
    monkeypatch.setattr("gan.folder.time.strftime", lambda form: "now")
    Path("mine.yaml").write_text("model: {n_critic: 2}", encoding="utf-8")
    command("fit", *SHORT)
    command("fit", *SHORT, "--config", "mine.yaml")
    command("fit", *SHORT, "--config", "mine.yaml")
    runs = [f"{path.parent.name}/{path.name}" for path in Path("runs").glob("*/*")]
    assert sorted(runs) == ["fast/now", "mine/now", "mine/now-2"]


def test_configs_overlay(tmp_path):
    """The later file wins where both speak, and takes nothing away where it is silent."""
    Path("a.yaml").write_text("model: {n_critic: 2, num_fixed_latents: 4}", encoding="utf-8")
    Path("b.yaml").write_text("model: {num_fixed_latents: 9, loss: {class_path: gan.losses.Hinge}}", encoding="utf-8")
    fit("run", "--config", "a.yaml", "--config", "b.yaml", "--model.weight_clip", "0.5")
    model = saved_config("run")["model"]
    assert (model["n_critic"], model["num_fixed_latents"], model["weight_clip"]) == (2, 9, 0.5)
    assert model["loss"]["class_path"] == "gan.losses.Hinge"


def test_short_class_names():
    """What the README and these tests write: no package before a class of the project or of torch.optim."""
    watch = Watch()
    words = ["--model.loss", "Hinge", "--model.generator_optimizer", "SGD", "--model.generator_optimizer.lr", "0.5"]
    fit("run", *words, callbacks=[watch])
    assert type(watch.gan.loss) is Hinge
    assert type(watch.gan.generator) is MLPGenerator
    assert type(watch.trainer.optimizers[1]) is torch.optim.SGD
    assert watch.trainer.optimizers[1].defaults["lr"] == 0.5
    assert saved_config("run")["model"]["loss"]["class_path"] == "gan.losses.Hinge"


def test_callbacks_are_appended_by_flag_and_by_file():
    more = "lightning.pytorch.callbacks.ModelCheckpoint"
    Path("more.yaml").write_text(
        f"trainer: {{callbacks+: [{{class_path: {more}, init_args: {{every_n_train_steps: 2}}}}]}}", encoding="utf-8"
    )
    names = {}
    for way, words in {
        "none": [],
        "flag": [f"--trainer.callbacks+={more}", "--trainer.callbacks.every_n_train_steps", "2"],
        "file": ["--config", "more.yaml"],
    }.items():
        fit(way, *words)
        names[way] = callbacks_of(way)
        assert bool(list(Path(way).rglob("epoch=0-step=2.ckpt"))) == (way != "none")
    assert names["flag"] == names["file"] == [*names["none"], more]
    assert len(names["none"]) >= 4


def callbacks_of(run_dir) -> list[str]:
    return [callback["class_path"] for callback in saved_config(run_dir)["trainer"]["callbacks"]]


@pytest.mark.parametrize("package", ["", pytest.param("gan.callbacks.", marks=pytest.mark.slow)], ids=["short", "full"])
def test_what_a_run_has_one_of_is_replaced(package, monkeypatch):
    """In its place. Lightning refuses a second progress bar, and a second ImageLogger would draw all pictures twice."""
    drawn = []
    monkeypatch.setattr(
        "gan.callbacks.image_logger.to_pil", lambda grid, to_pil=to_pil: drawn.append(1) or to_pil(grid)
    )
    watch = Watch()
    words = [f"--trainer.callbacks+={package}ImageLogger", "--trainer.callbacks.every", "2"]
    words += [f"--trainer.callbacks+={package}RunProgress", "--trainer.callbacks.refresh", "7"]
    fit("more", *words, callbacks=[watch])
    assert callbacks_of("more") == [callback["class_path"] for callback in default_callbacks()]
    assert watch.trainer.progress_bar_callback.refresh == 7
    assert len(drawn) == 5  # at 0, 2 and 3, the real ones, and between


@pytest.mark.parametrize("bar", ["RichProgressBar", "lightning.pytorch.callbacks.TQDMProgressBar", "test_cli.Silent"])
def test_another_progress_bar_takes_the_place_of_ours(bar, capsys):
    watch = Watch()
    fit("run", f"--trainer.callbacks+={bar}", callbacks=[watch])
    assert type(watch.trainer.progress_bar_callback).__name__ == bar.rpartition(".")[2]
    assert "gan.callbacks.RunProgress" not in callbacks_of("run")


class Silent(RunProgress):
    """A progress bar of a user's own."""


def default_callbacks() -> list[dict]:
    """Of the default config and, in their places, those of the fast one."""
    return yaml.safe_load((ROOT / "configs" / "default.yaml").read_text(encoding="utf-8"))["trainer"]["callbacks"]


@pytest.mark.slow
def test_image_shape_comes_from_the_data():
    """Neither the shape of the data nor that of the networks is typed, for two pairs of networks."""
    for pair in ("MLP", "DCGAN"):
        watch = Watch()
        words = ["--model.generator", f"{pair}Generator", "--model.discriminator", f"{pair}Discriminator"]
        path = fit(pair, *words, "--data", "commands.Colour", callbacks=[watch])
        assert watch.gan.generator.image_shape == watch.gan.discriminator.image_shape == (3, 32, 32)
        assert GAN.load_from_checkpoint(path, weights_only=True)(torch.randn(2, 8)).shape == (2, 3, 32, 32)


def test_seed_is_42_and_reaches_everything():
    """Weights, latents and the order of the data follow `seed_everything`, and nothing else."""
    drawn = {}
    for name, words in {
        "default": [],
        "same": ["--seed_everything", "42"],
        "other": ["--seed_everything", "7"],
    }.items():
        watch = Watch()
        fit(name, *words, "--trainer.max_steps", "1", callbacks=[watch])
        order = next(iter(watch.data.train_dataloader()))[1]
        drawn[name] = (watch.gan.hparams.seed, watch.data.seed, watch.gan.fixed_latents, order, load_weights(name))
    assert drawn["default"][:2] == (42, 42)
    assert drawn["other"][:2] == (7, 7)
    assert equal(drawn["default"], drawn["same"])
    for default, other in zip(drawn["default"], drawn["other"], strict=True):
        assert not equal(default, other)


def load_weights(run_dir) -> dict:
    return load(Path(run_dir, "checkpoints", "last.ckpt"))["state_dict"]


def test_saved_config_runs_again_as_it_is():
    """Bit for bit. The trap: Lightning cannot write down every default of an optimizer, and then not read it back."""
    schedule = ["--model.generator_scheduler", "WarmupCosine", "--model.generator_scheduler.warmup", "1"]
    first = fit("first", "--model.n_critic", "2", *schedule)
    command("fit", "--config", "first/config.yaml", "--run_dir", "second")
    assert Path("first/config.yaml").read_text(encoding="utf-8") == Path("second/config.yaml").read_text(
        encoding="utf-8"
    )
    one, two = load(first), load(Path("second/checkpoints/last.ckpt"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "hyper_parameters"):
        assert equal(one[part], two[part])
    assert table("first") == table("second")


@pytest.mark.parametrize("optimizer", ["configured", "null"])
def test_optimizer_settings_are_written_down(optimizer):
    """In the config and in the checkpoint, as data; `null` is the module's own Adam."""
    words = ["--model.generator_optimizer", "null"] if optimizer == "null" else []
    checkpoint = load(fit("run", *words))
    text = Path("run/config.yaml").read_text(encoding="utf-8")
    assert "Unable to serialize" not in text
    assert "!!python" not in text
    saved = checkpoint["hyper_parameters"]["generator_optimizer"]
    if optimizer == "null":
        assert saved is None
        assert checkpoint["optimizer_states"][1]["param_groups"][0]["betas"] == (0.5, 0.999)
    else:
        config = saved_config("run")["model"]["generator_optimizer"]["init_args"]
        assert config["betas"] == list(checkpoint["optimizer_states"][1]["param_groups"][0]["betas"])
        assert saved["init_args"]["lr"] == config["lr"] == checkpoint["optimizer_states"][1]["param_groups"][0]["lr"]


OWN = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, width: int{shape}):
        super().__init__()
        self.latent_dim = 6
        self.layers = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 784), nn.Tanh())

    def forward(self, latents):
        return self.layers(latents).unflatten(1, (1, 28, 28))
"""


@pytest.mark.parametrize("shape", ["", ", image_shape: tuple[int, int, int] = (0, 0, 0)"], ids=["without", "with"])
def test_own_network_from_yaml(tmp_path, monkeypatch, capsys, recwarn, shape):
    """A plain nn.Module, with and without the argument `image_shape`, through every command."""
    module = f"own_{'with' if shape else 'without'}"
    (tmp_path / f"{module}.py").write_text(OWN.format(shape=shape), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    Path("own.yaml").write_text(
        f"model: {{generator: {{class_path: {module}.Mine, init_args: {{width: 5}}}}}}", encoding="utf-8"
    )
    watch = Watch()
    path = fit("run", "--config", "own.yaml", callbacks=[watch])
    command("sample", "--ckpt", path, "--out", "own.png", "--num", "4", "--trust", module)
    command("validate", "--ckpt_path", path, *TRUSTED, "--trust", module)
    resume("run", "--trainer.max_steps", "4")
    assert "validation/discriminator" in capsys.readouterr().out
    assert not [warning for warning in recwarn if "cannot rebuild" in str(warning.message)]

    loaded = GAN.load_from_checkpoint(path, weights_only=True, trust=module)
    assert type(loaded.generator) is type(watch.gan.generator)
    assert loaded.generator.layers[0].out_features == 5
    assert same_weights(loaded, GAN.load_from_checkpoint(path, weights_only=True, trust=module))
    assert all(torch.equal(value, load(path)["state_dict"][key]) for key, value in loaded.state_dict().items())


def test_two_words_of_the_process_do_not_disturb_main(monkeypatch, recwarn):
    """Lightning warns where the process has arguments of its own, as pytest has."""
    monkeypatch.setattr(sys, "argv", ["pytest", "-x", "tests"])
    fit("run")
    assert not [warning for warning in recwarn if "args parameter" in str(warning.message)]


# ---------------------------------------------------------------------- options


def test_print_config(here, capsys):
    text = help_of(capsys, "fit", *SHORT, "--model.n_critic", "3", "--print_config")
    config = yaml.safe_load(text)
    assert config["model"]["n_critic"] == 3
    assert config["seed_everything"] == 42
    assert list(here.iterdir()) == []


def test_help_of_fit(capsys):
    text = help_of(capsys, "fit", "--help")
    options = set(re.findall(r"--[a-z_.]+", text))
    assert {"--run_dir", "--resume", "--config", "--seed_everything", "--trainer.max_steps"} <= options
    arguments = set(inspect.signature(GAN).parameters) - {"seed"}  # linked to seed_everything
    assert {f"--model.{name}" for name in arguments} <= options
    # One optimizer for both networks, Lightning's own resume, and what links fill in: none of them is on offer.
    offered = set(re.findall(r"\[(--[a-z_.]+)[ \]]", text))
    assert not offered & {"--optimizer", "--lr_scheduler", "--ckpt_path", "--weights_only", "--model.seed"}
    assert not [option for option in offered if option.startswith(("--optimizer", "--lr_scheduler"))]


def test_help_has_a_line_for_every_setting_of_the_model(capsys):
    text = help_of(capsys, "fit", "--help")
    for name in set(inspect.signature(GAN).parameters) - {"seed"}:
        (line,) = re.findall(rf"^  --model\.{name} .*\n(?: {{10,}}.*\n)+", text, re.M)[:1]
        assert len(line.split()) > 5


def test_help_of_the_program_and_of_our_own_commands(capsys):
    bare, given = help_of(capsys), help_of(capsys, "--help")
    assert bare == given
    for name in ("fit", "validate", "test", "sample", "translate", "export", "lab"):
        assert name in given
    assert "predict" not in given
    assert {"--ckpt", "--num", "--seed", "--out"} <= set(help_of(capsys, "sample", "--help").split())
    assert {"--ckpt", "--out"} <= set(help_of(capsys, "export", "--help").split())
    assert {"--ckpt", "--images", "--out", "--seed"} <= set(help_of(capsys, "translate", "--help").split())


def test_help_of_a_class(capsys):
    assert "--model.generator.latent_dim" in help_of(capsys, "fit", "--model.generator.help", "MLPGenerator")


# ---------------------------------------------------------------------- validate and test


def test_validate_and_test_print_the_score(capsys):
    """The one that a hand-written pass over the same images gives."""
    path = fit("run")
    capsys.readouterr()
    for name, loader in (("validate", "val_dataloader"), ("test", "test_dataloader")):
        command(name, "--ckpt_path", path, *TRUSTED)
        printed = float(re.search(r"validation/discriminator\D+([\d.]+)", capsys.readouterr().out).group(1))
        gan, watch = GAN.load_from_checkpoint(path, weights_only=True).eval(), Watch()
        fit(f"again-{name}", callbacks=[watch])
        total = images = 0
        for number, (real, _) in enumerate(getattr(watch.data, loader)()):
            fake = gan(gan.latents(len(real), gan.rng("validation", number, 0)))
            with torch.no_grad():
                total += gan.loss.discriminator(gan.discriminator(real), gan.discriminator(fake)).sum().item()
            images += len(real)
        capsys.readouterr()
        assert printed == pytest.approx(total / images, rel=1e-5)


def test_validate_scores_on_the_data_of_the_run(capsys):
    """Not on those of the default config, which for digits would give a score without a complaint."""
    path = fit("run", "--data", "commands.Colour")
    capsys.readouterr()
    command("validate", "--ckpt_path", path, *TRUSTED)
    alone = capsys.readouterr().out
    command("validate", "--ckpt_path", path, "--config", "run/config.yaml")
    assert capsys.readouterr().out == alone
    assert "validation/discriminator" in alone


def test_validate_leaves_the_run_as_it_was():
    path = fit("run")
    before = {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}
    command("validate", "--ckpt_path", path, *TRUSTED)
    assert {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()} == before


# ---------------------------------------------------------------------- what is printed


def test_six_lines_at_the_start_and_two_at_the_end(capsys):
    fit("a run")
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("batch "))
    words = ["device", "data", "generator", "discriminator", "run", "FID"]
    assert [line.split()[0] for line in lines[:first]] == [*words, *["taken"] * 3]  # data and networks are not MNIST's
    assert "SmallMNIST 1x28x28, 62 batches an epoch" in lines[1]
    assert lines[4].endswith("(watch: tensorboard --logdir 'a run')")
    assert "page Custom Scalars" in lines[4]
    assert [line.split(maxsplit=1) for line in lines[-2:]] == [
        ["pictures", "a run/samples"],
        ["checkpoint", "a run/checkpoints/last.ckpt"],
    ]
    assert Path("a run/samples").is_dir()
    assert Path("a run/checkpoints/last.ckpt").is_file()
    assert not [line for line in lines if line.startswith(("GPU", "TPU", "💡", "Seed set"))]


def test_multiply_adds_of_the_mlps(capsys):
    fit("run")
    lines = capsys.readouterr().out.splitlines()
    # Each layer: inputs x outputs. Parameters: one bias more for each output.
    generator, discriminator = 8 * 128 + 128 * 256 + 256 * 784, 784 * 256 + 256 * 128 + 128 * 1
    assert f"MLPGenerator, {generator + 128 + 256 + 784:,} parameters, {generator:,} multiply-adds" in lines[2]
    assert f"MLPDiscriminator, {discriminator + 256 + 128 + 1:,} parameters, {discriminator:,}" in lines[3]


def test_multiply_adds_of_a_convolutional_pair(capsys):
    words = ["--model.generator", "DCGANGenerator", "--model.generator.base_channels", "4"]
    words += ["--model.discriminator", "DCGANDiscriminator", "--model.discriminator.base_channels", "2"]
    fit("run", *words)
    lines = capsys.readouterr().out.splitlines()
    # A convolution: output positions x kernel 4x4 x channels in x channels out; transposed, input positions.
    generator = 8 * (8 * 7 * 7) + 7 * 7 * 16 * 8 * 4 + 14 * 14 * 16 * 4 * 1
    discriminator = 14 * 14 * 16 * 1 * 2 + 7 * 7 * 16 * 2 * 4 + 3 * 3 * 16 * 4 * 8 + 8 * 3 * 3
    assert f", {generator:,} multiply-adds" in lines[2]
    assert f", {discriminator:,} multiply-adds" in lines[3]
    assert f"{sum(p.numel() for p in DCGANGenerator((1, 28, 28), 8, 4).parameters()):,} parameters" in lines[2]
    assert f"{sum(p.numel() for p in DCGANDiscriminator((1, 28, 28), 2).parameters()):,} parameters" in lines[3]


# ---------------------------------------------------------------------- resume

SCHEDULE = ["--model.generator_scheduler", "WarmupCosine", "--model.generator_scheduler.warmup", "2"]
LEARNED = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("network", ["MLP", "DCGAN"])
def test_stopped_and_resumed_equals_uninterrupted(network):
    """Bit for bit: weights, average, optimizers, schedules; and every row of the table once."""
    words = [*SCHEDULE, "--trainer.max_steps", "9", "--model.n_critic", "2"]
    words += ["--model.penalties", "[{class_path: gan.penalties.GradientPenalty, init_args: {weight: 1, every: 3}}]"]
    words += ["--model.generator", f"{network}Generator"]  # one of them has the running averages of batch norm
    words += ["--data.batch_size", "100", "--trainer.limit_val_batches", "1"]  # 4 batches an epoch
    whole = fit("whole", *words)
    with pytest.raises(SystemExit) as stop:
        fit("parts", *words, callbacks=[At(batch=5, action=ctrl_c)])
    assert stop.value.code == 130
    assert load(Path("parts/checkpoints/last.ckpt"))["global_step"] == 6
    parts = resume("parts")
    for part in LEARNED:
        assert equal(load(whole)[part], load(parts)[part]), part
    assert any(key.startswith("generator_ema.") for key in load(parts)["state_dict"])
    assert [row["step"] for row in table("parts")] == [str(step) for step in range(1, 10)]
    for row, again in zip(table("whole"), table("parts"), strict=True):
        # A loss of every other batch repeats its last value in between, which is empty right after a stop.
        assert again["loss/discriminator"]
        assert all(again[name] in (row[name], "") for name in row)
    assert saved_config("parts") == saved_config("whole")


@pytest.mark.slow
def test_killed_run_has_every_row_once():
    """The rows since the checkpoint come a second time: the table must drop those of the run that died."""
    words = ["--trainer.max_steps", "9", "--trainer.callbacks+", "RunCheckpoint", "--trainer.callbacks.every", "3"]
    whole = fit("whole", *words)

    def power_cut():
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fit("parts", *words, callbacks=[At(batch=8, action=power_cut)])
    assert load(Path("parts/checkpoints/last.ckpt"))["global_step"] == 6
    assert [row["step"] for row in table("parts")] == [str(step) for step in range(1, 9)]
    parts = resume("parts")
    assert equal(load(whole)["state_dict"], load(parts)["state_dict"])
    assert [row["step"] for row in table("parts")] == [str(step) for step in range(1, 10)]


def test_more_steps_go_on_from_the_last_batch():
    whole = fit("whole", "--trainer.max_steps", "5")
    parts = resume_to_five()
    for part in LEARNED:
        assert equal(load(whole)[part], load(parts)[part]), part
    assert saved_config("parts")["trainer"]["max_steps"] == 5


def resume_to_five() -> Path:
    fit("parts")
    return resume("parts", "--trainer.max_steps", "5")


ENDED = "run/checkpoints/last.ckpt is the end of its run: there is nothing more to do. To train on, set --trainer."


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("max_steps", "3"), ("max_epochs", "1")])
def test_finished_run_is_left_alone(capsys, name, most):
    words = ["--trainer.max_steps", "24", f"--trainer.{name}", most]
    path = fit("run", *words, "--data.batch_size", "100", "--trainer.limit_val_batches", "1")
    before = path.read_bytes()
    files = {file: file.stat().st_mtime_ns for file in Path("run").rglob("*")}
    capsys.readouterr()
    resume("run")
    assert capsys.readouterr() == (f"{ENDED}{name} above {most}\n", "")
    assert {file: file.stat().st_mtime_ns for file in Path("run").rglob("*")} == files
    command("fit", "--run_dir", "new", "--resume", path, *TRUSTED)  # of which there is nothing to do either
    assert capsys.readouterr().out == f"{ENDED}{name} above {most}\n"
    assert not Path("new").exists()
    assert path.read_bytes() == before
    resume("run", f"--trainer.{name}", "6")
    assert load(path)["global_step"] == (6 if name == "max_steps" else 24)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_its_end(capsys, number, status):
    """At once, since all is saved; and the next run does it."""

    class Stop(Callback):
        def on_train_end(self, trainer, pl_module):
            signal.raise_signal(number)

    whole = fit("whole", *FEW_SCORES, "--data", "commands.Digits")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        fit("run", *FEW_SCORES, "--data", "commands.Digits", callbacks=[Stop()])
    assert stop.value.code == status
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "stopped after batch 3; saved as of batch 3. Go on with:",
        "  python -m gan.cli fit --run_dir run --resume auto",
    ]
    assert equal(load(resume("run")), load(whole))
    output = capsys.readouterr().out
    assert re.search(r"^FID +[\d.]+ of batch 3", output, re.M)
    resume("run")
    assert capsys.readouterr().out == f"{ENDED}max_steps above 3\n"


def test_resume_takes_the_config_of_the_run_and_the_command_line_wins():
    """The traps: Lightning lets a checkpoint's hyperparameters, and torch its rates and betas, win over both."""
    first = ["--model.n_critic", "2", "--model.num_fixed_latents", "9", "--model.generator_optimizer.lr", "0.003"]
    fit("run", *first)
    watch = Watch()
    words = ["--model.n_critic", "1", "--model.loss", "Hinge", "--trainer.max_steps", "5", "--seed_everything", "42"]
    words += ["--model.discriminator_optimizer.lr", "0.25", "--model.discriminator_optimizer.weight_decay", "0.125"]
    path = resume("run", *words, callbacks=[watch])
    assert type(watch.gan.generator) is MLPGenerator  # neither is what the default config says
    assert len(watch.gan.fixed_latents) == 9
    assert watch.gan.n_critic == 1
    assert type(watch.gan.loss) is Hinge
    discriminators, generators = (optimizer.param_groups[0] for optimizer in watch.trainer.optimizers)
    assert generators["lr"] == 0.003
    assert (discriminators["lr"], discriminators["weight_decay"]) == (0.25, 0.125)
    assert watch.trainer.optimizers[0].state_dict()["state"][0]["step"] == 5  # its moments are the old ones
    assert load(path)["hyper_parameters"]["n_critic"] == 1
    assert saved_config("run")["model"]["discriminator_optimizer"]["init_args"]["lr"] == 0.25


def test_resume_under_a_longer_schedule():
    """The position is kept, and the rate is that of the new end, from the first batch on."""
    words = [*SCHEDULE, "--model.generator_optimizer.lr", "1"]
    fit("run", *words, "--trainer.max_steps", "4")
    rates = []

    class Rates(Watch):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[1].param_groups[0]["lr"])

    resume("run", "--trainer.max_steps", "6", callbacks=[Rates()])
    expected = [0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 6)).item()) for step in (4, 5)]  # no warm-up
    assert rates == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_foreign_schedule_goes_on():
    """A scheduler of torch computes each rate from the last one, which must survive a stop."""
    words = ["--model.generator_scheduler", "ExponentialLR", "--model.generator_scheduler.gamma", "0.5"]
    words += ["--trainer.max_steps", "6"]
    whole = fit("whole", *words)
    with pytest.raises(SystemExit):
        fit("parts", *words, callbacks=[At(batch=3, action=ctrl_c)])
    parts = resume("parts")
    for part in LEARNED:
        assert equal(load(whole)[part], load(parts)[part]), part
    groups = load(parts)["optimizer_states"][1]["param_groups"]
    assert groups[0]["lr"] == pytest.approx(groups[0]["initial_lr"] / 64)


@pytest.mark.slow
def test_resume_from_a_path_into_another_folder():
    """It takes the config beside the checkpoint, and leaves the old run alone."""
    whole = fit("whole", "--trainer.max_steps", "5")
    path = fit("old")
    before = path.read_bytes()
    command("fit", "--run_dir", "new", "--resume", path, "--trainer.max_steps", "5", *TRUSTED)
    new = load(Path("new/checkpoints/last.ckpt"))
    assert new["global_step"] == 5
    assert equal(new["state_dict"], load(whole)["state_dict"])
    assert path.read_bytes() == before
    assert [row["step"] for row in table("new")] == ["4", "5"]


@pytest.mark.parametrize("there", [False, True])
def test_resume_auto_without_a_checkpoint_starts(there):
    """By the command's own settings: those of a try that died before its first checkpoint do not stick."""
    fresh = fit("fresh", "--model.loss", "Hinge")
    if there:
        Path("died").mkdir()
        text = Path("fresh/config.yaml").read_text(encoding="utf-8").replace("n_critic: 1", "n_critic: 2")
        Path("died/config.yaml").write_text(text.replace("Hinge", "Wasserstein"), encoding="utf-8")
    died = fit("died", "--resume", "auto", "--model.loss", "Hinge")
    assert equal(load(died)["state_dict"], load(fresh)["state_dict"])
    assert saved_config("died") == saved_config("fresh")


def test_resume_auto_needs_a_folder(capsys):
    """A new folder each time would never find what to go on with."""
    with pytest.raises(SystemExit, match="2"):
        command("fit", *SHORT, "--resume", "auto")
    assert "--resume auto needs the run to go on with: --run_dir RUN" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_resumed_checkpoint_is_plain_data():
    path = resume_to_five()
    checkpoint = load(path)  # with weights_only=True
    assert "_class_path" not in checkpoint["hyper_parameters"]
    assert "__main__" not in repr(checkpoint["hyper_parameters"])
    assert isinstance(GAN.load_from_checkpoint(path, weights_only=True).generator, nn.Module)


# ---------------------------------------------------------------------- start-up

WATCHED = """
import atexit, builtins, gc, json, sys

asked = set()  # top packages that modules of gan import themselves, whatever Lightning has loaded before
true_import = builtins.__import__


def watched_import(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and globals and globals.get("__name__", "").partition(".")[0] == "gan":
        asked.add(name.partition(".")[0])
    return true_import(name, globals, locals, fromlist, level)


builtins.__import__ = watched_import
from gan.cli import main


@atexit.register
def report():
    state = {"asked": [*asked], "loaded": [*sys.modules], "collects": gc.isenabled(), "frozen": gc.get_freeze_count()}
    print(json.dumps(state), file=sys.stderr)


main(sys.argv[1:])
"""


def state_after(*words) -> dict:
    """What a command has loaded in a process of its own, and how it leaves the garbage collector."""
    run = process([sys.executable, "-c", WATCHED, *words])
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    return json.loads(errors)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["lab"]])
def test_lists_load_no_library(words):
    """They come at once: importing torch and Lightning takes seconds."""
    loaded = set(state_after(*words)["loaded"])
    assert not loaded & {"torch", "lightning", "matplotlib", "torchvision", "tensorboard"}


def test_run_loads_what_it_needs():
    """Fails if a module of ours asks for a large library that a run has no use for, at its top or on the way."""
    state = state_after("fit", *SHORT[:6], "--trainer.max_steps", "1", "--run_dir", "run")
    assert {"torch", "lightning", "jsonargparse"} <= set(state["asked"])  # the watch does watch
    assert not set(state["asked"]) & {"matplotlib", "onnx", "onnxscript", "pandas", "scipy", "sklearn"}
    ours = {name for name in state["loaded"] if name.startswith("gan.")}
    assert not [name for name in ours if name.startswith("gan.lab")]
    assert not ours & {"gan.generate", "gan.metrics.inception"}
    assert state["collects"]  # or the run would keep all its garbage
    assert state["frozen"] > 100_000  # the imported library, which is none


def test_callers_process_is_not_frozen():
    """What a process holds besides, garbage included, is its own."""
    before = gc.get_freeze_count()
    fit("run")
    assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_parser_is_built_for_the_command_alone(monkeypatch):
    """Parsers of the other commands would look through the same signatures again."""
    built = []
    init_parser = GANCLI.init_parser
    monkeypatch.setattr(GANCLI, "init_parser", lambda self, **kwargs: built.append(1) or init_parser(self, **kwargs))
    fit("run")
    assert len(built) == 1


# ---------------------------------------------------------------------- a real process


@pytest.mark.slow
def test_ctrl_c_in_a_real_process_and_the_command_it_prints(here):
    """Ctrl-C at the first sign of progress, then the printed command as it is: all that a user sees of both."""
    words = ["-m", "gan.cli", "fit", "--config", FAST, *MLPS, "--data.batch_size", "8", "--run_dir", "a run"]
    words += ["--trainer.max_steps", "300", "--trainer.limit_val_batches", "1"]
    run = process(["python", *words])
    lines = []
    for line in run.stdout:
        lines.append(line.rstrip())
        if line.startswith("batch "):
            run.send_signal(signal.SIGINT)
            break
    rest, errors = run.communicate(timeout=60)
    lines += rest.splitlines()
    assert run.returncode == 130, errors
    assert errors == ""
    lines = [line for line in lines if not line.startswith("features")]  # measured once, by whichever test is the first
    assert len(lines) == 11  # six to start, two networks, a tenth of the run, two to stop
    stopped = int(re.fullmatch(r"stopped after batch (\d+); saved as of batch \1\. Go on with:", lines[-2]).group(1))
    assert stopped < 300
    assert load(Path("a run/checkpoints/last.ckpt"))["global_step"] == stopped
    assert shlex.split(lines[-1]) == [*["python", "-m", "gan.cli", "fit", "--run_dir"], "a run", "--resume", "auto"]

    again = process(lines[-1], shell=True)
    output, errors = again.communicate(timeout=60)
    lines = [line for line in output.splitlines() if not line.startswith("   ")]  # what else the doctor says
    assert again.returncode == 0, errors
    assert errors == ""  # no banner, no tip, no warning
    assert [line.split()[0] for line in lines[:6]] == ["device", "data", "generator", "discriminator", "run", "FID"]
    assert all(line.startswith(("batch ", "doctor ")) for line in lines[6:-5])
    assert [line.split()[0] for line in lines[-5:]] == ["FID", "doctor", "ended", "pictures", "checkpoint"]
    assert lines[-3] == "ended          after batch 300: trainer.max_steps 300"
    checkpoint = load(Path("a run/checkpoints/last.ckpt"))
    assert checkpoint["global_step"] == 300
    assert "__main__" not in repr(checkpoint["hyper_parameters"])  # the program was gan.cli itself
    steps = [int(row["step"]) for row in table("a run")]
    assert steps == [1, *range(5, 301, 5)]  # GradientMonitor begins with the first batch


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux to see what is loaded")
@pytest.mark.parametrize("library", ["libtorch_cpu", "numpy"])
def test_ctrl_c_while_libraries_load_is_a_line(here, library):
    run = process(["python", "-m", "gan.cli", "fit", "--config", FAST, "--run_dir", "run"])
    maps = Path(f"/proc/{run.pid}/maps")
    while library not in maps.read_text(encoding="utf-8"):
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=60) == ("", "stopped\n")
    assert run.returncode == 130
    assert not Path("run").exists()


def test_ctrl_c_before_the_run_is_a_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gan.run.replace_lightnings", interrupted)
    with pytest.raises(SystemExit, match="130"):
        main(["fit", *SHORT])
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.slow
def test_a_terminal_without_the_letters_of_a_path(here):
    """An ASCII terminal is shown the letters' numbers."""
    words = ["python", "-m", "gan.cli", "fit", *SHORT, "--run_dir", "caf\u00e9"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = process(
        words, env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT / "tests"), "PATH": path}
    )
    output, errors = run.communicate()
    assert (run.returncode, errors) == (0, "")
    assert "caf\\xe9/checkpoints/last.ckpt" in output
    assert Path("caf\u00e9/checkpoints/last.ckpt").is_file()
