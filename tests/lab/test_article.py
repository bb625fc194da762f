"""The article's program: that each check can fail."""

import pytest

from gan.lab.article import VARIANTS, Program
from gan.lab.experiment import load
from lab.lab_checks import assert_each_check_can_fail


@pytest.mark.slow
def test_each_check_can_fail():
    def swap(**programs):
        return {"variants": VARIANTS | {name.replace("_", " "): program for name, program in programs.items()}}

    assert_each_check_can_fail(
        load("article"),
        [
            swap(all_five=Program(tanh=True, scaled=True, logits=True, batches=True)),
            swap(step_trains_G=Program(tanh=True), tanh_output=Program(tanh=True, reaches=True)),
            swap(step_trains_G=VARIANTS["all five"]),
        ],
    )
