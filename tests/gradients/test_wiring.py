"""Each fault of how networks are put together is found beyond its threshold and not before."""

from dataclasses import replace

import pytest

from gan.gradients.diagnose import diagnose
from gan.gradients.rules import Record, Thresholds
from gradients.records import SATURATED, SILENT, WIRING_SHOWN, changed, good, names


@pytest.mark.parametrize(
    ("name", "shows", "not_quite"), [(name, *pair) for name, pairs in WIRING_SHOWN.items() for pair in pairs]
)
def test_fires_beyond_its_threshold_alone(name, shows, not_quite):
    assert names(good()) == []
    assert names(changed(good(), **shows)) == [name]
    assert names(changed(good(), **not_quite)) == []


OTHER = [  # a threshold, what is then a condition and is none by default, and the condition
    ({"deaf": 0.1}, {"response": 1.1, "spread_fake": 20.0, "spread_real": 20.0}, "deaf generator"),
    ({"deaf_part": 0.3}, {"response": 0.9, "spread_fake": 3.5, "spread_real": 20.0}, "deaf generator"),
    ({"unheard": 0.1}, {"every": True, "response": 1.0, "spread_fake": 3.0, "spread_real": 20.0}, "deaf generator"),
    (
        {"never_updated": 0.03},
        {"every": True, "moved": 10.6, "moved_average": 0.3, "spread_real": 20.0},
        "average that was never updated",
    ),
    ({"lagging": 0.6}, {"moved": 20.0, "moved_average": 10.1}, "average that lags"),
    (
        {"moved": 0.4},
        {"every": True, "moved": 9.0, "moved_average": 0.0, "spread_real": 20.0},
        "average that was never updated",
    ),
]


@pytest.mark.parametrize(("threshold", "stats", "name"), OTHER)
def test_every_threshold_matters(threshold, stats, name):
    record = changed(good(), **stats)
    assert name not in names(record)
    assert names(record, replace(Thresholds(), **threshold)) == [name]


def test_weights_that_hardly_move():
    """In proportion to their size, by all steps so far: not in the first batches, nor where no gradient comes."""
    still = {"every": True, "generator__update_ratio": 1e-7, "discriminator__update_ratio": 1e-3}
    record = changed(good(), **still)
    (finding,) = diagnose(record, Thresholds())
    assert (finding.name, finding.network) == ("weights that do not move", "generator")
    assert finding.symptoms == ("learning-rate imbalance",)
    assert finding.beyond == pytest.approx(0.01 / 2500e-7)
    assert names(record, replace(Thresholds(), still=1e-5)) == ["learning-rate imbalance"]
    assert names(record, replace(Thresholds(), still_batches=2501)) == ["learning-rate imbalance"]
    assert names(Record(record.stats[-2:])) == ["learning-rate imbalance"]
    both = changed(record, every=True, discriminator__update_ratio=2e-7)
    (finding,) = diagnose(both, Thresholds())
    assert (
        "of the generator have changed by 0.0003 of their size, and those of the discriminator by 0.0005" in finding.why
    )
    (cause,) = diagnose(changed(record, extreme_real=0.8, extreme_fake=1.0), Thresholds())
    assert cause.name == "saturated generator output"
    assert "weights that do not move" in cause.symptoms


@pytest.mark.parametrize(
    ("shows", "network"),
    [
        ({"discriminator__ends": "sigmoid"}, "discriminator"),
        (SILENT, "generator"),
        ({"every": True, "generator__update_ratio": 0.0}, "generator"),
        ({"every": True, "discriminator__update_ratio": 0.0}, "discriminator"),
        ({"discriminator__trainable": 0}, "discriminator"),
    ],
)
def test_says_which_network(shows, network):
    (finding,) = diagnose(changed(good(), **shows), Thresholds())
    assert finding.network == network
    assert network in finding.why


def test_a_network_that_has_moved_within_the_window_is_not_frozen():
    """A schedule that falls to 0 at the end, and one that begins there."""
    stats = list(changed(good(), every=True, generator__update_ratio=0.0).stats)
    moved = replace(stats[0], generator=replace(stats[0].generator, update_ratio=0.05))
    assert names(Record(stats)) == ["weights that do not move"]
    assert names(Record(stats[:2])) == ["weights that do not move"]
    assert names(Record(stats[:1])) == []
    assert names(Record([moved, *stats[1:]])) == []
    assert names(Record([*stats[1:], moved])) == []


def test_a_collapsed_generator_is_not_deaf():
    """In the game images have come together; they were apart at the beginning of the window."""
    close = {"response": 1e-4, "spread_fake": 1e-4, "spread_real": 20.0}
    assert names(changed(good(), **close)) == ["mode collapse"]
    (finding,) = diagnose(changed(good(), every=True, **close), Thresholds())
    assert (finding.name, finding.symptoms) == ("deaf generator", ("mode collapse",))


def test_images_need_not_depend_on_latents_at_once():
    shows = {"response": 0.0, "spread_fake": 20.0, "spread_real": 20.0}
    assert names(Record(changed(good(), every=True, **shows).stats[:2])) == []
    assert names(Record(changed(good(), every=True, **shows).stats[:3])) == ["deaf generator"]


def test_an_average_needs_a_whole_window_to_lag():
    stats = changed(good(), every=True, moved=20.0, moved_average=5.0).stats
    assert names(Record(stats)) == ["average that lags"]
    assert names(Record(stats[1:])) == []
    never = changed(good(), every=True, moved=20.0, moved_average=0.0).stats
    assert names(Record(never[:3])) == []
    assert names(Record(never[:4])) == ["average that was never updated"]


def test_what_follows_is_listed_and_not_told():
    sure = SATURATED | {"image_gradient": 1e-4}
    for shows in ({"discriminator__ends": "sigmoid"}, {"every": True, "generator__update_ratio": 0.0}):
        (finding,) = diagnose(changed(changed(good(), **shows), **sure), Thresholds())
        assert finding.symptoms == ("vanished generator gradient",)
    both = changed(good(), discriminator__ends="sigmoid", generator__first_to_last=1e-9)
    assert names(both) == ["probabilities for logits", "gradient vanishes through depth"]  # neither makes the other
