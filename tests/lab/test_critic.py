"""Discriminator against critic: that each check can fail."""

import pytest

from gan.lab.critic import FELT
from gan.lab.experiment import load
from gan.losses import LeastSquares, NonSaturating, Saturating, Wasserstein
from gan.penalties import GradientPenalty
from lab.lab_checks import assert_each_check_can_fail


@pytest.mark.slow
def test_each_check_can_fail():
    assert_each_check_can_fail(
        load("critic"),
        [
            {"penalty": GradientPenalty(0)},
            {"felt": FELT | {"saturating": NonSaturating(), "non-saturating": Saturating()}},
            {"judges": {"discriminator": LeastSquares(), "critic": Wasserstein()}},
        ],
    )
