"""Runs beside a run: what they do otherwise, their processes side by side, and how each has ended."""

import csv
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from gan.config import as_text
from gan.errors import GANError
from gan.folder import RunFolder
from gan.resume import has_checkpoint
from gan.trust import PACKAGE

KEPT = "trial.json"  # in the folder of a trial: what it is and, when it has ended, what it cost
CONFIG, OUTPUT = "trial.yaml", "output.txt"
FINDINGS = "findings.json"
PROMPT = "\n$ "  # before a command, in what its run has said
PATIENCE = 60.0  # seconds that a run has to save when it is stopped
LOOK = 0.2  # seconds between two looks at what runs


@dataclass(frozen=True)
class Trial:
    """A short run that does something otherwise than another one.

    Args:
        settings: Words that say what, behind its config.
        config: All other settings, as plain data.
        begin: The batch that it goes on from; 0 for a run from the start.
        end: The batch that it ends after.
        checkpoint: Of the batch that it goes on from.
    """

    settings: tuple[str, ...]
    config: dict[str, Any]
    begin: int
    end: int
    checkpoint: Path | None = None

    @property
    def batches(self) -> int:
        """Training batches."""
        return self.end - self.begin

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from all others, as plain data."""
        digest = hashlib.blake2b(as_text(self.config).encode(), digest_size=16).hexdigest()
        return {"settings": [*self.settings], "begin": self.begin, "end": self.end, "config": digest}


@dataclass
class Outcome:
    """What came of a trial.

    Args:
        folder: Of its run.
        settings: What it did otherwise.
        begin: The batch that it went on from.
        batches: That it trained.
        fid: Of its last batch; None if there is none.
        says: The conditions that its doctor tells of, and that are not over.
        seconds: That it took; None for the run itself, which was there.
        failure: Why it did not come to its end; None if it did.
    """

    folder: Path
    settings: tuple[str, ...]
    begin: int = 0
    batches: int = 0
    fid: float | None = None
    says: list[str] = field(default_factory=list)
    seconds: float | None = None
    failure: str | None = None


# ---------------------------------------------------------------------- what the folder of a run tells


def findings_in(run_dir: Path) -> list[dict[str, Any]] | None:
    """What the doctor of a run has written down; None if there is no such file.

    Raises:
        GANError: If it is not as a doctor writes it.
    """
    path = run_dir / FINDINGS
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GANError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(map(is_finding, found)):
        raise GANError(f"{path} is damaged: it is no list of findings as GradientDoctor writes it. Train the run anew")
    return found


def is_finding(found: Any) -> bool:
    """Whether something is a finding with its prescriptions, as plain data."""
    match found:
        case {"name": str(), "since": int(), "until": int() | None, "prescriptions": list(prescriptions)}:
            return all(map(is_prescription, prescriptions))
    return False


def is_prescription(found: Any) -> bool:
    """Whether something is a prescription, as plain data."""
    match found:
        case {"settings": list(words), "text": str()}:
            return all(isinstance(word, str) for word in words)
    return False


def rows_of(run_dir: Path) -> dict[int, dict[str, str]]:
    """The rows of a run's table, by batches completed; none where there is no table."""
    try:
        with (run_dir / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return {int(row["step"]): row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()}
    except (OSError, UnicodeDecodeError):
        return {}


def fids_in(run_dir: Path) -> dict[int, float]:
    """The FID of a run by batches completed, of its first tracker; empty without one."""
    rows = rows_of(run_dir)
    name = next((name for row in rows.values() for name in row if name and name.startswith("fid/")), "")
    scored = {step: float(row[name]) for step, row in rows.items() if row.get(name)}
    return {step: fid for step, fid in scored.items() if isfinite(fid)}


def told_at(findings: Sequence[dict[str, Any]], batch: int) -> list[str]:
    """The conditions that were told and not over after a batch."""
    return [
        found["name"]
        for found in findings
        if found["since"] <= batch and (found["until"] is None or found["until"] > batch)
    ]


# ---------------------------------------------------------------------- folders of trials


def folder_of(trial: Trial, parent: Path) -> Path:
    """The folder of a trial: that in which it was begun or ended before, or a new one by the next number."""
    numbered = sorted((path for path in parent.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    for folder in numbered:
        kept = kept_in(folder)
        if {name: kept.get(name) for name in trial.key} == trial.key:
            return folder
    folder = parent / str(int(numbered[-1].name) + 1 if numbered else 1)
    folder.mkdir()
    (folder / CONFIG).write_text(as_text(trial.config), "utf-8")
    keep(folder, trial.key)
    return folder


def kept_in(folder: Path) -> dict[str, Any]:
    """What a folder says of its trial; nothing if it is of none."""
    try:
        kept = json.loads((folder / KEPT).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def keep(folder: Path, kept: dict[str, Any]) -> None:
    """Writes down what a trial is, whole or not at all."""
    partial = folder / f"{KEPT}.partial"
    partial.write_text(json.dumps(kept, indent=2), "utf-8")
    partial.replace(folder / KEPT)


def is_over(folder: Path) -> bool:
    """Whether a trial has come to its end."""
    return kept_in(folder).get("status") == 0


def outcome_of(trial: Trial, folder: Path) -> Outcome:
    """What came of a trial whose process has ended."""
    kept = kept_in(folder)
    fids = fids_in(folder)
    outcome = Outcome(folder, trial.settings, trial.begin, seconds=kept.get("seconds", 0.0))
    outcome.batches = max(0, batch_in(folder) - trial.begin, max(rows_of(folder), default=0) - trial.begin)
    if kept.get("status") != 0:
        outcome.failure = failure_of(folder, kept.get("status", 1))
    elif fids:
        outcome.fid = fids[max(fids)]
    try:
        findings = findings_in(folder)
    except GANError as error:
        outcome.failure = outcome.failure or str(error)
        return outcome
    if findings is None:
        outcome.failure = outcome.failure or "its doctor has written nothing down"
    else:
        outcome.says = [found["name"] for found in findings if found["until"] is None]
    return outcome


def batch_in(folder: Path) -> int:
    """The batch that a run has come to, by what it says of itself."""
    said = re.findall(r"^(?:batch ([\d,]+)/|ended +after batch ([\d,]+):)", output_of(folder), re.MULTILINE)
    return max((int((one or other).replace(",", "")) for one, other in said), default=0)


def output_of(folder: Path) -> str:
    """What a run has said so far."""
    try:
        return (folder / OUTPUT).read_text("utf-8", "replace")
    except OSError:
        return ""


def failure_of(folder: Path, status: int) -> str:
    """Why a run has failed, in a line: its own error, the last line of a traceback, or what has ended it."""
    if status == -signal.SIGKILL:
        return "killed from outside, as systems do that run out of memory"
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    _, *lines = output_of(folder).rpartition(PROMPT)[2].splitlines() or [""]
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if line.startswith("error")]
    return (errors or said or [f"status {status}"])[-1].removeprefix("error: ")


# ---------------------------------------------------------------------- processes


def command_of(trial: Trial, folder: Path, trust: Sequence[str]) -> list[str]:
    """The words of a trial's `fit`; one that has saved something goes on from there."""
    if has_checkpoint(folder):
        words = ["--run_dir", str(folder), "--resume", "auto"]
    else:
        words = ["--config", str(folder / CONFIG), *trial.settings, "--run_dir", str(folder)]
        words += ["--resume", str(trial.checkpoint)] if trial.checkpoint is not None else []
    return ["fit", *words, *(word for package in trust for word in ("--trust", package))]


def start(trial: Trial, folder: Path, trust: Sequence[str], jobs: int) -> subprocess.Popen[bytes]:
    """Starts the process of a trial, which sees the modules that this one sees, and its share of the cores."""
    unsafe = [] if not sys.flags.safe_path else ["-P"]
    words = [sys.executable, *unsafe, "-m", f"{PACKAGE}.cli", *command_of(trial, folder, trust)]
    env = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}
    env.pop("GAN_RUN_DIR", None)  # of a run within this process
    if jobs > 1:
        env["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // jobs))
    with (folder / OUTPUT).open("ab") as output:
        output.write(f"{PROMPT}{shlex.join(words)}\n".encode())
        output.flush()
        # In a session of its own: a terminal's Ctrl-C reaches it once, from here.
        return subprocess.Popen(
            words, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def side_by_side(
    trials: Sequence[tuple[Trial, Path]],
    jobs: int,
    trust: Sequence[str],
    look: Callable[[int], None],
    say: Callable[[str], None],
) -> Iterator[Outcome]:
    """Runs trials, so many at a time, and gives each as it ends; those that have ended before, at once.

    A trial that a process of an earlier command is still at work on is waited for.

    Args:
        trials: With their folders.
        jobs: Processes at a time.
        trust: Packages that they may import.
        look: Told from time to time how many batches are done of those that run.
        say: Told what is waited for.
    """
    waiting = []
    for trial, folder in trials:
        if is_over(folder):
            yield outcome_of(trial, folder)
        else:
            waiting.append((trial, folder))
            if not is_free(folder):
                say(f"waiting        {folder}: a process of an earlier command is still at work there")
    running: dict[Path, tuple[Trial, subprocess.Popen[bytes], float]] = {}
    with ending(running):
        while waiting or running:
            free = [each for each in waiting if is_free(each[1])] if len(running) < jobs else []
            for trial, folder in free[: jobs - len(running)]:
                waiting.remove((trial, folder))
                running[folder] = trial, start(trial, folder, trust, jobs), time.monotonic()
            time.sleep(LOOK)
            for folder, (trial, process, since) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[folder]
                note_end(folder, process.returncode, time.monotonic() - since)
                yield outcome_of(trial, folder)
            look(sum(max(0, batch_in(folder) - trial.begin) for folder, (trial, _, _) in running.items()))


def is_free(folder: Path) -> bool:
    """Whether no process is at work in the folder of a run."""
    try:
        RunFolder(str(folder)).close()
    except GANError:
        return False
    return True


def note_end(folder: Path, status: int, seconds: float) -> None:
    """Writes down how a process of a trial has ended, and what it took, with those before it."""
    kept = kept_in(folder)
    keep(folder, kept | {"status": status, "seconds": kept.get("seconds", 0.0) + seconds})


@contextmanager
def ending(running: dict[Path, tuple[Trial, subprocess.Popen[bytes], float]]) -> Iterator[None]:
    """Sees to it that no process is left behind, whatever ends this one: each may save what it has come to.

    What a signal ends is noted neither as finished nor as failed: it goes on with the next command.
    """
    in_main = threading.current_thread() is threading.main_thread()  # elsewhere signals are not ours to handle
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if in_main and hasattr(signal, name)]
    before = {number: signal.signal(number, lambda number, frame: sys.exit(128 + number)) for number in numbers}
    try:
        yield
    finally:
        try:
            for _, process, _ in running.values():
                tell(process, signal.SIGINT)
            deadline = time.monotonic() + PATIENCE
            for folder, (_, process, since) in running.items():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                kept = kept_in(folder)
                keep(folder, kept | {"seconds": kept.get("seconds", 0.0) + time.monotonic() - since})
        finally:
            for _, process, _ in running.values():
                tell(process, signal.Signals(getattr(signal, "SIGKILL", signal.SIGTERM)))
            for number, handler in before.items():
                signal.signal(number, handler)


def tell(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Sends a signal to a process and to those that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        if process.poll() is not None:
            return
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
