"""Every shipped config parses, trains a few batches, and keeps to its form."""

import re

import pytest
import yaml
from commands import FEW_SCORES, FEW_TEXTS
from conftest import ROOT

from gan.cli import main

ELSEWHERE = ("default.yaml", "wgan_gp.yaml", "hinge_sn.yaml", "debug/overfit.yaml")  # trained by other tests too
CURES = sorted((ROOT / "configs" / "cures").glob("*.yaml"))
CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(CURES))
DIFFS = [path for path in CONFIGS if path.name != "default.yaml"]


def name(path):
    return str(path.relative_to(ROOT / "configs"))


def test_all_are_there():
    assert {name(path) for path in CONFIGS if path.parent.name != "failures"} == {
        "acgan.yaml",
        "article.yaml",
        "conditional.yaml",
        "dcgan.yaml",
        "debug/fast.yaml",
        "debug/overfit.yaml",
        "default.yaml",
        "extragradient.yaml",
        "hinge_sn.yaml",
        "inpaint.yaml",
        "optimistic.yaml",
        "r3gan.yaml",
        "resnet.yaml",
        "semisupervised.yaml",
        "speedrun.yaml",
        "superres.yaml",
        "text.yaml",
        "wgan_gp.yaml",
        "zoo/approximate_r1.yaml",
        "zoo/centred.yaml",
        "zoo/diffaugment.yaml",
        "zoo/dragan.yaml",
        "zoo/instance_noise.yaml",
        "zoo/least_squares.yaml",
        "zoo/lookahead.yaml",
        "zoo/n_critic.yaml",
        "zoo/normalized_gradient.yaml",
        "zoo/plain.yaml",
        "zoo/relativistic.yaml",
        "zoo/saturating.yaml",
        "zoo/self_attention.yaml",
        "zoo/two_time_scales.yaml",
        "zoo/wgan.yaml",
    }


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.slow if name(path) in ELSEWHERE else (), id=name(path))
        for path in CONFIGS
        if path.parent.name != "failures"
    ],
)
def test_trains_a_few_batches(path, tmp_path):
    short = ["--trainer.max_steps", "6", "--trainer.log_every_n_steps", "2", "--data.batch_size", "8"]
    for network in ("generator", "discriminator"):  # the schedule needs more batches than its warm-up
        if yaml.safe_load(path.read_text(encoding="utf-8")).get("model", {}).get(f"{network}_scheduler", 0) is not None:
            short += [f"--model.{network}_scheduler.warmup", "2"]
    scores = FEW_TEXTS if path.name == "text.yaml" else FEW_SCORES
    main(["fit", "--config", str(path), "--run_dir", str(tmp_path / "run"), *short, *scores])
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("path", DIFFS, ids=name)
def test_is_a_small_diff_headed_by_command_hardware_and_time(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 25
    assert re.fullmatch(
        rf"# python -m gan\.cli fit --config configs/{name(path)} +\(2 CPU cores: .*(s|min)\)", lines[0]
    )
    assert lines[1].startswith("# ")


@pytest.mark.slow
@pytest.mark.parametrize("path", CURES, ids=name)
def test_a_cure_is_given_after_its_failure(path, tmp_path):
    """Both are settings that exist, and train."""
    lines = path.read_text(encoding="utf-8").splitlines()
    files = f"--config configs/failures/{path.name} --config configs/cures/{path.name}"
    assert re.fullmatch(rf"# python -m gan\.cli fit {files} +\(2 CPU cores: .*(s|min)\)", lines[0])
    assert lines[1].startswith("# ")
    assert len(lines) <= 8
    failure = ROOT / "configs" / "failures" / path.name
    short = ["--trainer.max_steps", "2", "--data.batch_size", "8", *FEW_SCORES]
    short += ["--model.generator_scheduler", "null", "--model.discriminator_scheduler", "null"]
    # The cure comes last: it is in force as it is written.
    main(["fit", "--config", str(failure), *short, "--config", str(path), "--run_dir", str(tmp_path / "run")])
    after = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    for section, change in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        assert contains(after[section], change)


def contains(whole, part) -> bool:
    """Whether a config has all settings of a part of one."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(contains, whole, part))
    if isinstance(part, str) and isinstance(whole, dict):  # a class by its path alone
        return whole.get("class_path") == part
    return whole == part


def test_default_is_complete():
    """Every argument of the model and of the shipped data module is in it, so that nobody has to look elsewhere."""
    import inspect

    from gan import GAN
    from gan.data import MNISTDataModule

    config = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text(encoding="utf-8"))
    model = set(inspect.signature(GAN).parameters) - {"seed"}  # seed_everything is passed on
    assert set(config["model"]) == model
    assert set(config["data"]["init_args"]) == set(inspect.signature(MNISTDataModule).parameters) - {"seed"}


def test_commented_settings_of_the_default_are_settings(tmp_path, capsys):
    """What it offers in comments can be uncommented as it stands."""
    text = (ROOT / "configs" / "default.yaml").read_text(encoding="utf-8")
    offered = re.compile(r"^( +)# (- \{|\w+: )", re.M)
    assert len(offered.findall(text)) == 2
    (tmp_path / "default.yaml").write_text(offered.sub(r"\1\2", text), encoding="utf-8")
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", str(tmp_path / "default.yaml"), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    callbacks = {
        callback["class_path"].split(".")[-1]: callback["init_args"]
        for callback in config["trainer"]["callbacks"]
        if "init_args" in callback
    }
    assert callbacks["GradientClipping"]["discriminator"]["init_args"]["max_norm"] == 10
    assert callbacks["GradientDoctor"]["thresholds"]["slope"] == 50
