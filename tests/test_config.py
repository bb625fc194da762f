"""A run's config as plain data: read from a checkpoint, held against another one, and known again as one's own."""

import pytest
import yaml

from gan.config import as_text, changes, config_in, is_own, remember_own, settings
from gan.errors import GANError

CONFIG = yaml.safe_load("""
seed_everything: 42
model:
  loss: {class_path: gan.losses.Hinge}
  penalties: [{class_path: gan.penalties.R1, init_args: {weight: 1.0e-06, every: 16}}]
  generator_optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.004, betas: [0.0, 0.9], fused: null}}
data: {class_path: own.Caf\u00e9, init_args: {root: "a: b"}}
""")


def test_what_a_checkpoint_carries():
    assert config_in({"config": CONFIG}, "x.ckpt") is CONFIG
    assert config_in({}, "x.ckpt") is None


@pytest.mark.parametrize("config", ["a text", ["a list"], 1])
def test_what_is_no_config(config):
    with pytest.raises(GANError, match=r"x\.ckpt is not as this project writes it: its config is a"):
        config_in({"config": config}, "x.ckpt")


@pytest.mark.parametrize("name", ["run_dir", "resume", "trust", "config", "ckpt_path"])
def test_a_config_does_not_speak_for_the_command(name):
    """Where to write, and whom to trust, is not for a file to say."""
    with pytest.raises(GANError, match=rf"x\.ckpt is not as this project writes it: its config gives {name}$"):
        config_in({"config": CONFIG | {name: "there"}}, "x.ckpt")


def test_a_text_gives_the_same_again():
    assert yaml.safe_load(as_text(CONFIG)) == CONFIG


def test_names_as_the_command_line_has_them():
    assert settings(CONFIG) == {
        "seed_everything": 42,
        "model.loss": "gan.losses.Hinge",
        "model.penalties.0": "gan.penalties.R1",
        "model.penalties.0.weight": 1e-6,
        "model.penalties.0.every": 16,
        "model.generator_optimizer": "torch.optim.Adam",
        "model.generator_optimizer.lr": 0.004,
        "model.generator_optimizer.betas": [0.0, 0.9],
        "model.generator_optimizer.fused": None,
        "data": "own.Caf\u00e9",
        "data.root": "a: b",
    }


def test_what_was_not_written_down_is_no_change():
    old = {"model": {"n_critic": 1, "weight_clip": None}}
    new = {"model": {"n_critic": 2, "weight_clip": None}, "data": "Digits"}
    assert changes(old, new) == ["changed        model.n_critic: 1 -> 2", "changed        data: None -> Digits"]
    assert changes(old, new, whole=False) == ["changed        model.n_critic: 1 -> 2"]


def test_ones_own_is_known_to_the_letter(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_CACHE", str(tmp_path))
    assert not is_own(CONFIG)
    remember_own(CONFIG)
    assert is_own(yaml.safe_load(as_text(CONFIG)))
    assert not is_own({**CONFIG, "seed_everything": 43})
