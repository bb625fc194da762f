"""What a recorded run is said to die of, and in which order."""

import json
import math
from dataclasses import asdict

import pytest

from gan.gradients import GradientStats
from gan.gradients.diagnose import RULES, can_be_over, diagnose
from gan.gradients.rules import WINDOW, Record, Thresholds
from gradients.records import (
    CAUSES_SHOWN,
    DATA_SHOWN,
    FAILURES,
    HEALTHY,
    RECORDED,
    SYMPTOMS_SHOWN,
    WIRING_SHOWN,
    a_batch,
    changed,
    good,
    names,
    recorded,
)

SHOWN = CAUSES_SHOWN | SYMPTOMS_SHOWN | DATA_SHOWN | WIRING_SHOWN


def test_what_comes_of_a_cause_is_not_told_beside_it():
    collapsed = changed(good(), spread_fake=0.0)
    assert names(collapsed) == ["mode collapse"]
    assert names(changed(collapsed, generator__first_to_last=1e-9)) == ["gradient vanishes through depth"]


def test_networks_that_have_just_begun_are_not_judged():
    first = Record(good().stats[:1])
    flat = {"slope_real": 0.0, "slope_fake": 0.0, "slope_between": 0.0}
    for changes in (
        flat,
        {"range_fake": (0.1, 0.2)},
        {"spread_fake": 0.0},
        {"extreme_fake": 1.0},
        {"generator__update_ratio": 1e-9},
    ):
        assert names(changed(first, **changes)) == []
    assert names(changed(first, generator__first_to_last=1e-9)) == ["gradient vanishes through depth"]


def test_a_finding_says_why_which_setting_and_where_to_read():
    for shows, _ in [pair for pairs in SHOWN.values() for pair in pairs]:
        (finding,) = diagnose(changed(good(), **shows), Thresholds())
        words = ("NaN", "none requires a gradient")
        assert any(character.isdigit() for character in finding.why) or any(word in finding.why for word in words)
        assert finding.reference
    # What is told from a window has its own test: oscillation, learning by heart, no progress. What is not finite is no
    # cause. The two of an average are one rule.
    assert len(SHOWN) == len(RULES) - 2 + 1


FLAT = {"slope_real": 0.0, "slope_fake": 0.0, "slope_between": 0.0, "lipschitz": 0.0}


@pytest.mark.parametrize("condition", SHOWN)
def test_no_condition_is_over_while_images_are_black_or_nan(condition):
    for gone in (
        {"spread_fake": 0.0, "spread_real": 20.0},
        {"spread_fake": 0.1, "spread_real": 20.0},  # black but for a flicker
        {"range_fake": (math.nan, math.nan)},
        {"generator__total": math.nan},
        {"discriminator__total": math.inf},
    ):
        assert not can_be_over(condition, changed(good(), **gone), Thresholds())
    assert can_be_over(condition, good(), Thresholds())


@pytest.mark.parametrize(
    ("condition", "gone", "there"),
    [
        ("gradient vanishes through depth", {"generator__first_to_last": math.nan}, {"generator__first_to_last": 0.5}),
        ("gradient explodes through depth", {"discriminator__first_to_last": math.nan}, {}),
        (
            "gradient vanishes through depth",
            {"discriminator__first_to_last": 1e-9, "discriminator__dead_share": 0.9, **FLAT},
            {},
        ),
        ("exploding gradients", FLAT, {"slope_real": 1.0}),
        ("dead discriminator", {"discriminator__first_to_last": 1e-9, **FLAT}, {"slope_between": 1.0}),
        ("vanished generator gradient", {"slope_fake": 0.0, "image_gradient": 0.0}, {"slope_fake": 1e-9}),
        ("vanished generator gradient", {"slope_fake": math.nan}, {}),
        ("learning-rate imbalance", {"generator__update_ratio": 0.0}, {"generator__update_ratio": 1e-9}),
        ("learning-rate imbalance", {"discriminator__update_ratio": None}, {}),
        ("mode collapse", {"spread_real": 0.0}, {}),
        ("training images learnt by heart", {"logit_held_out": None}, {"logit_held_out": 0.1}),
        ("batches that repeat", {"batch": None}, {}),
        ("batches that are not shuffled", {"batch": None}, {}),
        ("batches that are not shuffled", {"batch": a_batch(variance=0.0)}, {}),
        ("probabilities for logits", {"range_logit": None}, {}),
        ("detached generator", {"generator__total": 0.0}, {}),
        ("deaf generator", {"response": None}, {}),
        ("weights that do not move", {"generator__update_ratio": None}, {}),
        ("average that lags", {"moved_average": None}, {}),
        ("average that was never updated", {"moved_average": None}, {}),
    ],
)
def test_a_condition_is_not_over_where_what_it_is_told_from_has_vanished(condition, gone, there):
    """Its rule finds nothing there, as it finds nothing where all is well."""
    vanished = changed(good(), **gone)
    assert condition not in names(vanished)
    assert not can_be_over(condition, vanished, Thresholds())
    assert can_be_over(condition, changed(good(), **there), Thresholds())


def test_networks_whose_layers_cannot_be_seen_leave_the_others_to_be_judged():
    record = changed(good(), discriminator__activation_gradients={}, discriminator__first_to_last=math.nan)
    assert can_be_over("gradient vanishes through depth", record, Thresholds())


@pytest.mark.parametrize("name", HEALTHY)
def test_no_alarm_in_a_recorded_good_run(name):
    """The whole run of a shipped config, measurement by measurement."""
    record = recorded(name)
    for end in range(1, len(record.stats) + 1):
        stats = record.stats[max(0, end - WINDOW) : end]
        scores = [score for score in record.scores if score.step <= stats[-1].step][-WINDOW:]
        assert names(Record(stats, scores)) == []


@pytest.mark.parametrize("name", FAILURES)
def test_names_what_a_recorded_run_dies_of(name):
    plain = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    assert names(recorded(name))[0] == plain["condition"]


def test_records_are_there():
    assert len(HEALTHY) >= 7
    assert len(FAILURES) >= 7
    record = good()
    assert GradientStats.from_dict(asdict(record.stats[-1])) == record.stats[-1]
