"""Every run in `configs/failures` fails, the doctor names what it fails of and what cures it, and that cures it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import command
from conftest import ROOT
from gradients.records import recorded
from lightning import Callback

from gan.callbacks import FIDTracker, GradientDoctor
from gan.callbacks.non_finite_guard import NonFiniteGradient
from gan.cli import main
from gan.gradients.causes import non_finite_gradients
from gan.gradients.change import words
from gan.gradients.diagnose import diagnose
from gan.gradients.prescribe import prescribe
from gan.gradients.remedies import REMEDIES
from gan.gradients.rules import Record, Thresholds
from gan.order import callbacks_of

FAILURES = {  # condition, and the FID that the cured run stays below
    "collapse": ("mode collapse", 12),
    "constant_data": ("constant data", 12),
    "crawling_generator": ("learning-rate imbalance", 16),
    "dead_discriminator": ("dead discriminator", 12),
    "deaf_generator": ("deaf generator", 2),
    "deep_residual": ("gradient explodes through depth", 12),
    "deep_sigmoid": ("gradient vanishes through depth", 12),
    "detached_generator": ("detached generator", 12),
    "few_images": ("training images learnt by heart", 8),
    "forgotten_average": ("average that was never updated", 16),
    "forgotten_tanh": ("wrong range", 16),
    "frozen_discriminator": ("weights that do not move", 16),
    "frozen_generator": ("weights that do not move", 12),
    "hurled_generator": ("saturated generator output", 16),
    "lagging_average": ("average that lags", 12),
    "one_class": ("data nearly all of one class", 12),
    "oscillation": ("oscillation without progress", 20),
    "overflowing_steps": ("non-finite gradients", 16),
    "own_collapse": ("mode collapse", 16),
    "own_few_images": ("training images learnt by heart", 11),
    "own_oscillation": ("oscillation without progress", 20),
    "own_residual": ("gradient explodes through depth", 16),
    "own_sigmoid": ("gradient vanishes through depth", 16),
    "probabilities": ("probabilities for logits", 12),
    "repeated_batches": ("batches that repeat", 6),
    "saturated_loss": ("vanished generator gradient", 12),
    "sorted_batches": ("batches that are not shuffled", 12),
    "steep_critic": ("exploding gradients", 12),
    "sure_discriminator": ("vanished generator gradient", 24),
    "thrown_units": ("dead discriminator", 16),
    "timid_steps": ("no progress", 16),
    "unbounded_critic": ("exploding gradients", 16),
    "wrong_range": ("wrong range", 12),
}
FAILED = 28  # the FID that a failing run stays above: it is 57 for noise, and below 12 for digits
RISEN = {  # likewise, of a run that had begun well, or that makes a few digits only
    "few_images": 10,
    "deaf_generator": 3.5,
    "sorted_batches": 12,
    "repeated_batches": 7,
    "one_class": 15,
    "forgotten_tanh": 18,
    "own_few_images": 12,
    "unbounded_critic": 20,
}
AVERAGES = ("lagging_average", "forgotten_average")


class Keep(Callback):
    """Keeps the doctor and the tracker."""

    def on_fit_start(self, trainer, pl_module):
        (self.doctor,), (self.tracker,) = (callbacks_of(trainer, kind) for kind in (GradientDoctor, FIDTracker))


class Over(Exception):
    """Enough of a run."""


class Prescribe(Callback):
    """Ends a run at its first batch, with what would be prescribed first for what a recorded run dies of."""

    def __init__(self, record: Record):
        self.record = record

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        (doctor,) = callbacks_of(trainer, GradientDoctor)
        doctor.batch_size = len(batch[0])
        finding = diagnose(self.record, Thresholds())[0] if self.record.stats else non_finite_gradients("")
        # What the command takes is looked at in the slow test: parsing takes long.
        (first, *_) = prescribe(finding, self.record, doctor.patient(trainer, pl_module), lambda settings: True)
        self.name, self.first = finding.name, first
        raise Over


def train(folder: Path, *configs: str, callback: Callback | None = None) -> Keep:
    keep = Keep()
    given = [word for config in configs for word in ("--config", ROOT / "configs" / config)]
    command("fit", *given, "--run_dir", folder, callbacks=[callback or keep])
    return keep


def loaded(config: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "configs" / config).read_text(encoding="utf-8"))


def settings(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a config sets, by the names that the command line has."""
    for key, value in config.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, dict) and "class_path" not in value:
            yield from settings(value, name)
        else:
            yield name, value


def of_cure(name: str) -> list[str]:
    """A cure as words of a command."""
    return list(words(dict(settings(loaded(f"cures/{name}.yaml")))))


def test_each_failure_has_its_cure():
    for folder in ("failures", "cures"):
        assert {path.stem for path in (ROOT / "configs" / folder).glob("*.yaml")} == FAILURES.keys()


def test_each_condition_is_shown_by_classes_of_ones_own():
    own = {name for name in FAILURES if "class_path: gan.lab." in str(yaml.safe_dump(loaded(f"failures/{name}.yaml")))}
    assert {FAILURES[name][0] for name in own} == REMEDIES.keys()


@pytest.mark.parametrize("name", FAILURES)
def test_a_cure_changes_one_thing(name):
    """Settings of the failure alone, or a penalty that it lacks; both optimizers count as one."""
    cure = loaded(f"cures/{name}.yaml")
    ((section, change),) = cure.items()
    assert section in ("model", "data") or name in AVERAGES  # a callback in the place of another
    if section == "model":
        assert set(change) in (
            *({key} for key in ("generator", "discriminator", "augment", "loss", "penalties")),
            {"generator_optimizer"},
            {"discriminator_optimizer"},
            {"generator_optimizer", "discriminator_optimizer"},
        )


@pytest.mark.parametrize("name", FAILURES)
def test_a_cure_is_what_is_prescribed_first(name, tmp_path):
    """For a recorded run, in a run that ends before it has trained."""
    condition, _ = FAILURES[name]
    record = Record([], []) if condition == "non-finite gradients" else recorded(f"failure_{name}")
    prescribed = Prescribe(record)
    with pytest.raises(Over):
        train(tmp_path, f"failures/{name}.yaml", callback=prescribed)
    assert prescribed.name == condition
    assert list(prescribed.first.settings) == of_cure(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_fails_is_named_and_is_cured(name, tmp_path, capsys):
    condition, healthy = FAILURES[name]
    run = Keep()
    try:
        train(tmp_path / "failed", f"failures/{name}.yaml", callback=run)
    except NonFiniteGradient:
        assert condition == "non-finite gradients"
    else:
        assert run.tracker.latest["fid"] > RISEN.get(name, FAILED)
    told = {finding["name"]: finding["prescriptions"] for finding in run.doctor.told}
    assert condition in told
    assert list(told[condition][0]["settings"]) == of_cure(name)
    assert condition.capitalize() in (tmp_path / "failed" / "report.md").read_text(encoding="utf-8")

    given = ["fit", "--config", str(ROOT / "configs" / "failures" / f"{name}.yaml")]
    for prescriptions in told.values():
        for each in prescriptions:
            with pytest.raises(SystemExit, match="0"):  # and nothing is refused
                main([*given, *each["settings"], "--print_config"])
            capsys.readouterr()

    cured = train(tmp_path / "cured", f"failures/{name}.yaml", f"cures/{name}.yaml")
    assert [finding["name"] for finding in cured.doctor.told] == []
    assert cured.tracker.latest["fid"] < healthy


@pytest.mark.slow
def test_a_gradient_of_one_size_heals_by_itself(tmp_path):
    """A generator whose gradient the saturating loss has left below Adam's epsilon."""
    name = "sure_discriminator"
    run = Keep()
    words = ["--config", ROOT / "configs" / "failures" / f"{name}.yaml", "--model.normalize_gradient", "true"]
    command("fit", *words, "--run_dir", tmp_path, callbacks=[run])
    assert FAILURES[name][0] not in {finding["name"] for finding in run.doctor.told}
    assert run.tracker.latest["fid"] < FAILED  # 18 to 23 by three seeds, where without it is 57
