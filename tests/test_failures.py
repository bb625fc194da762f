"""Every run in `configs/failures` fails, the doctor names what it fails of and what cures it, and that cures it."""

from pathlib import Path

import pytest
import yaml
from commands import command
from conftest import ROOT
from lightning import Callback

from gan.callbacks import FIDTracker, GradientDoctor

FAILURES = {  # condition, what its cures must name, and the FID that the cured run stays below
    "collapse": ("mode collapse", "`--model.generator_optimizer.betas [0,0.9]`", 12),
    "dead_discriminator": ("dead discriminator", "a lower rate: `--model.discriminator_optimizer.lr`", 12),
    "deep_residual": ("gradient explodes through depth", "`--model.discriminator.residual scaled`", 12),
    "deep_sigmoid": (
        "gradient vanishes through depth",
        "`--model.discriminator.activation leaky_relu --model.discriminator.init he`",
        12,
    ),
    "few_images": ("training images learnt by heart", "`--model.augment DiffAugment`", 8),
    "oscillation": ("oscillation without progress", "a higher `--model.discriminator_optimizer.lr`", 20),
    "saturated_loss": ("vanished generator gradient", "`--model.loss NonSaturating`", 12),
    "steep_critic": ("exploding gradients", "`--model.penalties+=GradientPenalty`", 12),
    "wrong_range": ("wrong range", "scale the data to [-1, 1]", 12),
    "probabilities": ("probabilities for logits", "", 12),
    "detached_generator": ("detached generator", "", 12),
    "deaf_generator": ("deaf generator", "", 6),
    "frozen_generator": ("weights that do not move", "", 12),
    "lagging_average": ("average that lags", "", 12),
    "sorted_batches": ("batches that are not shuffled", "", 12),
    "repeated_batches": ("batches that repeat", "", 6),
    "constant_data": ("constant data", "", 12),
    "one_class": ("data nearly all of one class", "", 12),
}
FAILED = 28  # the FID that a failing run stays above: it is 57 for noise, and below 12 for digits
RISEN = {  # likewise, of a run that had begun well, or that makes a few digits only
    "few_images": 10,
    "deaf_generator": 7,
    "sorted_batches": 12,
    "repeated_batches": 7,
    "one_class": 15,
}


class Keep(Callback):
    def on_fit_start(self, trainer, pl_module):
        self.doctor = next(callback for callback in trainer.callbacks if isinstance(callback, GradientDoctor))
        self.tracker = next(callback for callback in trainer.callbacks if isinstance(callback, FIDTracker))


def train(folder: Path, *configs: str) -> Keep:
    keep = Keep()
    words = [word for config in configs for word in ("--config", ROOT / "configs" / config)]
    command("fit", *words, "--run_dir", folder, callbacks=[keep])
    return keep


def test_each_failure_has_its_cure():
    for folder in ("failures", "cures"):
        assert {path.stem for path in (ROOT / "configs" / folder).glob("*.yaml")} == FAILURES.keys()


@pytest.mark.parametrize("name", FAILURES)
def test_a_cure_changes_one_thing(name):
    """Settings of the failure alone, or a penalty that it lacks; both optimizers count as one."""
    cure = yaml.safe_load((ROOT / "configs" / "cures" / f"{name}.yaml").read_text(encoding="utf-8"))
    ((section, change),) = cure.items()
    assert section in ("model", "data") or name == "lagging_average"  # a callback in the place of another
    if section == "model":
        assert set(change) in (
            *({key} for key in ("generator", "discriminator", "augment", "loss", "penalties")),
            {"generator_optimizer"},
            {"discriminator_optimizer"},
            {"generator_optimizer", "discriminator_optimizer"},
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_fails_is_named_and_is_cured(name, tmp_path):
    condition, cure, healthy = FAILURES[name]

    failed = train(tmp_path / "failed", f"failures/{name}.yaml")
    told = {finding["name"]: finding for finding in failed.doctor.told}
    assert condition in told
    assert any(cure in line for line in told[condition]["cures"])
    assert condition.capitalize() in (tmp_path / "failed" / "report.md").read_text(encoding="utf-8")
    assert failed.tracker.latest["fid"] > RISEN.get(name, FAILED)

    cured = train(tmp_path / "cured", f"failures/{name}.yaml", f"cures/{name}.yaml")
    assert [finding["name"] for finding in cured.doctor.told] == []
    assert cured.tracker.latest["fid"] < healthy
