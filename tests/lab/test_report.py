"""What is written of a run of an experiment."""

import json
import math

import pytest
from conftest import SmallDisk

from gan.lab.experiment import Table, load
from gan.lab.report import Report, log_curves, plain, write
from gan.outbox import Outbox


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


def test_full_disk(tmp_path):
    """Nothing is left half-written, and all is there when there is room."""
    experiment, outbox = load("loss_curves"), Outbox("The lab")
    report = Report(experiment, experiment.run(seed=0), seed=0, seconds=1.0)
    with SmallDisk(5000), pytest.warns(UserWarning, match=r"figure\.png: File too large. The lab goes on"):
        write(report, tmp_path, outbox)
    names = {path.name for path in tmp_path.iterdir()}
    assert "verdict.json" in names
    assert not [name for name in names if name.startswith(("figure", "events")) or name.endswith("partial")]
    outbox.send()
    write(report, tmp_path / "whole", Outbox())
    assert {path.name.split(".tfevents")[0] for path in tmp_path.iterdir() if path.is_file()} == {
        path.name.split(".tfevents")[0] for path in (tmp_path / "whole").iterdir()
    }
    for path in (tmp_path / "whole").glob("figure.*"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
