"""Gradient descent: that each check can fail."""

import pytest
from torch.optim import SGD

from gan.lab.descent import OPTIMIZERS
from gan.lab.experiment import load
from lab.lab_checks import assert_each_check_can_fail


@pytest.mark.slow
def test_each_check_can_fail():
    plain, momentum, adam = OPTIMIZERS.values()
    assert_each_check_can_fail(
        load("descent"),
        [
            {"optimizers": {"descent": momentum, "momentum": plain, "Adam": plain}},
            {"optimizers": {"descent": adam, "momentum": momentum, "Adam": adam}},
            {"optimizers": OPTIMIZERS | {"descent": lambda parameters, lr, beta: SGD(parameters, lr=8 * lr)}},
            {"rotation": 0.0},
        ],
    )
