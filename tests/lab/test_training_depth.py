"""Training through depth: that each check can fail."""

from functools import partial

import pytest
from torch.optim import SGD

from gan.lab.experiment import load
from gan.lab.training_depth import KINDS
from lab.lab_checks import assert_each_check_can_fail


@pytest.mark.slow
def test_each_check_can_fail():
    plain, remedied = KINDS["plain"], KINDS["remedied"]
    assert_each_check_can_fail(
        load("training_depth"),
        [
            {"optimizer": partial(SGD, lr=1e-6)},
            {"kinds": {"plain": remedied, "He": remedied, "remedied": plain}},
            {"kinds": KINDS | {"He": plain}},
            {"kinds": KINDS | {"remedied": {"init": "he", "residual": "plain"}}},
        ],
    )
