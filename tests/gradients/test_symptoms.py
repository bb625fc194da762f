"""Each symptom is found beyond its threshold and not before."""

import math
from dataclasses import replace

import pytest

from gan.gradients.rules import Record, Thresholds
from gradients.records import (
    STALLED,
    SYMPTOMS_SHOWN,
    by_heart,
    changed,
    good,
    names,
    oscillating,
)


@pytest.mark.parametrize(
    ("name", "shows", "not_quite"), [(name, *pair) for name, pairs in SYMPTOMS_SHOWN.items() for pair in pairs]
)
def test_fires_beyond_its_threshold_alone(name, shows, not_quite):
    assert names(good()) == []
    assert names(changed(good(), **shows)) == [name]
    assert names(changed(good(), **not_quite)) == []


def test_learnt_by_heart():
    """By a gap over the window that is a part of the whole one, and more than chance would make it."""
    assert names(by_heart()) == ["training images learnt by heart"]
    assert names(by_heart(gap=1.61)) == ["training images learnt by heart"]
    assert names(by_heart(gap=1.59)) == []
    assert names(by_heart(gap=1.59), replace(Thresholds(), by_heart=0.39)) == ["training images learnt by heart"]
    # A deviation of `every` in each measurement: the mean of 8 has every / sqrt(7), and the gap is three times that.
    assert names(by_heart(every=2 * math.sqrt(7) / 3 - 0.01)) == ["training images learnt by heart"]
    assert names(by_heart(every=2 * math.sqrt(7) / 3 + 0.01)) == []
    assert names(by_heart(gap=2.0, whole=-1.0)) == []  # to the discriminator, generated images are the real ones
    assert names(by_heart(gap=-2.0)) == []


def test_learnt_by_heart_is_more_than_which_images_happen_to_be_held_out():
    """They are the same in each measurement, and their mean logit is as far off in all of them."""
    record = by_heart()  # a gap of 2 that varies by 0.1
    for error, told in ((0.66, ["training images learnt by heart"]), (0.67, [])):
        assert names(changed(record, every=True, held_out_error=error)) == told
    sure = changed(record, every=True, held_out_error=0.6)
    assert names(sure) == ["training images learnt by heart"]
    assert names(sure, replace(Thresholds(), by_chance=3.5)) == []
    none = changed(record, every=True, logit_real=-0.0039, logit_held_out=-0.0042, logit_gap=0.0004)
    assert names(none) == ["training images learnt by heart"]
    assert names(changed(none, every=True, held_out_error=0.0005)) == []  # of logits that differ by 0.004


def test_learnt_by_heart_needs_images_held_out_and_some_measurements():
    stats = by_heart().stats
    without = [replace(measured, logit_held_out=None) for measured in stats]
    assert names(Record(without)) == []
    assert names(Record(stats[:3])) == []
    assert names(Record(stats[:4])) == ["training images learnt by heart"]
    assert names(Record([*without[:5], *stats[5:]])) == []


def test_mode_collapse_by_its_classes():
    few = {"spread_fake": 0.7, "spread_real": 1.0}
    assert names(Record(changed(good(), **few).stats, STALLED)) == ["mode collapse"]
    assert names(Record(good().stats, STALLED)) == []  # far apart, whatever they show
    improving = [STALLED[0], replace(STALLED[1], fid=18.9)]
    many = [STALLED[0], replace(STALLED[1], covered=6)]
    unknown = [replace(score, covered=None, classes=None) for score in STALLED]
    for scores in (improving, many, unknown, STALLED[:1], []):
        assert names(Record(changed(good(), **few).stats, scores)) == []


@pytest.mark.parametrize("threshold", [{"classes": 0.4}, {"classes_spread": 0.6}])
def test_thresholds_of_mode_collapse_by_its_classes(threshold):
    record = Record(changed(good(), spread_fake=0.7, spread_real=1.0).stats, STALLED)
    assert names(record) == ["mode collapse"]
    assert names(record, replace(Thresholds(), **threshold)) == []


def test_oscillation():
    stats = oscillating()
    stalled = [replace(score, covered=6) for score in STALLED]
    assert names(Record(stats, stalled)) == ["oscillation without progress"]
    assert names(Record(stats, STALLED)) == ["oscillation without progress"]  # rather than mode collapse
    still = [replace(measured, movement=0.19) for measured in stats]
    ahead = [*stats[:5], replace(stats[5], logit_gap=0.1), *stats[6:]]
    improving = [stalled[0], replace(stalled[1], fid=10.0)]
    begun = [replace(stats[0], movement=None), *stats[1:]]
    for threshold in ({"movement": 0.3}, {"logit_flips": 0.3}, {"fid_over_floor": 500.0}):
        assert names(Record(stats, stalled), replace(Thresholds(), **threshold)) == []
    near = [replace(score, floor=0.4) for score in stalled]
    for record in (
        (stats, near),
        (still, stalled),
        (ahead, stalled),
        (stats, improving),
        (stats, []),
        (begun, stalled),
    ):
        assert names(Record(*record)) == []


OTHER = [  # likewise
    ({"spread": 0.2}, {"spread_fake": 0.15, "spread_real": 1.0}, "mode collapse"),
    (
        {"imbalance": 50.0},
        {"generator__update_ratio": 1e-5, "discriminator__update_ratio": 9e-4},
        "learning-rate imbalance",
    ),
]


@pytest.mark.parametrize(("threshold", "stats", "name"), OTHER)
def test_every_threshold_matters(threshold, stats, name):
    record = changed(good(), **stats)
    assert names(record) == []
    assert names(record, replace(Thresholds(), **threshold)) == [name]


@pytest.mark.parametrize("everywhere", [False, True])
def test_real_images_that_are_all_equal_have_no_spread_to_compare_with(everywhere):
    record = changed(good(), every=everywhere, spread_real=0.0, movement=1.0, logit_gap=-1.0)
    assert math.isnan(record.latest.spread)
    assert names(Record(record.stats, STALLED)) == (["constant data"] if everywhere else [])
