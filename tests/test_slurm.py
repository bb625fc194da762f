"""scripts/slurm.sh. Without SLURM, `srun` and `scontrol` are stubs that write down how they were called."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SHORT, equal, fit, load
from conftest import ROOT
from lightning import Callback

SCRIPT = ROOT / "scripts" / "slurm.sh"
STUB = """#!/bin/sh
printf '%s\\n' {name} "$@" '' >> "$CALLS"  # one word a line, and an empty line behind
{does}
"""


@pytest.fixture
def sbatch(tmp_path):
    """Runs the script as a job. Returns its exit status, and the words of all calls of SLURM's commands."""

    def run(*words, srun="exit 0", tasks=1) -> tuple[int, list[list[str]]]:
        calls = tmp_path / "calls"
        calls.write_text("")
        for name, does in (("srun", srun), ("scontrol", "")):
            stub = tmp_path / "bin" / name
            stub.parent.mkdir(exist_ok=True)
            stub.write_text(STUB.format(name=name, does=does))
            stub.chmod(0o755)
        env = os.environ | {
            "PATH": f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT}/tests",
            "CALLS": str(calls),
            "SLURM_JOB_ID": "4711",  # from here on as sbatch sets them
            "SLURM_NNODES": str(tasks // 2 or 1),
            "SLURM_NTASKS": str(tasks),
            "SLURM_NTASKS_PER_NODE": str(min(tasks, 2)),
            "SLURM_CPUS_PER_TASK": "1",
        }
        done = subprocess.run(["sh", SCRIPT, *map(str, words)], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.stderr == ""
        return done.returncode, [call.split("\n") for call in calls.read_text().split("\n\n")[:-1]]

    return run


def test_words(sbatch):
    status, calls = sbatch("--config", "a file.yaml", "--model.n_critic", "2", tasks=6)
    assert status == 0
    expected = ["srun", "--kill-on-bad-exit=0", "--wait=120", "python", "-m", "gan.cli", "fit"]
    expected += ["--run_dir", "runs/slurm-4711", "--resume", "auto", "--trainer.num_nodes", "3", "--trainer.devices"]
    assert calls == [[*expected, "2", "--config", "a file.yaml", "--model.n_critic", "2"]]


@pytest.mark.parametrize("status", [0, 1, 2, 130, 137])
def test_other_ends_are_passed_on(sbatch, status):
    ended, calls = sbatch(srun=f"exit {status}")
    assert ended == status
    assert [words[0] for words in calls] == ["srun"]


def test_time_limit_requeues(sbatch):
    status, calls = sbatch(srun="exit 143")
    assert status == 143
    assert calls[1:] == [["scontrol", "requeue", "4711"]]


class Limit(Callback):
    """SIGTERM in the middle of the second batch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_two_pieces_equal_one_run(sbatch, tmp_path):
    """The real command, with srun's variables for a task: Lightning's SLURM environment is at work."""
    srun = 'shift 2; export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NODELIST=localhost; exec "$@"'
    words = [*SHORT, "--trainer.accelerator", "cpu", "--trainer.callbacks+", "test_slurm.Limit"]
    ends = []
    for _ in range(2):
        status, calls = sbatch(*words, srun=srun)
        ends.append((status, calls[-1]))
    assert ends[0] == (143, ["scontrol", "requeue", "4711"])
    assert ends[1][0] == 0
    pieces, whole = load(tmp_path / "runs/slurm-4711/checkpoints/last.ckpt"), load(fit(tmp_path / "whole"))
    assert pieces["global_step"] == 3
    assert equal(pieces["state_dict"], whole["state_dict"])
    assert equal(pieces["optimizer_states"], whole["optimizer_states"])
