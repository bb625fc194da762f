"""The rules: each fires beyond its threshold and not before, and names what a recorded run was made to die of."""

import json
import math
import re
from dataclasses import asdict, replace

import pytest
from conftest import ROOT

from gan.callbacks.gradient_doctor import signals_of
from gan.cli import main
from gan.gradients import GradientStats
from gan.gradients.diagnose import CAUSES, SYMPTOMS, WINDOW, Record, Score, Thresholds, diagnose

RECORDED = ROOT / "tests" / "recorded"
FAILURES = sorted(path.stem for path in RECORDED.glob("failure_*.json"))
HEALTHY = sorted(path.stem for path in RECORDED.glob("healthy_*.json"))


def recorded(name: str) -> Record:
    plain = json.loads((RECORDED / f"{name}.json").read_text())
    return Record([signals_of(one) for one in plain["signals"]], [Score(**one) for one in plain["scores"]])


def good() -> Record:
    """Eight measurements of a good run."""
    record = recorded("healthy_default")
    return Record(record.signals[-WINDOW:], record.scores)


def changed(record: Record, every: bool = False, **changes) -> Record:
    """The record with other values in the latest signals, or in all; `generator__x` is the generator's x."""
    signals = list(record.signals)
    for number in range(len(signals)) if every else [-1]:
        of_networks = {}
        for name in ("generator", "discriminator"):
            values = {key.split("__")[1]: value for key, value in changes.items() if key.startswith(f"{name}__")}
            of_networks[name] = replace(getattr(signals[number], name), **values)
        rest = {key: value for key, value in changes.items() if "__" not in key}
        signals[number] = replace(signals[number], **of_networks, **rest)
    return Record(signals, record.scores)


def names(record: Record, thresholds=None) -> list[str]:
    return [finding.name for finding in diagnose(record, thresholds or Thresholds())]


SATURATED = {"slope_fake": 1.0, "logit_gap": 20.0, "accuracy_fake": 1.0}
STALLED = [Score(100, 20.0, 0.1, 5, 10), Score(200, 19.5, 0.1, 5, 10)]
LAYERS = {f"layer{number}": 10.0**-number for number in range(6)}
CASES = {  # condition: what shows it, and what just does not
    "wrong range": [
        ({"range_real": (0.0, 1.0)}, {"range_real": (-0.2, 1.0)}),
        ({"range_real": (0.02, 1.0)}, {"range_real": (0.1, 1.0)}),  # bright pictures
        ({"range_real": (-1.2, 1.0)}, {"range_real": (-1.04, 1.04)}),
        ({"range_real": (-1.0, 255.0)}, {}),
        ({"range_fake": (0.0, 1.0)}, {"range_fake": (-0.01, 1.0)}),
        ({"range_fake": (-1.0, 3.0)}, {"range_fake": (0.3, 1.0)}),
    ],
    "non-finite gradients": [
        ({"generator__total": math.nan}, {"generator__total": 1e3}),
        ({"discriminator__total": math.inf}, {}),
        ({"range_real": (math.nan, math.nan)}, {}),
        ({"range_fake": (-math.inf, 1.0)}, {}),
        ({"generator__total": math.nan, "range_fake": (-3.0, 3.0), "lipschitz": 1e9}, {}),  # alone
    ],
    "gradient explodes through depth": [
        (
            {"generator__first_to_last": 1001.0, "generator__activation_gradients": LAYERS},
            {"generator__first_to_last": 999.0, "generator__activation_gradients": LAYERS},
        ),
        (
            {"discriminator__first_to_last": 1001.0, "discriminator__activation_gradients": LAYERS},
            {"discriminator__first_to_last": 1001.0},  # four layers
        ),
    ],
    "gradient vanishes through depth": [
        ({"generator__first_to_last": 9e-4}, {"generator__first_to_last": 1.1e-3}),
        ({"discriminator__first_to_last": 0.0}, {}),
    ],
    "exploding gradients": [({"lipschitz": 51.0}, {"lipschitz": 49.0})],
    "dead discriminator": [
        (
            {"slope_real": 0.0, "slope_fake": 0.0, "slope_between": 9e-5},
            {"slope_real": 0.0, "slope_fake": 0.0, "slope_between": 2e-4},
        ),
        (
            {"slope_real": 0.0, "slope_fake": 0.0, "slope_between": 0.0},
            {"slope_real": 0.0, "slope_fake": math.nan, "slope_between": 0.0},
        ),
    ],
    "vanished generator gradient": [
        (SATURATED | {"image_gradient": 0.009}, SATURATED | {"image_gradient": 0.011}),
        (SATURATED | {"image_gradient": 0.0}, SATURATED | {"image_gradient": 0.0, "accuracy_fake": 0.9}),
        (SATURATED | {"image_gradient": 0.0}, SATURATED | {"image_gradient": 0.0, "logit_gap": -20.0}),
    ],
    "saturated generator output": [
        ({"extreme_real": 0.8, "extreme_fake": 0.9961}, {"extreme_real": 0.8, "extreme_fake": 0.9959})
    ],
    "mode collapse": [({"spread_fake": 0.09, "spread_real": 1.0}, {"spread_fake": 0.11, "spread_real": 1.0})],
    "learning-rate imbalance": [
        (
            {"generator__update_ratio": 1e-5, "discriminator__update_ratio": 1.1e-3},
            {"generator__update_ratio": 1e-5, "discriminator__update_ratio": 0.9e-3},
        ),
        (
            {"generator__update_ratio": 1e-1, "discriminator__update_ratio": 1e-9},
            {"generator__update_ratio": 1e-1, "discriminator__update_ratio": 0.0},  # a step that was skipped
        ),
        (
            {"generator__update_ratio": 1e-9, "discriminator__update_ratio": 1e-1},
            {"generator__update_ratio": 1e-1, "discriminator__update_ratio": math.nan},
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "shows", "not_quite"), [(name, *pair) for name, pairs in CASES.items() for pair in pairs]
)
def test_fires_beyond_its_threshold_alone(name, shows, not_quite):
    assert names(good()) == []
    assert names(changed(good(), **shows)) == [name]
    assert names(changed(good(), **not_quite)) == []


def test_mode_collapse_by_its_classes():
    few = {"spread_fake": 0.7, "spread_real": 1.0}
    assert names(Record(changed(good(), **few).signals, STALLED)) == ["mode collapse"]
    assert names(Record(good().signals, STALLED)) == []  # far apart, whatever they show
    improving = [STALLED[0], replace(STALLED[1], fid=18.9)]
    many = [STALLED[0], replace(STALLED[1], covered=6)]
    unknown = [replace(one, covered=None, classes=None) for one in STALLED]
    for scores in (improving, many, unknown, STALLED[:1], []):
        assert names(Record(changed(good(), **few).signals, scores)) == []


def oscillating() -> list[GradientStats]:
    moving = changed(good(), every=True, movement=0.21, spread_real=1.0, spread_fake=0.5, logit_gap=0.1)
    signals = list(moving.signals)
    signals[0], signals[5] = (replace(signals[number], logit_gap=-0.1) for number in (0, 5))
    return signals


def test_oscillation():
    signals = oscillating()
    stalled = [replace(one, covered=6) for one in STALLED]
    assert names(Record(signals, stalled)) == ["oscillation without progress"]
    assert names(Record(signals, STALLED)) == ["oscillation without progress"]  # rather than mode collapse
    still = [replace(one, movement=0.19) for one in signals]
    ahead = [*signals[:5], replace(signals[5], logit_gap=0.1), *signals[6:]]
    improving = [stalled[0], replace(stalled[1], fid=10.0)]
    begun = [replace(signals[0], movement=None), *signals[1:]]
    for threshold in ({"movement": 0.3}, {"flips": 0.3}, {"far": 500.0}):
        assert names(Record(signals, stalled), replace(Thresholds(), **threshold)) == []
    near = [replace(one, floor=0.4) for one in stalled]
    for record in (
        (signals, near),
        (still, stalled),
        (ahead, stalled),
        (signals, improving),
        (signals, []),
        (begun, stalled),
    ):
        assert names(Record(*record)) == []


def test_what_comes_of_a_cause_is_not_told_beside_it():
    collapsed = changed(good(), spread_fake=0.0)
    assert names(collapsed) == ["mode collapse"]
    assert names(changed(collapsed, generator__first_to_last=1e-9)) == ["gradient vanishes through depth"]


def test_a_flat_discriminator_is_dead_or_too_deep():
    """By whether its units are dead, and not both."""
    flat = {"slope_real": 0.0, "slope_fake": 0.0, "slope_between": 0.0, "discriminator__first_to_last": 0.0}
    assert names(changed(good(), **flat, discriminator__dead_share=0.9)) == ["dead discriminator"]
    assert names(changed(good(), **flat, discriminator__dead_share=0.1)) == ["gradient vanishes through depth"]


def test_networks_that_have_just_begun_are_not_judged():
    first = Record(good().signals[:1])
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


OTHER = [  # a threshold, what is then a condition and is none by default, and the condition
    ({"passing": 0.02}, SATURATED | {"image_gradient": 0.011}, "vanished generator gradient"),
    ({"accuracy": 0.8}, SATURATED | {"image_gradient": 0.0, "accuracy_fake": 0.9}, "vanished generator gradient"),
    ({"vanishing": 0.01}, {"generator__first_to_last": 1.1e-3}, "gradient vanishes through depth"),
    (
        {"exploding": 500.0},
        {"generator__first_to_last": 999.0, "generator__activation_gradients": LAYERS},
        "gradient explodes through depth",
    ),
    ({"slope": 40.0}, {"lipschitz": 49.0}, "exploding gradients"),
    ({"flat": 1e-3}, {"slope_real": 0.0, "slope_fake": 0.0, "slope_between": 2e-4}, "dead discriminator"),
    ({"outside": 0.01}, {"range_real": (-1.04, 1.0)}, "wrong range"),
    ({"inside": 0.1}, {"extreme_real": 0.8, "extreme_fake": 0.99}, "saturated generator output"),
    ({"spread": 0.2}, {"spread_fake": 0.15, "spread_real": 1.0}, "mode collapse"),
    (
        {"imbalance": 50.0},
        {"generator__update_ratio": 1e-5, "discriminator__update_ratio": 9e-4},
        "learning-rate imbalance",
    ),
]


@pytest.mark.parametrize(("threshold", "signals", "name"), OTHER)
def test_every_threshold_matters(threshold, signals, name):
    record = changed(good(), **signals)
    assert names(record) == []
    assert names(record, replace(Thresholds(), **threshold)) == [name]


@pytest.mark.parametrize("threshold", [{"classes": 0.4}, {"apart": 0.6}])
def test_thresholds_of_mode_collapse_by_its_classes(threshold):
    record = Record(changed(good(), spread_fake=0.7, spread_real=1.0).signals, STALLED)
    assert names(record) == ["mode collapse"]
    assert names(record, replace(Thresholds(), **threshold)) == []


def test_thresholds_must_be_above_zero():
    with pytest.raises(ValueError, match="threshold slope must be above 0, and is -1"):
        Thresholds(slope=-1)
    with pytest.raises(ValueError, match="threshold flips must be above 0"):
        Thresholds(flips=math.nan)


@pytest.mark.parametrize("everywhere", [False, True])
def test_real_images_that_are_all_equal_have_no_spread_to_compare_with(everywhere):
    record = changed(good(), every=everywhere, spread_real=0.0, movement=1.0, logit_gap=-1.0)
    assert math.isnan(record.latest.spread)
    assert names(Record(record.signals, STALLED)) == []


def test_a_finding_says_why_which_setting_and_where_to_read():
    for shows, _ in [pair for pairs in CASES.values() for pair in pairs]:
        (finding,) = diagnose(changed(good(), **shows), Thresholds())
        assert any(character.isdigit() for character in finding.why) or "NaN" in finding.why
        assert finding.cures
        assert finding.reference
    assert len(CASES) == len(CAUSES) + len(SYMPTOMS)  # oscillation has its own test, what is not finite is not a cause


def test_cures_are_settings_that_exist(capsys):
    """Whatever a cure marks as code is read by the command; a rate or a number to be chosen is given one."""
    records = [changed(good(), **shows) for pairs in CASES.values() for shows, _ in pairs]
    records += [Record(oscillating(), STALLED)]
    cures = {cure for record in records for finding in diagnose(record, Thresholds()) for cure in finding.cures}
    settings = {code for cure in cures for code in re.findall("`(.*?)`", cure)}
    assert len(settings) > 20
    words = []
    for setting in sorted(settings):
        assert setting.startswith("--")
        number = {"lr": ["0.1"], "n_critic": ["2"], "weight_clip": ["0.1"]}.get(setting.rpartition(".")[2], [])
        if setting != "--model.discriminator.norm spectral":  # of MLPDiscriminator, where the others are not all
            words += setting.split() + number
    assert not [cure for cure in cures if "--" in re.sub("`.*?`", "", cure)]
    for config, more in (
        ("failures/oscillation.yaml", words),
        ("default.yaml", ["--model.discriminator.norm", "spectral"]),
    ):
        with pytest.raises(SystemExit, match="0"):
            main(["fit", "--config", str(ROOT / "configs" / config), *more, "--print_config"])
        assert "discriminator" in capsys.readouterr().out


def test_a_network_that_vanishes_names_its_layers():
    network = {f"layer{number}": 10.0 ** (number - 8) for number in range(9)}
    record = changed(good(), generator__activation_gradients=network, generator__first_to_last=1e-8)
    (finding,) = diagnose(record, Thresholds())
    assert "shrinks to 1e-08 of what it was, from 1 at layer8 to 1e-08 at layer0" in finding.why
    assert finding.why.endswith("layers layer0, layer1, ..., layer6")  # below the square root of the threshold, .03


@pytest.mark.parametrize("name", HEALTHY)
def test_no_alarm_in_a_recorded_good_run(name):
    """The whole run of a shipped config, measurement by measurement."""
    record = recorded(name)
    for end in range(1, len(record.signals) + 1):
        signals = record.signals[max(0, end - WINDOW) : end]
        scores = [score for score in record.scores if score.step <= signals[-1].step][-WINDOW:]
        assert names(Record(signals, scores)) == []


@pytest.mark.parametrize("name", FAILURES)
def test_names_what_a_recorded_run_dies_of(name):
    plain = json.loads((RECORDED / f"{name}.json").read_text())
    assert names(recorded(name))[0] == plain["condition"]


def test_records_are_there():
    assert len(HEALTHY) >= 7
    assert len(FAILURES) >= 7
    record = good()
    assert signals_of(asdict(record.signals[-1])) == record.signals[-1]
