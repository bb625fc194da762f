"""Short runs beside a run: what their folders tell, and how their ends are put in words."""

import json
import signal
from pathlib import Path

import pytest
from test_cure import finding

from gan.errors import GANError
from gan.trials import (
    OUTPUT,
    Trial,
    command_of,
    failure_of,
    fids_in,
    findings_in,
    folder_of,
    keep,
    kept_in,
    outcome_of,
    rows_of,
    told_at,
)

CONFIG = {"model": {"n_critic": 1}}


def test_findings_are_read_as_they_are_written(tmp_path):
    told = [finding(["--model.n_critic", "2"], texts=["by hand"])]
    assert findings_in(tmp_path) is None
    (tmp_path / "findings.json").write_text(json.dumps(told), "utf-8")
    assert findings_in(tmp_path) == told
    (tmp_path / "findings.json").write_bytes(b"\xff")
    with pytest.raises(GANError, match=r"findings\.json is damaged"):
        findings_in(tmp_path)


@pytest.mark.parametrize(
    ("table", "fids"),
    [
        ("step,loss\n1,2\n", {}),
        ("step,fid/a,loss\n1,,2\n5,7.5,\n6,nan,\n", {5: 7.5}),
        ("step,loss,fid/b,fid/a\n5,1,2,3\n", {5: 2.0}),
        ("", {}),
    ],
)
def test_fid_of_a_run(tmp_path, table, fids):
    (tmp_path / "metrics.csv").write_text(table, "utf-8")
    assert fids_in(tmp_path) == fids
    assert fids_in(tmp_path / "nowhere") == rows_of(tmp_path / "nowhere") == {}


def test_told_at_a_batch():
    findings = [finding(since=10, name="a"), finding(since=20, until=40, name="b")]
    assert [told_at(findings, batch) for batch in (9, 10, 20, 39, 40)] == [[], ["a"], ["a", "b"], ["a", "b"], ["a"]]


def test_a_trial_has_a_folder_of_its_own(tmp_path):
    """Found again by all that it is."""
    trials = [
        Trial(("--a", "1"), CONFIG, 0, 10),
        Trial(("--a", "2"), CONFIG, 0, 10),
        Trial(("--a", "1"), CONFIG, 0, 20),
    ]
    trials += [Trial(("--a", "1"), CONFIG, 5, 10), Trial(("--a", "1"), {"model": {"n_critic": 2}}, 0, 10)]
    assert [folder_of(trial, tmp_path).name for trial in trials * 2] == ["1", "2", "3", "4", "5"] * 2
    (tmp_path / "1" / "trial.json").write_text("{", "utf-8")  # a disk was full
    assert folder_of(trials[0], tmp_path).name == "6"


@pytest.mark.parametrize("saved", [False, True])
def test_the_command_of_a_trial(tmp_path, saved):
    trial = Trial(("--model.n_critic", "2"), CONFIG, 5, 10, Path("run/step_000005.ckpt"))
    folder = folder_of(trial, tmp_path)
    if saved:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
    words = ["--config", str(folder / "trial.yaml"), "--model.n_critic", "2", "--run_dir", str(folder)]
    words += ["--resume", "run/step_000005.ckpt"]
    again = ["--run_dir", str(folder), "--resume", "auto"]
    assert command_of(trial, folder, ["mine"]) == ["fit", *(again if saved else words), "--trust", "mine"]


@pytest.mark.parametrize(
    ("status", "output", "reason"),
    [
        (2, "\n$ fit\nerror: no room\n", "no room"),
        (2, "\n$ fit\nerror: no room\n\n$ fit\nerror: no disk\n", "no disk"),
        (1, "\n$ fit\nTraceback:\n  File x\nKeyError: 'y'\n", "KeyError: 'y'"),
        (1, "\n$ fit\nerror: of before\n\n$ fit\nKeyError: 'y'\n", "KeyError: 'y'"),
        (3, "\n$ fit\n", "status 3"),
        (-signal.SIGKILL, "\n$ fit\nbatch 1/2\n", "killed from outside, as systems do that run out of memory"),
        (-signal.SIGSEGV, "\n$ fit\nbatch 1/2\n", "ended by SIGSEGV"),
    ],
)
def test_why_a_trial_has_failed(tmp_path, status, output, reason):
    (tmp_path / OUTPUT).write_text(output, "utf-8")
    assert failure_of(tmp_path, status) == reason


def test_a_trial_without_findings_is_no_success(tmp_path):
    """Else a doctor that never spoke would have healed."""
    trial = Trial((), CONFIG, 0, 10)
    folder = folder_of(trial, tmp_path)
    keep(folder, kept_in(folder) | {"status": 0})
    assert outcome_of(trial, folder).failure == "its doctor has written nothing down"
    (folder / "findings.json").write_text("{", "utf-8")
    assert "is damaged" in outcome_of(trial, folder).failure
