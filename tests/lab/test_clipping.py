"""Clipping: that each check can fail."""

import pytest

from gan.gradients.clip import ByNorm, Clip, Clipped
from gan.lab.clipping import CLIPS
from gan.lab.experiment import load
from gan.penalties import R1
from lab.lab_checks import assert_each_check_can_fail


class ToLengthOne(Clip):
    """What would cure vanishing: it lengthens too."""

    def __call__(self, gradients):
        before = gradients.norm()
        gradients.scale(1 / before)
        return Clipped(before, 1.0, True)


@pytest.mark.slow
def test_each_check_can_fail():
    def by_norm(make):
        return {"clips": CLIPS | {"by norm": make}}

    assert_each_check_can_fail(
        load("clipping"),
        [
            by_norm(lambda: ByNorm(1e9)),
            by_norm(lambda: ByNorm(1e-6)),
            by_norm(ToLengthOne),
            {"penalty": R1(10), "limits": (0.01, 0.3)},
        ],
    )
