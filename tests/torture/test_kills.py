"""Runs of eight configs that are killed at a hook, at a write, at any moment or in their end, and go on."""

import os
import random
import signal
import time

import pytest
from test_resume import LATE, KillAt, age, check_same

from torture.conftest import count
from torture.runs import CONFIGS, STEPS, at_each_write, go_to_the_end, start, status, words_of, writes_of

KILLS = 100
KINDS = ("hook", "write", "moment", "end")
HOOKS = [
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_validation_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_end",
    "on_save_checkpoint",
]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_hook(rng, run_dir, words, whole) -> int:
    return start(run_dir, words, callbacks=[KillAt(rng.choice(HOOKS), rng.randrange(STEPS + 1))])


def at_write(rng, run_dir, words, whole) -> int:
    """Before it is done, and after the one before it."""
    number, done = rng.randrange(len(whole["writes"])), []

    def one_more(*what) -> None:
        done.append(what)
        if len(done) > number:
            kill()

    return start(run_dir, words, lambda: at_each_write(run_dir.parent, one_more))


def at_moment(rng, run_dir, words, whole) -> int:
    pid = start(run_dir, words)
    time.sleep(rng.uniform(0, whole["seconds"]))
    os.kill(pid, signal.SIGKILL)
    return pid


def in_end(rng, run_dir, words, whole) -> int:
    """After one of the things that are done there."""
    cls, name = rng.choice(list(LATE.values()))
    method = getattr(cls, name)

    def then_die(*args):
        method(*args)
        kill()

    return start(run_dir, words, lambda: setattr(cls, name, then_die))


KILL = dict(zip(KINDS, (at_hook, at_write, at_moment, in_end), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_killed_and_resumed(config, tmp_path, monkeypatch, figure):
    """Each a kill that came in time, as an exit status tells; what did not is tried again with another number."""
    own = CONFIGS.index(config)
    number = max(1, count(KILLS * (own + 1)) // len(CONFIGS) - count(KILLS * own) // len(CONFIGS))
    monkeypatch.chdir(tmp_path)
    words, whole = words_of(config), tmp_path / "whole" / "run"
    whole.parent.mkdir()
    go_to_the_end(whole.parent / "first", words)  # what is loaded or measured once is there for the others
    begin = time.monotonic()
    known = {"writes": writes_of(whole, words), "seconds": time.monotonic() - begin}
    with figure(f"kills, {config}") as counted:
        done = seed = 0
        while done < number:
            seed += 1
            rng = random.Random(f"{config} {seed}")
            kind = KINDS[(done + own) % len(KINDS)]
            run_dir = tmp_path / f"{seed}" / "run"
            run_dir.parent.mkdir()
            if status(KILL[kind](rng, run_dir, words, known)) != -signal.SIGKILL:
                assert seed < 5 * KILLS
                continue
            done += 1
            with counted.case(f"{kind}, {seed}"):
                age(run_dir)
                go_to_the_end(run_dir, words)
                check_same(whole, run_dir)
