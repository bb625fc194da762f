"""What has been measured: recorded runs, a good one, and changes that show a condition or just do not."""

import json
import math
from dataclasses import replace

from conftest import ROOT

from gan.gradients import GradientStats
from gan.gradients.diagnose import diagnose
from gan.gradients.rules import WINDOW, Record, Score, Thresholds

RECORDED = ROOT / "tests" / "recorded"
FAILURES = sorted(path.stem for path in RECORDED.glob("failure_*.json"))
HEALTHY = sorted(path.stem for path in RECORDED.glob("healthy_*.json"))


def recorded(name: str) -> Record:
    plain = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return Record(
        [GradientStats.from_dict(stats) for stats in plain["stats"]], [Score(**score) for score in plain["scores"]]
    )


def good() -> Record:
    """Eight measurements of a good run."""
    record = recorded("healthy_default")
    return Record(record.stats[-WINDOW:], record.scores)


def changed(record: Record, every: bool = False, **changes) -> Record:
    """The record with other values in the latest stats, or in all; `generator__x` is the generator's x."""
    stats = list(record.stats)
    for number in range(len(stats)) if every else [-1]:
        of_networks = {}
        for name in ("generator", "discriminator"):
            values = {key.split("__")[1]: value for key, value in changes.items() if key.startswith(f"{name}__")}
            of_networks[name] = replace(getattr(stats[number], name), **values)
        rest = {key: value for key, value in changes.items() if "__" not in key}
        stats[number] = replace(stats[number], **of_networks, **rest)
    return Record(stats, record.scores)


def names(record: Record, thresholds=None) -> list[str]:
    return [finding.name for finding in diagnose(record, thresholds or Thresholds())]


SATURATED = {"slope_fake": 1.0, "logit_gap": 20.0, "accuracy_fake": 1.0}
STALLED = [Score(100, 20.0, 0.1, 5, 10), Score(200, 19.5, 0.1, 5, 10)]
LAYERS = {f"layer{number}": 10.0**-number for number in range(6)}
CAUSES_SHOWN = {  # condition: what shows it, and what just does not
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
}

SYMPTOMS_SHOWN = {  # likewise
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


def by_heart(gap=2.0, whole=4.0, every=0.1) -> Record:
    """Eight measurements in which held-out images lie `gap` below training images, more or less, and fakes `whole`."""
    stats = [
        replace(measured, logit_real=1.0, logit_held_out=1.0 - gap + every * (-1) ** number, logit_gap=whole)
        for number, measured in enumerate(good().stats)
    ]
    return Record(stats)


def oscillating() -> list[GradientStats]:
    moving = changed(good(), every=True, movement=0.21, spread_real=1.0, spread_fake=0.5, logit_gap=0.1)
    stats = list(moving.stats)
    stats[0], stats[5] = (replace(stats[number], logit_gap=-0.1) for number in (0, 5))
    return stats
