"""Every shipped config parses, trains a few batches, and keeps to its form."""

import re

import pytest
import yaml
from commands import FEW_SCORES
from conftest import ROOT

from gan.cli import main

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
DIFFS = [path for path in CONFIGS if path.name != "default.yaml"]


def name(path):
    return str(path.relative_to(ROOT / "configs"))


def test_all_are_there():
    assert {name(path) for path in CONFIGS} == {
        "article.yaml",
        "dcgan.yaml",
        "debug/fast.yaml",
        "debug/overfit.yaml",
        "default.yaml",
        "hinge_sn.yaml",
        "r3gan.yaml",
        "resnet.yaml",
        "wgan_gp.yaml",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_trains_a_few_batches(path, tmp_path):
    short = ["--trainer.max_steps", "6", "--trainer.log_every_n_steps", "2", "--data.batch_size", "8"]
    for network in ("generator", "discriminator"):  # the schedule needs more batches than its warm-up
        if (yaml.safe_load(path.read_text()).get("model", {}).get(f"{network}_scheduler", 0)) is not None:
            short += [f"--model.{network}_scheduler.warmup", "2"]
    main(["fit", "--config", str(path), "--run_dir", str(tmp_path / "run"), *short, *FEW_SCORES])
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("path", DIFFS, ids=name)
def test_is_a_small_diff_headed_by_command_hardware_and_time(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 25
    assert re.fullmatch(
        rf"# python -m gan\.cli fit --config configs/{name(path)} +\(2 CPU cores: .*(s|min)\)", lines[0]
    )
    assert lines[1].startswith("# ")


def test_default_is_complete():
    """Every argument of the model and of the shipped data module is in it, so that nobody has to look elsewhere."""
    import inspect

    from gan import GAN
    from gan.data import MNISTDataModule

    config = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    model = set(inspect.signature(GAN).parameters) - {"seed"}  # seed_everything is passed on
    assert set(config["model"]) == model
    assert set(config["data"]["init_args"]) == set(inspect.signature(MNISTDataModule).parameters) - {"seed"}
