"""Each symptom is found beyond its threshold and not before."""

import math
from dataclasses import replace

import pytest

from gan.gradients.diagnose import diagnose
from gan.gradients.rules import Record, Score, Thresholds
from gan.gradients.symptoms import ended_badly
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


def test_images_that_are_alike_for_a_moment_have_not_collapsed():
    """A generator that has learnt nothing yet makes one picture for a while; one that has been well does not."""
    alike = [replace(measured, spread_fake=0.09, spread_real=1.0) for measured in good().stats]
    well = [replace(measured, spread_fake=0.5, spread_real=1.0) for measured in good().stats]
    assert names(Record([*well[:6], alike[0]])) == []
    assert names(Record([*well[:5], *alike[:2]])) == ["mode collapse"]
    assert names(Record([*well[:7], alike[0]])) == ["mode collapse"]


def test_few_classes_are_a_collapse_where_there_was_more():
    """Nearer images, or more classes before, or a while; a run that begins slowly shows none of these."""
    stats = changed(good(), every=True, spread_fake=0.7, spread_real=1.0, movement=0.3).stats
    assert names(Record(stats, STALLED)) == []
    nearer = [*stats[:-1], replace(stats[-1], spread_fake=0.62)]
    assert names(Record(nearer, STALLED)) == ["mode collapse"]
    assert names(Record(nearer, STALLED), replace(Thresholds(), nearer=0.8)) == []
    more = [replace(STALLED[0], covered=6), STALLED[1]]
    assert names(Record(stats, more)) == ["mode collapse"]
    assert names(Record(stats, [STALLED[0], *STALLED])) == ["mode collapse"]
    assert names(Record(stats, [replace(STALLED[0], fid=25.0), *STALLED])) == []


def test_no_progress():
    """Images that hardly move, cover few classes and get no better; told instead of a collapse."""
    stats = changed(good(), every=True, spread_fake=0.5, spread_real=1.0, movement=0.06).stats
    assert names(Record(stats, STALLED)) == ["no progress"]
    assert names(Record(stats, STALLED), replace(Thresholds(), crawl=0.4)) == []
    assert names(Record(stats[:7], STALLED)) == []
    assert names(Record(stats, [STALLED[0], replace(STALLED[1], covered=6)])) == []
    assert names(Record(stats, [STALLED[0], replace(STALLED[1], fid=18.0)])) == []
    assert names(Record([replace(each, movement=0.07) for each in stats], STALLED)) == []


def test_no_progress_of_scores():
    """No better for eight measurements, and worse than one image; of images that move and cover many classes."""
    stats, variance = good().stats, 21.9
    begin, between = stats[0].step, stats[1].step - stats[0].step

    def scored(*fids: float, first=begin, apart=3 * between, **changes) -> list[Score]:
        scores = [replace(STALLED[0], covered=10, classes=10, variance=variance, fid=fid) for fid in fids]
        return [replace(each, step=first + number * apart, **changes) for number, each in enumerate(scores)]

    stuck = scored(48.0, 44.0, 43.5)
    (finding,) = diagnose(Record(stats, stuck), Thresholds())
    assert (finding.name, finding.certain, finding.network) == ("no progress", True, "generator")
    assert finding.why == (
        f"from batch {begin:,} on the FID is 48, 44, 43.5, and no better: further from real images than one and the "
        "same image, their mean, would be"
    )
    assert names(Record(stats, scored(300.0, 48.0, 44.0, 43.5, first=begin - 3 * between))) == ["no progress"]
    for threshold in ({"far": 2.0}, {"no_better": 0.92}):
        assert names(Record(stats, stuck), replace(Thresholds(), **threshold)) == []
    assert names(Record(stats, stuck[1:])) == []  # two of them, within the eight measurements
    assert names(Record(stats, scored(48.0, 44.0, 43.5, first=begin + 1))) == []  # all of them
    assert names(Record(stats[:7], stuck)) == []
    for fids in ((48, 43, 43.5), (48, 44, 43), (22, 21.9, 21.8), (13.0, 12.9, 12.9)):
        assert names(Record(stats, scored(*fids))) == []
    assert names(Record(stats, scored(13.0, 12.9, 12.9, floor=0.017))) == []  # however many images are scored
    assert names(Record(stats, scored(48.0, 44.0, 43.5, variance=math.nan))) == []
    alike = changed(good(), every=True, spread_fake=0.05, spread_real=1.0).stats
    assert names(Record(alike, stuck)) == ["mode collapse"]  # which says why
    circling = oscillating()
    first = circling[0].step
    assert names(Record(circling, [replace(each, covered=1, step=first + each.step - begin) for each in stuck])) == [
        "oscillation without progress"
    ]


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


def test_one_score_that_is_no_better_is_no_oscillation_of_images_that_are_nearly_good():
    stats, stalled = oscillating(), [replace(score, covered=6) for score in STALLED]
    near, apart = [replace(score, floor=0.14) for score in stalled], [replace(each, spread_fake=0.8) for each in stats]
    for record in ((stats, near), (apart, stalled)):  # 140 times the floor; or as far apart as real images, nearly
        assert names(Record(*record)) == []
        assert names(Record(record[0], [record[1][0], *record[1]])) == ["oscillation without progress"]
    assert names(Record(stats, [replace(near[0], fid=30.0), *near])) == []


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


@pytest.mark.parametrize(
    ("fids", "badly"),
    [
        ([], ""),
        ([40], ""),
        ([40, 4], ""),
        ([40, 10, 21], "twice the best, 10"),
        ([0.4, 1.2], "twice the best, 0.4"),
        ([40, 21], "half of the first, 40"),
        ([12, 10.9], ""),  # nearer than half of the way from one image
        ([0.4, 0.36, 0.34], ""),
        ([0.05, 0.11], ""),
        ([0.4, 1.0], ""),
    ],
)
def test_a_bad_end(fids, badly):
    scores = [Score(step, fid, floor=0.1, variance=21.9) for step, fid in enumerate(fids)]
    assert ended_badly(scores).endswith(badly)
    assert bool(ended_badly(scores)) == bool(badly)
    assert ended_badly([replace(score, variance=math.nan) for score in scores]) == ""
