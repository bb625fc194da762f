"""Clipped weights against a penalty: that each check can fail."""

import pytest

from gan.lab.experiment import load
from gan.penalties import GradientPenalty
from lab.lab_checks import assert_each_check_can_fail


@pytest.mark.slow
def test_each_check_can_fail():
    """With limits in the wrong order, and without the penalty."""
    assert_each_check_can_fail(
        load("weight_clipping"), [{"limits": (0.003, 0.3, 0.3)}, {"penalty": GradientPenalty(0)}]
    )
