"""What has been measured: recorded runs, a good one, and changes that show a condition or just do not."""

import json
import math
from dataclasses import replace

from conftest import ROOT

from gan.gradients import BatchStats, GradientStats
from gan.gradients.diagnose import diagnose
from gan.gradients.rules import WINDOW, Record, Score, Thresholds

VARIANCE = 21.9  # of the features of the test images by mnist_cnn
RECORDED = ROOT / "tests" / "recorded"
FAILURES = sorted(path.stem for path in RECORDED.glob("failure_*.json"))
HEALTHY = sorted(path.stem for path in RECORDED.glob("healthy_*.json"))


def recorded(name: str) -> Record:
    plain = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return Record(
        [GradientStats.from_dict(stats) for stats in plain["stats"]],
        [Score(**({"variance": VARIANCE} | score)) for score in plain["scores"]],
    )


def good() -> Record:
    """Eight measurements of a good run, with what was not measured yet when it was recorded."""
    record, stats = recorded("healthy_default"), []
    for number, measured in enumerate(record.stats[-WINDOW:]):
        networks = {
            "generator": replace(measured.generator, ends="tanh", activations=("relu",), trainable=100),
            "discriminator": replace(measured.discriminator, ends="linear", activations=("relu",), trainable=100),
        }
        batch = a_batch(mean=(0.5 + 0.1 * (-1) ** number, 0.0))
        of_images = {"range_logit": (-2.0, 3.0), "response": 20.0, "moved": 20.0, "moved_average": 19.0}
        stats.append(replace(measured, **networks, **of_images, batch=batch))
    return Record(stats, record.scores)


def a_batch(**changes) -> BatchStats:
    """A batch of 64 whose mean has a variance of 1 / 64 by chance, as those that are 0.2 apart, one by one, have."""
    usual = {"mean": (0.5, 0.0), "variance": 64 * 0.08 / 7, "images": 64, "seen": 16, "distinct": 16, "epoch": 859}
    return BatchStats(**(usual | changes))


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
    return replace(record, stats=stats)


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

DATA_SHOWN = {  # likewise, in all eight measurements where every is true
    "constant data": [
        ({"every": True, "spread_real": 0.09}, {"every": True, "spread_real": 0.11}),
        ({"every": True, "spread_real": 0.0}, {"spread_real": 0.0}),  # one batch of white pictures
    ],
    "data nearly all of one class": [
        (
            {"every": True, "batch": a_batch(label=3, label_share=0.91)},
            {"every": True, "batch": a_batch(label=3, label_share=0.89)},
        ),
        (
            {"every": True, "batch": a_batch(label=3, label_share=0.91)},
            {"every": True, "batch": a_batch(label=0, label_share=1.0)},  # a folder of one class
        ),
    ],
    "batches that repeat": [
        ({"batch": a_batch(distinct=4)}, {"batch": a_batch(distinct=5)}),
        ({"batch": a_batch(distinct=1, epoch=None)}, {"batch": a_batch(distinct=1, epoch=1)}),  # all there are
        ({"batch": a_batch(distinct=2)}, {"batch": a_batch(distinct=2, epoch=2)}),
        ({"batch": a_batch(distinct=1)}, {"batch": a_batch(distinct=1, variance=0.0)}),
        ({"batch": a_batch(distinct=2, seen=8)}, {"batch": a_batch(distinct=1, seen=7)}),
    ],
    "batches that are not shuffled": [
        ({"batch": a_batch(mean=(1.2, 0.0))}, {"batch": a_batch(mean=(1.0, 0.0))}),
    ],
}

UNIT = {"every": True, "discriminator__ends": None}
SILENT = {"generator__total": 0.0, "generator__activation_gradients": {"layer": 0.0}}
WIRING_SHOWN = {  # likewise
    "probabilities for logits": [
        ({"discriminator__ends": "sigmoid"}, {"discriminator__ends": "tanh"}),
        ({"discriminator__ends": "softmax"}, {}),
        (UNIT | {"range_logit": (0.005, 0.995)}, UNIT | {"range_logit": (0.02, 0.995)}),
        (UNIT | {"range_logit": (0.0, 1.0)}, UNIT | {"range_logit": (-0.01, 1.0)}),
        (UNIT | {"range_logit": (0.0, 1.0)}, UNIT | {"range_logit": (0.0, 1.01)}),
        (UNIT | {"range_logit": (0.0, 1.0)}, {"every": True, "range_logit": (0.0, 1.0)}),  # it ends in a linear layer
        (UNIT | {"range_logit": (0.0, 1.0)}, {"range_logit": (0.0, 1.0), "discriminator__ends": None}),
    ],
    "detached generator": [
        (SILENT, SILENT | {"generator__total": 1e-30}),
        (SILENT | {"generator__activation_gradients": {}}, SILENT | {"image_gradient": 0.0}),
        (SILENT, SILENT | {"generator__activation_gradients": {"layer": 1e-30}}),
        (SILENT, SILENT | {"extreme_fake": 1.0, "extreme_real": 1.0}),  # the ends of a tanh
        (SILENT, SILENT | {"generator__trainable": None}),
    ],
    "deaf generator": [
        (
            {"response": 0.9, "spread_fake": 20.0, "spread_real": 20.0},
            {"response": 1.1, "spread_fake": 20.0, "spread_real": 20.0},
        ),
        (
            {"response": 0.9, "spread_fake": 4.0, "spread_real": 20.0},
            {"response": 0.9, "spread_fake": 3.5, "spread_real": 20.0},
        ),
        (
            {"every": True, "response": 0.0, "spread_fake": 20.0},
            {"response": None, "spread_fake": 20.0},  # images of images
        ),
    ],
    "weights that do not move": [
        ({"every": True, "generator__update_ratio": 0.0}, {"generator__update_ratio": 0.0}),
        ({"every": True, "discriminator__update_ratio": 0.0}, {"every": True, "discriminator__update_ratio": None}),
        (
            {"every": True, "discriminator__update_ratio": 0.0},
            {"every": True, "discriminator__update_ratio": 0.0, "discriminator__total": 0.0},  # a hinge that is content
        ),
        ({"generator__trainable": 0}, {"generator__trainable": 1}),
        (  # 2,500 batches of so much each are 1 %
            {"every": True, "generator__update_ratio": 3.9e-6, "discriminator__update_ratio": 3.9e-6},
            {"every": True, "generator__update_ratio": 4.1e-6, "discriminator__update_ratio": 4.1e-6},
        ),
    ],
    "average that was never updated": [
        (
            {"every": True, "moved": 20.0, "moved_average": 0.0019},
            {"every": True, "moved": 9.0, "moved_average": 0.0, "spread_real": 20.0},  # it has hardly moved itself
        ),
    ],
    "average that lags": [
        ({"moved": 20.0, "moved_average": 9.9}, {"moved": 20.0, "moved_average": 10.1}),
        ({"every": True, "moved": 20.0, "moved_average": 0.0021}, {"moved": 20.0, "moved_average": None}),
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
