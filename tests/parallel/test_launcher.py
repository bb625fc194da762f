"""Processes that were started together end together, and say why."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from commands import load
from lightning import Trainer

from gan.parallel import DDP, FSDP2
from gan.parallel.launcher import Launcher
from parallel import kills
from parallel.processes import finished, fit, script

KILLS = int(os.environ.get("GAN_KILLS", "8"))  # one of each phase; their numbers are their seeds


def training(run: subprocess.Popen, run_dir: Path) -> int:
    """Waits until both processes train. Returns the id of the second one."""
    for _ in range(600):
        if (run_dir / "metrics.csv").is_file():
            (child,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text(encoding="utf-8").split()
            return int(child)
        assert run.poll() is None, run.communicate()
        time.sleep(0.2)
    raise AssertionError("training did not begin")


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z"
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


# -- each by itself, without a training ---------------------------------------------------------------------------

NO_END = "process 1 was killed by signal 9, since it had not ended 0.5 s after this one"
NO_ANSWER = (
    "one has ended, or did not answer for {} s (the strategy's patience). What that one printed says why; here it"
)
ENDINGS = {  # the status of the first process, and what is said last
    "both end": (0, ""),
    "other fails at its end": (3, "error: process 1 ended with status 3\n"),
    "other killed at its end": (137, "error: process 1 was killed by signal 9\n"),
    "other hangs at its end": (137, f"error: {NO_END}\n"),
    "other fails, first waits": (3, "error: process 1 ended with status 3\n"),
    "other killed, first waits": (143, "error: process 1 was killed by signal 15\n"),
    "Ctrl-C, first waits": (130, ""),
    "Ctrl-C, other hangs": (-signal.SIGINT, "KeyboardInterrupt\n"),
    "lost, other killed": (1, "lost the others: process 1 was killed by signal 9\n"),
    "lost, other stopped": (1, "lost the others: process 1 ended with status 143\n"),
    "lost, other failed": (
        1,
        f"lost the others: {NO_ANSWER.format(60)} was: [gloo/pair.cc] Connection closed by peer\n",
    ),
    "lost, other hangs": (1, f"lost the others: {NO_ANSWER.format(0.5)} was: Broken pipe\n"),
    "a bug, other fails": (1, 'KeyError: "a bug of the user\'s"\n'),
    "first killed": (-signal.SIGKILL, "error in process 1: the process that started it is gone\n"),
    "first killed early": (-signal.SIGKILL, "error in process 1: the process that started it is gone\n"),
}


@pytest.fixture(scope="module")
def endings(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("endings")
    finished(script("endings.py", folder))
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDINGS)
def test_ends_with_the_others(endings, name):
    ending, (status, words) = endings[name], ENDINGS[name]
    assert ending["status"] == status
    assert ending["errors"].endswith(words)
    assert ending["errors"] == words or ending["errors"].startswith("Traceback")  # of what was raised here
    assert ending["alone"]


def test_the_launcher_is_ours():
    for strategy in (DDP(), FSDP2()):
        trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_progress_bar=False)
        assert type(trainer.strategy.launcher) is Launcher


# -- in training --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_nobody_is_left(tmp_path, number):
    """At each phase from start to exit, by SIGKILL and SIGTERM, of one process or both."""
    kill = kills.kill(tmp_path, number)
    assert kill.left == [], kill
    assert "Traceback" not in kill.errors, kill
    assert "cannot measure" not in kill.errors, kill
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    step = load(last)["global_step"] if last.exists() else 0
    if kill.status == 0:  # after its last batch, SIGTERM does not keep a run from ending
        assert kill.how == "SIGTERM" or kill.phase == "any moment", kill
        assert step == kills.STEPS
        assert f"checkpoint     {last}" in kill.output


LATE = "error: process 1 was killed by signal 9, since it had not ended 4 s after this one\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "how", "status", "words"),
    [
        ("train end", "hangs", 2, "lost the others: one has ended, or did not answer for 4 s"),
        ("train end", "fails", 2, "lost the others: one has ended, or did not answer for 4 s"),
        ("exit", "hangs", 137, LATE),
        ("exit", "fails", 1, "error: process 1 ended with status 1\n"),
    ],
)
def test_the_status_tells_of_the_end_of_all(tmp_path, phase, how, status, words):
    """Where the first process has done what is its own to do: its words are the last only where all have."""
    marked = kills.struck(tmp_path, phase, "second", how, *IMPATIENT)
    assert marked.left() == []
    output, errors = marked.run.communicate(timeout=10)
    assert marked.run.returncode == status
    assert words in errors
    assert ("RuntimeError: a bug of the user's" in errors) == (how == "fails")
    assert ("checkpoint  " in output) == (phase == "exit")
    last = load(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert last["global_step"] == kills.STEPS
    assert last.get("ended", False) == (phase == "exit")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_them_at_once(tmp_path):
    """Though one of them may wait for the other just then, which would go on for the ten seconds of grace."""
    run = fit(tmp_path / "run", *ENDLESS, start_new_session=True)
    second = training(run, tmp_path / "run")
    since = time.monotonic()
    for _ in range(2):
        os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.1)
    run.communicate(timeout=60)
    assert time.monotonic() - since < 9
    assert run.returncode == 130
    assert ended(second)


@pytest.mark.slow
def test_ctrl_c_while_the_second_one_starts(tmp_path):
    """The first waits for it, where no signal reaches Python."""
    marked = kills.Marked(tmp_path / "run", start_new_session=True)
    kills.wait(lambda: len(marked.ids()) == 2)
    time.sleep(1)
    since = time.monotonic()
    os.killpg(marked.run.pid, signal.SIGINT)
    _, errors = marked.run.communicate(timeout=60)
    assert time.monotonic() - since < 9
    assert marked.run.returncode == 130
    assert marked.left() == []
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_started_from_a_python_session(start_method, tmp_path):
    """Spawned, and forked as in a notebook: the weights come back to the session."""
    finished(script("session.py", start_method, tmp_path))
    trained, alone = (load(tmp_path / name) for name in ("two.pt", "one.pt"))
    for name, value in alone.items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-6)
