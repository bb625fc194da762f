"""What is written of a run of an experiment."""

import json
import math

from gan.lab.experiment import Table
from gan.lab.report import log_curves, plain


def test_curves_in_tensorboard():
    """Each number over `step`, one curve for each combination of strings."""
    table = Table("kind", "step", "loss")
    table.add(kind="plain", step=[0, 5], loss=[1.0, 2.0])
    table.add(kind="clipped", step=5, loss=3.0)
    written = []

    class Writer:
        def add_scalar(self, *values):
            written.append(values)

    log_curves(Writer(), "training", table)
    plain, clipped = "training/loss/plain", "training/loss/clipped"
    assert written == [(plain, 1.0, 0), (plain, 2.0, 5), (clipped, 3.0, 5)]


def test_numbers_that_json_does_not_know():
    assert [float(plain(number)) for number in (1.5, math.inf, -math.inf)] == [1.5, math.inf, -math.inf]
    assert json.loads(json.dumps(plain(math.nan), allow_nan=False)) == "nan"
