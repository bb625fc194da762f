"""Texts on one, two and three processes: the same batches, and the same scores to the last bit of the same weights."""

import os
import sys

import pytest
import torch
from commands import load, process
from conftest import ROOT


@pytest.mark.slow
def test_as_many_processes_as_one_likes_train_and_score_alike(tmp_path):
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    started = process([sys.executable, ROOT / "tests" / "parallel" / "written.py", tmp_path], cwd=ROOT, env=env)
    _, errors = started.communicate(timeout=500)
    assert started.returncode == 0, errors
    weights, scores = load(tmp_path / "1-0" / "result.pt")
    assert [*scores] == [0, 3]
    for processes in (2, 3):
        for name, value in load(tmp_path / f"{processes}-0" / "result.pt")[0].items():
            torch.testing.assert_close(value, weights[name], rtol=1e-9, atol=1e-12)
        logged = load(tmp_path / f"{processes}-0" / "result.pt")[1]
        assert logged[0] == scores[0]  # floors too
        assert logged[3] == pytest.approx(scores[3], abs=1e-12)
