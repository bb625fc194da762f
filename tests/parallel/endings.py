"""How processes end with each other: `python endings.py FOLDER`. Each case is a fork of its own, for an import in all.

A case starts this file again, as a launcher would start a command again, with a word that says how that one ends.
"""

import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__" and len(sys.argv) > 2:  # the other process of a case; it imports nothing that takes time
    word = sys.argv[2]
    if word.isdigit():
        time.sleep(0.3)
        sys.exit(int(word))
    if word == "hangs":
        time.sleep(100)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), getattr(signal, word))

import gc
import json
import select
from collections.abc import Callable
from functools import partial

from lightning.fabric.plugins.environments import LightningEnvironment
from torch.distributed import DistNetworkError

from gan.parallel import launcher


def nothing() -> None:
    """What was launched is done at once. What else it had started would not have to end with this process."""
    assert launcher.PARENT not in os.environ


def hang() -> None:
    nothing()
    time.sleep(100)


def fails(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        time.sleep(0.5)
        raise error

    return function


CLOSED = RuntimeError("[gloo/pair.cc] Connection closed by peer")
LONG, SHORT = 60.0, 0.5
# What the first process does, how the other one ends, and the seconds that they have for it, but after Ctrl-C.
CASES: dict[str, tuple[Callable[[], None], str, float]] = {
    "both end": (nothing, "0", LONG),
    "other fails at its end": (nothing, "3", LONG),
    "other killed at its end": (nothing, "SIGKILL", LONG),
    "other hangs at its end": (nothing, "hangs", SHORT),
    "other fails, first waits": (hang, "3", SHORT),
    "other killed, first waits": (hang, "SIGTERM", SHORT),
    "Ctrl-C, first waits": (hang, "SIGINT", LONG),
    "Ctrl-C, other hangs": (fails(KeyboardInterrupt()), "hangs", LONG),
    "lost, other killed": (fails(CLOSED), "SIGKILL", LONG),
    "lost, other stopped": (fails(CLOSED), "143", LONG),
    "lost, other failed": (fails(CLOSED), "3", LONG),
    "lost, other hangs": (fails(DistNetworkError("Broken pipe")), "hangs", SHORT),
    "a bug, other fails": (fails(KeyError("a bug of the user's")), "3", LONG),
}


def launch(environment: LightningEnvironment, function: Callable[[], None], seconds: float) -> None:
    launcher.GRACE, launcher.HURRY = seconds, SHORT
    launcher.Launcher(environment, 2, 1, patience=seconds).launch(function)


def first(function: Callable[[], None], word: str, seconds: float) -> None:
    """The process that starts the other one."""
    sys.argv[2:] = [word]
    launch(LightningEnvironment(), function, seconds)


def killed(late: float) -> None:
    """A process that is killed, and the other one as it would have started it, which looks so many seconds late."""
    parent = os.getpid()
    if os.fork():
        time.sleep(0.3)
        os.kill(parent, signal.SIGKILL)
    time.sleep(late)
    os.environ |= {"LOCAL_RANK": "1", launcher.PARENT: str(parent)}
    environment = LightningEnvironment()
    environment.set_global_rank(1)
    launch(environment, hang, SHORT)


def start(case: Callable[[], None], errors: Path) -> tuple[int, int]:
    """A case in a process of its own, with its words in `errors`: its id, and what is open as long as somebody is."""
    output, theirs = os.pipe()
    number = os.fork()
    if number:
        os.close(theirs)
        return number, output
    os.setpgid(0, 0)
    os.dup2(theirs, 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    os.close(theirs)
    case()
    sys.exit()


def end(number: int, output: int, until: float) -> dict:
    """The status of a case, and whether nobody is left of it; no status where it does not end in time."""
    ended, status = os.waitpid(number, os.WNOHANG)
    while not ended and time.monotonic() < until:
        time.sleep(0.05)
        ended, status = os.waitpid(number, os.WNOHANG)
    alone = bool(ended and select.select([output], [], [], 5)[0])
    if not alone:
        os.killpg(number, signal.SIGKILL)
    return {"status": os.waitstatus_to_exitcode(status) if ended else None, "alone": alone}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    gc.freeze()  # what was imported is not to be gone through at the end of each case
    cases = {name: partial(first, *case) for name, case in CASES.items()}
    cases |= {"first killed": partial(killed, 0), "first killed early": partial(killed, 1)}
    started = {name: start(case, folder / name) for name, case in cases.items()}
    until = time.monotonic() + 30
    results = {
        name: end(*case, until) | {"errors": (folder / name).read_text(encoding="utf-8")}
        for name, case in started.items()
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
