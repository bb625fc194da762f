"""Runs of two processes, of which one or all are killed at an event or at a moment, and what is left of them."""

import os
import random
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lightning import Callback

from parallel.processes import fit

# From the start of a command to its end. "start" is a while after both processes are there, the others are events.
PHASES = ("start", "setup", "measurement", "training", "checkpoint", "train end", "exit", "any moment")
VICTIMS = ("first", "second", "all")
STEPS = 20
LIMIT = 60  # seconds after which nobody is to be left


class Strike(Callback):
    """Hits one of the processes, or all, when the run comes to a phase: by a signal, an exception, or a hang."""

    def __init__(self, phase: str, victim: str, how: str, mark: str):
        self.phase, self.victim, self.how, self.mark = phase, victim, how, Path(mark)

    def strike(self, trainer, phase: str) -> None:
        if phase != self.phase or self.victim not in ("all", ("first", "second")[trainer.global_rank]):
            return
        self.phase = ""  # once
        self.mark.touch()
        if self.how == "fails":
            raise RuntimeError("a bug of the user's")
        if self.how == "hangs":
            time.sleep(1000)
        os.kill(os.getpid(), getattr(signal, self.how))

    def setup(self, trainer, pl_module, stage):
        self.strike(trainer, "setup")

    def on_train_start(self, trainer, pl_module):
        # What first runs a network in training is the first measurement, before the first batch.
        pl_module.discriminator.register_forward_pre_hook(lambda *_: self.strike(trainer, "measurement"))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == STEPS // 2:
            self.strike(trainer, "training")

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.strike(trainer, "checkpoint")

    def on_train_end(self, trainer, pl_module):
        self.strike(trainer, "train end")

    def teardown(self, trainer, pl_module, stage):
        self.strike(trainer, "exit")


class Marked:
    """A run whose processes, and those that they start, can be told by a variable of their environment."""

    def __init__(self, run_dir: Path, *words, **settings):
        name, value = "GAN_TEST_MARK", uuid.uuid4().hex
        self.variable = f"{name}={value}".encode()
        os.environ[name] = value
        try:
            self.run = fit(run_dir, *words, **settings)
        finally:
            del os.environ[name]

    def ids(self) -> list[int]:
        """Those that are there, without zombies."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:  # gone, or somebody else's
                continue
            if self.variable in variables:
                found.append(int(folder.name))
        return found

    def left(self, seconds: float = LIMIT) -> list[int]:
        """Who is there after so many seconds, unless all have gone before; and ends those."""
        until = time.monotonic() + seconds
        while self.ids() and time.monotonic() < until:
            self.run.poll()
            time.sleep(0.2)
        left = self.ids()
        for number in left:
            os.kill(number, signal.SIGKILL)
        return left


def struck(folder: Path, phase: str, victim: str, how: str, *words) -> Marked:
    """A run that Strike is waiting in. Comes back when it has struck, or when the run is over."""
    settings = {"phase": phase, "victim": victim, "how": how, "mark": folder / "struck"}
    own = [f"--trainer.callbacks.{name}={value}" for name, value in settings.items()]
    words = [*words, "--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.every=15"]
    marked = Marked(folder / "run", *words, "--trainer.callbacks+=parallel.kills.Strike", *own)
    wait(lambda: (folder / "struck").exists() or marked.run.poll() is not None)
    return marked


def wait(until: Callable[[], bool]) -> None:
    for _ in range(600):
        if until():
            return
        time.sleep(0.2)
    raise AssertionError("nothing happened in two minutes")


@dataclass
class Kill:
    """What has been killed when and how, and what came of it."""

    phase: str
    victim: str
    how: str
    status: int
    left: list[int]
    output: str
    errors: str


def kill(folder: Path, number: int) -> Kill:
    """The kill of that number: at each phase in turn, else at random."""
    rng = random.Random(number)
    phase, victim, how = PHASES[number % len(PHASES)], rng.choice(VICTIMS), rng.choice(("SIGKILL", "SIGTERM"))
    if phase in ("start", "any moment"):
        marked = Marked(folder / "run")
        if phase == "start":
            wait(lambda: len(marked.ids()) == 2)
            time.sleep(rng.uniform(0, 5))
        else:
            time.sleep(rng.uniform(0, 15))
        first = marked.run.pid
        others = [other for other in marked.ids() if other != first]
        for one in {"first": [first], "second": others or [first], "all": [first, *others]}[victim]:
            with suppress(ProcessLookupError):
                os.kill(one, getattr(signal, how))
    else:
        marked = struck(folder, phase, victim, how)
    left = marked.left()
    output, errors = marked.run.communicate(timeout=10)
    return Kill(phase, victim, how, marked.run.returncode, left, output, errors)
