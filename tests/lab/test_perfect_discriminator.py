"""A perfect discriminator: that each check can fail."""

import pytest

from gan.lab.experiment import load
from gan.losses import NonSaturating, Saturating
from gan.penalties import R1
from lab.lab_checks import assert_each_check_can_fail


@pytest.mark.slow
def test_each_check_can_fail():
    exchanged = {"saturating": NonSaturating(), "non-saturating": Saturating()}
    assert_each_check_can_fail(
        load("perfect_discriminator"),
        [{"penalty": R1(0)}, {"losses": exchanged}, {"lr": 1e-7}],
    )
