"""Processes that were started together end together, and say why."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from commands import load

from parallel.processes import finished, fit, script


def training(run: subprocess.Popen, run_dir: Path) -> int:
    """Waits until both processes train. Returns the id of the second one."""
    for _ in range(600):
        if (run_dir / "metrics.csv").is_file():
            (child,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            return int(child)
        assert run.poll() is None, run.communicate()
        time.sleep(0.2)
    raise AssertionError("training did not begin")


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


ENDLESS = ["--trainer.max_steps", "1000000", "--trainer.log_every_n_steps", "10"]


IMPATIENT = ["--trainer.strategy", "gan.parallel.DDP", "--trainer.strategy.patience", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["first killed", "second killed", "first stuck", "second stuck"])
def test_the_others_end_when_one_does(tmp_path, how):
    run = fit(tmp_path / "run", *ENDLESS, *(IMPATIENT if "stuck" in how else []))
    second = training(run, tmp_path / "run")
    victim, other = (run.pid, second) if "first" in how else (second, run.pid)
    os.kill(victim, signal.SIGKILL if "killed" in how else signal.SIGSTOP)
    since = time.monotonic()
    while not ended(other) and time.monotonic() - since < 60:
        time.sleep(0.2)
        if other == run.pid:
            run.poll()
    assert ended(other)
    if how == "first stuck":
        os.kill(victim, signal.SIGCONT)  # back to a world where it is alone
    _, errors = run.communicate(timeout=60)
    assert ended(second)
    assert "lost the others" in errors
    assert "Traceback" not in errors
    if "second" in how:
        assert run.returncode == 2


@pytest.mark.slow
def test_a_measurement_that_fails_on_one_process_alone_ends_the_run(tmp_path):
    run = fit(tmp_path / "run", *IMPATIENT, "--trainer.callbacks+", "commands.OutOfMemory")
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "no memory for it" in errors


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_they_stop_together(tmp_path, number, strategy):
    """Ctrl-C, which a terminal sends to all of them, and SIGTERM to the first alone: saved, and said how to go on."""
    words = ["--trainer.strategy", strategy, "--model.penalties", "[]", "--trainer.callbacks+", "RunCheckpoint"]
    run = fit(tmp_path / "run", *ENDLESS, *words, start_new_session=True)
    second = training(run, tmp_path / "run")
    (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
    output, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + number, errors
    assert errors == ""
    assert output.count("--resume auto") == 1
    assert ended(second)
    step = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]
    assert f"stopped after batch {step:,}; saved as of batch {step:,}" in output


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_started_from_a_python_session(start_method, tmp_path):
    """Spawned, and forked as in a notebook: the weights come back to the session."""
    finished(script("session.py", start_method, tmp_path))
    trained, alone = (load(tmp_path / name) for name in ("two.pt", "one.pt"))
    for name, value in alone.items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-6)
