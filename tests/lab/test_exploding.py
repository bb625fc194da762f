"""Exploding gradients: that each check can fail."""

import pytest

from gan.gradients.clip import Adaptive, ByNorm, ByValue
from gan.lab.experiment import load
from lab.lab_checks import assert_each_check_can_fail, ink


@pytest.mark.slow
def test_figure_of_another_gain():
    experiment = load("exploding")
    assert ink(experiment.figure(experiment.run(gain=1.0))) > 0.01


@pytest.mark.slow
def test_each_check_can_fail():
    loose = {"clipped by norm": ByNorm(1e9), "clipped by value": ByValue(1e9)}
    # Adaptive clipping spares the last layer, and there is no other.
    adaptive = {"clipped by norm": Adaptive(), "clipped by value": Adaptive()}
    assert_each_check_can_fail(
        load("exploding"),
        [
            {"clips": loose},
            {"clips": adaptive},
            {"gain": 1.0},
            {"gain": 0.85},
            {"rms": "none", "spectral": "none", "orthogonal": False},
        ],
    )
