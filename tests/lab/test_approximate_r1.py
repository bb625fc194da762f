"""Approximate R1: that each check can fail."""

import torch

from gan.lab.experiment import load
from gan.penalties import ApproximateR1
from lab.lab_checks import assert_each_check_can_fail


class Doubled(ApproximateR1):
    """Twice the penalty."""

    def __call__(self, discriminator, real, fake, noise=None):
        return 2 * super().__call__(discriminator, real, fake, noise)


def test_each_check_can_fail():
    assert_each_check_can_fail(
        load("approximate_r1"),
        [
            {"penalty": Doubled},
            {"narrow": torch.float64, "rounded": torch.float64},
            {"curvature": 30.0},
            {"curvature": 0.0},
        ],
    )
