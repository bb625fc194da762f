"""scripts/slurm.sh. Without SLURM, `srun` and `scontrol` are stubs that write down how they were called."""

import os
import shutil
import signal
import subprocess
import sys
import time
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


def environment() -> dict[str, str]:
    """Where `python` is this one, and finds this package and these tests."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}


@pytest.fixture
def sbatch(tmp_path):
    """Runs the script as a job. Returns its exit status, and the words of all calls of SLURM's commands."""

    def run(*words, srun="exit 0", tasks=1) -> tuple[int, list[list[str]]]:
        calls = tmp_path / "calls"
        calls.write_text("", encoding="utf-8")
        for name, does in (("srun", srun), ("scontrol", "")):
            stub = tmp_path / "bin" / name
            stub.parent.mkdir(exist_ok=True)
            stub.write_text(STUB.format(name=name, does=does), encoding="utf-8")
            stub.chmod(0o755)
        env = environment() | {
            "CALLS": str(calls),
            "SLURM_JOB_ID": "4711",  # from here on as sbatch sets them
            "SLURM_NNODES": str(tasks // 2 or 1),
            "SLURM_NTASKS": str(tasks),
            "SLURM_NTASKS_PER_NODE": str(min(tasks, 2)),
            "SLURM_CPUS_PER_TASK": "1",
        }
        env["PATH"] = f"{tmp_path}/bin:{env['PATH']}"
        done = subprocess.run(
            ["sh", SCRIPT, *map(str, words)], cwd=tmp_path, env=env, capture_output=True, encoding="utf-8"
        )
        assert done.stderr == ""
        return done.returncode, [call.split("\n") for call in calls.read_text(encoding="utf-8").split("\n\n")[:-1]]

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


@pytest.mark.slow
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
    assert equal(load(tmp_path / "runs/slurm-4711/checkpoints/last.ckpt"), load(fit(tmp_path / "whole")))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sbatch") is None, reason="SLURM is not here")
@pytest.mark.parametrize("tasks", [1, 2])
def test_under_slurm(tmp_path, tasks):
    """Two real jobs, one of them stopped as at its time limit: it goes on, and ends with the same checkpoint."""
    words = [*SHORT, "--trainer.accelerator", "cpu", "--trainer.max_steps", 2000, "--trainer.log_every_n_steps", 100]
    options = ["--gpus-per-node=0", "--cpus-per-task=1", f"--ntasks-per-node={tasks}", "--time=10", "--signal=TERM@60"]

    def slurm(*call) -> str:
        done = subprocess.run([*map(str, call)], cwd=tmp_path, env=environment(), check=True, capture_output=True)
        return done.stdout.decode().strip()

    jobs = [slurm("sbatch", "--parsable", *options, SCRIPT, *words) for _ in range(2)]
    runs = [tmp_path / f"runs/slurm-{job}" for job in jobs]
    try:
        while not (runs[1] / "config.yaml").exists():  # it trains now
            assert slurm("squeue", "--noheader", "--jobs", jobs[1]), log(tmp_path)
            time.sleep(0.1)
        slurm("scancel", "--signal=TERM", jobs[1])
        while slurm("squeue", "--noheader", "--jobs", ",".join(jobs)):
            time.sleep(1)
    finally:
        slurm("scancel", *jobs)
    assert f"job {jobs[1]} goes on in a new piece" in log(tmp_path)
    assert equal(*[load(run / "checkpoints/last.ckpt") for run in runs]), log(tmp_path)


def log(folder) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("slurm-*.out")))
