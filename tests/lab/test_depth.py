"""Depth: that each check can fail, and the reference's numbers."""

import pytest

from gan.lab.depth import RECIPES, run
from gan.lab.experiment import load
from lab.lab_checks import assert_each_check_can_fail

# Median of five draws, width 128, 256 digits, by another program: network, then depths 5, 10, 20, 40.
MEASURED_BEFORE = {
    "sigmoid, default": (3.9e-4, 2.4e-8, 7e-17),  # and at 40 it had 0, in float32
    "tanh, default": (0.10, 7e-3, 2.6e-5, 4e-10),
    "tanh, Xavier": (0.50, 0.40, 0.21, 0.17),
    "relu, N(0, 0.02)": (6.6e-4, 7e-8, 7e-16),
    "relu, default": (2.6e-2, 3.2e-4, 4e-8, 5e-16),
    "relu, Xavier": (0.23, 4.5e-2, 1.4e-3, 9.5e-7),
    "relu, He": (1.0, 1.0, 0.96, 0.85),
    "sigmoid, batch norm": (1.2, 1.4, 1.7, 3.4),
    "relu, batch norm": (2.2, 5.8, 37, 1.6e3),
    "relu, residual": (1.4, 2.3, 9.6, 9.6e2),
    "relu, He, residual": (4.2, 32, 3.4e3, 2e8),
}


@pytest.mark.slow
def test_agrees_with_what_was_measured_before():
    ratios = run(seed=0).tables["ratios"]
    for name, expected in MEASURED_BEFORE.items():
        got = ratios.where(network=name)["activation_ratio"][: len(expected)]
        assert got == pytest.approx(expected, rel=0.9), name  # well within an order of magnitude
        assert all(0.3 < value / figure < 3 for value, figure in zip(got, expected, strict=True)), name


@pytest.mark.slow
def test_each_check_can_fail():
    he, sigmoid = {"init": "he"}, {"activation": "sigmoid"}
    assert_each_check_can_fail(
        load("depth"),
        [
            {"recipes": dict.fromkeys(RECIPES, he)},
            {"recipes": dict.fromkeys(RECIPES, sigmoid)},
            {"recipes": RECIPES | {"relu, Xavier": {}}},
        ],
    )
