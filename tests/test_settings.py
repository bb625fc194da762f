"""A class that is swapped begins with its own defaults, whichever way it is named; what is given beside it applies."""

from pathlib import Path

import pytest
import torch
import yaml
from commands import FEW_SCORES, SHORT, command, fit
from conftest import ROOT

from gan.cli import main
from gan.settings import taken


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(capsys, *words) -> dict:
    """What `--print_config` shows of a command."""
    with pytest.raises(SystemExit, match="0"):
        main(["fit", *words, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


# A setting, the class to swap in, and its own defaults, where the default config has others of the same name.
SWAPS = {
    "optimizer": ("model.generator_optimizer", "torch.optim.AdamW", {"weight_decay": 0.01, "lr": 0.001, "fused": None}),
    "other optimizer": ("model.discriminator_optimizer", "torch.optim.RMSprop", {"lr": 0.01, "weight_decay": 0.0}),
    "network": ("model.generator", "gan.networks.MLPGenerator", {"latent_dim": 100}),
    "own network": ("model.generator", "commands.OwnGenerator", {"latent_dim": 8}),
    "data": ("data", "conftest.SmallMNIST", {"batch_size": 32, "validation_size": 5000}),
    "schedule": ("model.generator_scheduler", "commands.OtherWarmup", {"warmup": 7}),
}


def init_args(config: dict, setting: str) -> dict:
    for name in setting.split("."):
        config = config[name]
    return config["init_args"]


@pytest.mark.parametrize("way", ["flag", "flag with equals sign", "config", "config over config"])
@pytest.mark.parametrize("case", SWAPS)
def test_another_class_begins_with_its_own_defaults(capsys, case, way):
    setting, cls, defaults = SWAPS[case]
    nested = {"class_path": cls}
    for name in reversed(setting.split(".")):
        nested = {name: nested}
    Path("mine.yaml").write_text(yaml.safe_dump(nested), "utf-8")
    words = {
        "flag": [f"--{setting}", cls],
        "flag with equals sign": [f"--{setting}={cls}"],
        "config": ["--config", "mine.yaml"],
        "config over config": ["--config", str(ROOT / "configs" / "wgan_gp.yaml"), "--config", "mine.yaml"],
    }[way]
    found = init_args(printed(capsys, *words), setting)
    assert {name: found[name] for name in defaults} == defaults


@pytest.mark.parametrize(
    "words", [["--model.penalties", "[{class_path: gan.penalties.GradientPenalty}]"], ["mine.yaml"]]
)
def test_another_class_in_a_list(capsys, words):
    Path("mine.yaml").write_text("model: {penalties: [{class_path: gan.penalties.GradientPenalty}]}", "utf-8")
    config = printed(capsys, *(["--config", *words] if len(words) == 1 else words))
    (penalty,) = config["model"]["penalties"]
    assert penalty["init_args"]["weight"] == 10
    assert penalty["init_args"]["every"] == 1


def test_the_same_class_keeps_its_settings(capsys):
    words = ["--model.generator_optimizer", "torch.optim.Adam", "--model.generator_optimizer.lr", "0.1"]
    found = init_args(printed(capsys, *words), "model.generator_optimizer")
    assert (found["lr"], found["betas"], found["fused"]) == (0.1, [0.0, 0.9], True)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("setting", "cls", "name", "value"),
    [
        ("model.generator_optimizer", "torch.optim.AdamW", "lr", 0.25),
        ("model.generator", "gan.networks.MLPGenerator", "latent_dim", 9),
        ("data", "conftest.SmallMNIST", "batch_size", 5),
    ],
)
def test_settings_beside_a_class_apply_before_it_and_after_it(capsys, setting, cls, name, value, order):
    words = [[f"--{setting}", cls], [f"--{setting}.{name}", str(value)]][::order]
    assert init_args(printed(capsys, *words[0], *words[1]), setting)[name] == value


def test_arguments_given_for_a_class_before_go_to_the_next_that_takes_them(capsys):
    """A command that is given again with another class at its end."""
    words = ["--data", "conftest.SmallMNIST", "--data.batch_size", "5", "--data", "commands.Colour"]
    words += ["--model.generator", "MLPGenerator", "--model.generator.latent_dim", "9"]
    with pytest.warns(UserWarning, match="--model.generator.latent_dim is left out: commands.Picky takes none"):
        config = printed(capsys, *words, "--model.generator", "commands.Picky")
    assert config["data"]["init_args"]["batch_size"] == 5
    assert config["model"]["generator"]["init_args"] == {"width": 4}


class Act(torch.nn.Module):
    """A network whose argument is a class with arguments."""

    def __init__(self, act: torch.nn.Module, slope: float = 0.2):
        super().__init__()


class OtherAct(Act):
    pass


@pytest.mark.parametrize("given", [False, True])
def test_arguments_that_have_arguments(capsys, given):
    """Forgotten as a whole, or kept as a whole where the command gives them."""
    act = {"class_path": "torch.nn.Hardtanh", "init_args": {"min_val": -0.5}}
    model = {"generator": {"class_path": "test_settings.Act", "init_args": {"act": act, "slope": 0.7}}}
    Path("mine.yaml").write_text(yaml.safe_dump({"model": model}), "utf-8")
    words = ["--model.generator.act", "torch.nn.Hardtanh", "--model.generator.act.min_val", "-0.25"]
    words = ["--config", "mine.yaml", *(words if given else []), "--model.generator", "test_settings.OtherAct"]
    found = init_args(printed(capsys, *words), "model.generator")
    assert found["slope"] == 0.2
    assert (found.get("act") or {}).get("init_args", {}).get("min_val") == (-0.25 if given else None)


def test_arguments_of_one_network_are_not_those_of_the_other(capsys):
    words = ["--model.generator_optimizer.lr", "0.004", "--model.discriminator_optimizer", "AdamW"]
    config = printed(capsys, *words)
    assert init_args(config, "model.discriminator_optimizer")["lr"] == 0.001
    assert init_args(config, "model.generator_optimizer")["lr"] == 0.004


def test_private_names_of_the_parser():
    """Without them, a class that is swapped would keep the arguments of the class before."""
    from jsonargparse import _paths, _typehints

    assert callable(_typehints.discard_init_args_on_class_path_change)
    assert callable(_typehints.ActionTypeHint.__call__)
    assert callable(_paths.Path.read_text)


def test_first_lines_say_what_was_taken(capsys):
    fit("run", "--model.generator_optimizer", "torch.optim.AdamW", "--model.generator_optimizer.betas", "[0.1, 0.9]")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "model.generator_optimizer" in line]
    assert line.startswith(
        "taken          model.generator_optimizer: torch.optim.AdamW lr 0.001, betas [0.1, 0.9], eps"
    )
    assert "weight_decay 0.01" in line
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][1]
    assert state["param_groups"][0]["weight_decay"] == 0.01
    command("fit", "--run_dir", "run", "--resume", "auto", "--trainer.max_steps", "4")
    assert "taken" not in capsys.readouterr().out  # it says what has changed


def test_nothing_is_taken_by_the_default():
    config = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text("utf-8"))
    assert taken(config, config) == []


def test_a_checkpoint_keeps_the_arguments_of_its_own_networks(capsys):
    """They do not get what the default config has for others."""
    fit("run")
    command("validate", "--ckpt_path", "run/checkpoints/last.ckpt", "--trust", "conftest")
    assert "latent_dim" not in capsys.readouterr().err
    assert SHORT[SHORT.index("--model.generator.latent_dim") + 1] == "8"
    saved = yaml.safe_load(Path("run/config.yaml").read_text("utf-8"))
    assert saved["model"]["generator"]["init_args"]["latent_dim"] == 8


# ---------------------------------------------------------------------- recipes by name


@pytest.mark.parametrize(
    ("words", "loss", "penalty"),
    [
        (["--config", "wgan_gp"], "Wasserstein", "GradientPenalty"),
        (["--config=wgan_gp"], "Wasserstein", "GradientPenalty"),
        (["-c", "hinge_sn.yaml"], "Hinge", None),
        (["--config", "zoo/saturating"], "Saturating", None),
        (["--config=zoo/dragan.yaml"], "NonSaturating", "DRAGAN"),
        (["--config", "failures/saturated_loss", "--config", "wgan_gp"], "Wasserstein", "GradientPenalty"),
        (["--config", "wgan_gp", "--model.loss", "gan.losses.Hinge"], "Hinge", "GradientPenalty"),
    ],
)
def test_a_recipe_is_found_by_its_name(capsys, words, loss, penalty):
    """From any folder."""
    Path("wgan_gp").mkdir()  # a folder is no config
    config = printed(capsys, *words)
    assert config["model"]["loss"]["class_path"] == f"gan.losses.{loss}"
    found = [each["class_path"] for each in config["model"]["penalties"] or []]
    assert found == ([f"gan.penalties.{penalty}"] if penalty else [])


@pytest.mark.parametrize("name", ["wgan_gp", "./wgan_gp", "wgan_gp.yaml"])
def test_a_file_goes_before_a_recipe(capsys, name):
    Path(name).write_text("model: {n_critic: 7}", encoding="utf-8")
    assert printed(capsys, "--config", name)["model"]["n_critic"] == 7


def test_a_config_may_be_a_text(capsys):
    assert printed(capsys, "--config", "model: {n_critic: 7}")["model"]["n_critic"] == 7


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("wgan-gp", "did you mean wgan_gp?"),
        ("failure/collapse", "did you mean failures/collapse?"),
        ("Resnet", "did you mean resnet?"),
        (
            "mine.yaml",
            "there are acgan, article, conditional, dcgan, default, extragradient, hinge_sn, inpaint, optimistic, "
            "r3gan, resnet, semisupervised, speedrun, superres, text, wgan_gp",
        ),
        ("../pyproject", "there are acgan, article"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "validate"])
def test_no_config_of_that_name(capsys, name, way_out, command):
    with pytest.raises(SystemExit, match="2"):
        main([command, "--config", name])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --config {name}: no such file, and no recipe of that name; {way_out}")


def test_a_run_is_called_after_its_recipe():
    command("fit", "--config", "article", *SHORT[2:], *FEW_SCORES, "--model.generator_scheduler", "null")
    (run,) = Path("runs").iterdir()
    assert run.name == "article"
