"""Each cause is found beyond its threshold and not before."""

from dataclasses import replace

import pytest

from gan.gradients.diagnose import diagnose
from gan.gradients.rules import Thresholds
from gradients.records import CAUSES_SHOWN, LAYERS, SATURATED, changed, good, names


@pytest.mark.parametrize(
    ("name", "shows", "not_quite"), [(name, *pair) for name, pairs in CAUSES_SHOWN.items() for pair in pairs]
)
def test_fires_beyond_its_threshold_alone(name, shows, not_quite):
    assert names(good()) == []
    assert names(changed(good(), **shows)) == [name]
    assert names(changed(good(), **not_quite)) == []


OTHER = [  # a threshold, what is then a condition and is none by default, and the condition
    ({"passed_slope": 0.02}, SATURATED | {"image_gradient": 0.011}, "vanished generator gradient"),
    ({"accuracy": 0.8}, SATURATED | {"image_gradient": 0.0, "accuracy_fake": 0.9}, "vanished generator gradient"),
    ({"vanishing": 0.01}, {"generator__first_to_last": 1.1e-3}, "gradient vanishes through depth"),
    (
        {"exploding": 500.0},
        {"generator__first_to_last": 999.0, "generator__activation_gradients": LAYERS},
        "gradient explodes through depth",
    ),
    ({"slope": 40.0}, {"lipschitz": 49.0}, "exploding gradients"),
    ({"flat": 1e-3}, {"slope_real": 0.0, "slope_fake": 0.0, "slope_between": 2e-4}, "dead discriminator"),
    ({"beyond_range": 0.01}, {"range_real": (-1.04, 1.0)}, "wrong range"),
    ({"inner_pixels": 0.1}, {"extreme_real": 0.8, "extreme_fake": 0.99}, "saturated generator output"),
]


@pytest.mark.parametrize(("threshold", "stats", "name"), OTHER)
def test_every_threshold_matters(threshold, stats, name):
    record = changed(good(), **stats)
    assert names(record) == []
    assert names(record, replace(Thresholds(), **threshold)) == [name]


def test_a_flat_discriminator_is_dead_or_too_deep():
    """By whether its units are dead, and not both."""
    flat = {"slope_real": 0.0, "slope_fake": 0.0, "slope_between": 0.0, "discriminator__first_to_last": 0.0}
    assert names(changed(good(), **flat, discriminator__dead_share=0.9)) == ["dead discriminator"]
    assert names(changed(good(), **flat, discriminator__dead_share=0.1)) == ["gradient vanishes through depth"]


def test_a_discriminator_that_its_penalties_flatten_is_dead():
    flat = {"slope_real": 0.01, "slope_fake": 0.01, "slope_between": 0.019}
    terms = {"adversarial": 2.0, "r1": 0.6, "r2": 0.5}
    record = changed(good(), every=True, **flat, discriminator__terms=terms)
    (finding,) = diagnose(record, Thresholds())
    assert finding.name == "dead discriminator"
    assert finding.beyond == pytest.approx(1.1)
    assert "its penalties is 0.55 times that of its loss" in finding.why
    assert names(replace(record, stats=record.stats[:3])) == []
    for changes in ({"slope_between": 0.021}, {"discriminator__terms": terms | {"r1": 0.4}}):
        assert names(changed(record, every=True, **changes)) == []
    for threshold in ({"pressed": 0.01}, {"outweighed": 0.6}):
        assert names(record, replace(Thresholds(), **threshold)) == []


def test_a_network_that_vanishes_names_its_layers():
    network = {f"layer{number}": 10.0 ** (number - 8) for number in range(9)}
    record = changed(good(), generator__activation_gradients=network, generator__first_to_last=1e-8)
    (finding,) = diagnose(record, Thresholds())
    assert "shrinks to 1e-08 of what it was, from 1 at layer8 to 1e-08 at layer0" in finding.why
    assert finding.why.endswith("layers layer0, layer1, ..., layer6")  # below the square root of the threshold, .03


def test_of_samples_that_are_no_images_nothing_is_known_of_the_range():
    """One-hot texts begin at 0, and nearly all of a softmax that has learnt lies near its ends."""
    for shows in ({"range_real": (0.0, 1.0), "range_fake": (0.0, 1.0)}, {"extreme_fake": 1.0, "extreme_real": 0.5}):
        record = changed(good(), **shows)
        assert len(names(record)) == 1
        assert names(replace(record, images=False)) == []
