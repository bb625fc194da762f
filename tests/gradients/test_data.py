"""Each fault of the data is found beyond its threshold and not before."""

from dataclasses import replace

import pytest

from gan.gradients.diagnose import diagnose
from gan.gradients.rules import Record, Score, Thresholds
from gradients.records import DATA_SHOWN, a_batch, changed, good, names


@pytest.mark.parametrize(
    ("name", "shows", "not_quite"), [(name, *pair) for name, pairs in DATA_SHOWN.items() for pair in pairs]
)
def test_fires_beyond_its_threshold_alone(name, shows, not_quite):
    assert names(good()) == []
    assert names(changed(good(), **shows)) == [name]
    assert names(changed(good(), **not_quite)) == []


OTHER = [  # a threshold, what is then a condition and is none by default, and the condition
    ({"alike": 0.2}, {"every": True, "spread_real": 0.11}, "constant data"),
    ({"one_class": 0.8}, {"every": True, "batch": a_batch(label=3, label_share=0.89)}, "data nearly all of one class"),
    ({"repeated": 0.4}, {"batch": a_batch(distinct=5)}, "batches that repeat"),
    ({"unshuffled": 2.0}, {"batch": a_batch(mean=(1.0, 0.0))}, "batches that are not shuffled"),
]


@pytest.mark.parametrize(("threshold", "stats", "name"), OTHER)
def test_every_threshold_matters(threshold, stats, name):
    record = changed(good(), **stats)
    assert names(record) == []
    assert names(record, replace(Thresholds(), **threshold)) == [name]


def test_one_class_of_a_generator_that_is_told_several_is_a_fault():
    """All labels are 0: of a folder without classes, which is well, or of a data set that has lost them."""
    record = changed(good(), every=True, batch=a_batch(label=0, label_share=1.0))
    assert names(record) == []
    assert names(replace(record, conditional=True)) == ["data nearly all of one class"]


def test_classes_in_turn_are_not_one_class():
    """Each batch is of one class, and another each time."""
    stats = [
        replace(measured, batch=replace(measured.batch, label=number, label_share=0.99))
        for number, measured in enumerate(good().stats)
    ]
    assert names(Record(stats)) == []
    assert names(Record([replace(each, batch=replace(each.batch, label=1)) for each in stats])) == [
        "data nearly all of one class"
    ]


def test_one_class_by_the_classifier_that_scores():
    score = Score(100, 5.0, 0.1, 10, 10)
    assert names(replace(good(), scores=[score])) == []
    assert names(replace(good(), scores=[replace(score, largest_class=0.89)])) == []
    assert names(replace(good(), scores=[replace(score, largest_class=0.91)])) == ["data nearly all of one class"]


def test_nothing_else_is_told_of_constant_data():
    """What a discriminator comes to that sees one image follows from it, and is listed there."""
    record = changed(good(), every=True, spread_real=0.0, slope_real=0.0, slope_fake=0.0, slope_between=0.0)
    (finding,) = diagnose(record, Thresholds())
    assert (finding.name, finding.symptoms) == ("constant data", ("dead discriminator",))
