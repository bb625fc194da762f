"""Two commands that are started at one moment: each has a folder of its own, or one is refused and changes nothing."""

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import SHORT, command, equal, fit, load, table
from test_folder import Forks

from torture.conftest import count

PAIRS = 20
STEPS = 20
WORDS = [*SHORT, "--trainer.max_steps", STEPS]


def new() -> list:
    return []


def one_folder() -> list:
    return ["--run_dir", "run"]


def one_folder_or_go_on() -> list:
    return ["--run_dir", "run", "--resume", "auto"]


def go_on_with_one_run() -> list:
    fit("run", "--trainer.max_steps", "3")
    return ["--run_dir", "run", "--resume", "auto"]


KINDS: tuple[Callable[[], list], ...] = (new, one_folder, one_folder_or_go_on, go_on_with_one_run)


def go(words: list, delay: list[float]) -> None:
    """One of the two, in its own process; what it says as an error is in a file."""
    own = os.getpid()
    time.sleep(delay[own % 2])  # ids follow each other
    errors = os.open(f"errors-{own}", os.O_WRONLY | os.O_CREAT)
    os.dup2(errors, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    command("fit", *WORDS, *words)


@pytest.mark.slow
def test_pairs(tmp_path, monkeypatch, figure):
    rng = random.Random(0)
    monkeypatch.chdir(tmp_path)
    whole = fit("whole", "--trainer.max_steps", STEPS)
    with figure("pairs of runs started together") as counted:
        for number in range(count(PAIRS)):
            kind = KINDS[number % len(KINDS)]
            folder = tmp_path / str(number)
            folder.mkdir()
            monkeypatch.chdir(folder)
            words = kind()
            delay = [0, rng.choice([0, 0, 0.05, 0.3])]
            forks = Forks()
            with counted.case(f"{kind.__name__}, {number}"):
                pids = forks.start(2, lambda: go(words, delay))  # noqa: B023
                statuses = sorted(forks.status(pid) for pid in pids)
                check(
                    kind,
                    statuses,
                    [Path(f"errors-{pid}").read_text(encoding="utf-8") for pid in pids],
                    tmp_path / whole,
                )


def check(kind: Callable[[], list], statuses: list[int], errors: list[str], whole: Path) -> None:
    if kind is new:
        assert (statuses, errors) == ([0, 0], ["", ""])
        (name,) = Path("runs").iterdir()
        runs = list(name.iterdir())
        assert len(runs) == 2
    else:
        runs = [Path("run")]
        if statuses != [0, 0]:  # else the second one came after the end of the first: nothing was left to do for it
            assert statuses == [0, 2], errors
            (reason,) = filter(None, errors)
            assert reason.startswith("error: --run_dir run is in use by a run that is going on, process ")
            assert reason.count("\n") == 1
        else:
            assert kind is not one_folder, "both have trained in one folder"
            assert errors == ["", ""]
    for run_dir in runs:
        assert table(run_dir) == table(whole.parents[1])
        one, two = load(run_dir / "checkpoints" / "last.ckpt"), load(whole)
        assert equal(one["state_dict"], two["state_dict"])
        assert equal(one["optimizer_states"], two["optimizer_states"])
        assert not list(run_dir.rglob("*.partial"))
