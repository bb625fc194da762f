"""What the tests of several processes share: commands on two devices, and scripts in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import FAST, MLPS, SMALL, command, process
from conftest import ROOT

TWO = ["--trainer.devices", "2", "--trainer.accelerator", "cpu"]


def script(name, *words, by=(sys.executable,)) -> subprocess.Popen:
    """A script beside this file, in a process of its own."""
    return process(
        ["env", f"PYTHONPATH={ROOT}:{ROOT / 'tests'}", *by, str(Path(__file__).with_name(name)), *map(str, words)]
    )


def fit(run_dir, *words, **settings) -> subprocess.Popen:
    words = ["fit", "--config", FAST, *MLPS, *SMALL, *TWO, "--run_dir", run_dir, *words]
    return process([sys.executable, "-m", "gan.cli", *map(str, words)], cwd=ROOT / "tests", **settings)


def finished(run: subprocess.Popen) -> tuple[str, str]:
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    return output, errors


def refused(capsys, message, *words) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("fit", "--config", FAST, *MLPS, *words)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
