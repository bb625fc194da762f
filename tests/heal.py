"""Whether what the doctor prescribes heals random failures.

    python -m heal --out FOLDER --count 30        the table; what has been run is read from FOLDER
    python -m heal --out FOLDER --seeds 3 17      of these seeds alone, one after the other

A case counts as a failure if its FID ends above twice that of the same kind of networks in their sound form, and the
doctor tells of a condition, or a guard has ended the run.
"""

import argparse
import fcntl
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml
from sick import Case, draw

NOISE = 57.0  # the FID of noise: what a run without a score is taken for
TRIED = 3  # prescriptions of a failure
PARALLEL = 2  # runs side by side


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        folder: Its folder, `run` in which is that of the run.
        refused: Why the command was refused before training; "" if it was not.
        ended: What ended it early; "" if nothing did.
        fids: By batch.
        findings: Of the doctor: name, since, until, why, symptoms, prescriptions.
        seconds: It took.
    """

    folder: Path
    refused: str
    ended: str
    fids: dict[str, float]
    findings: list[dict[str, Any]]
    seconds: float

    @property
    def fid(self) -> float:
        """The latest, infinite where there is none."""
        return list(self.fids.values())[-1] if self.fids else math.inf

    @property
    def present(self) -> list[dict[str, Any]]:
        """The conditions that it ended in."""
        return [finding for finding in self.findings if finding["until"] is None]

    @property
    def said(self) -> str:
        """In a few words."""
        words = [finding["name"] for finding in self.present]
        words += [f"({finding['name']}, over)" for finding in self.findings if finding["until"] is not None]
        return ", ".join(words) or "nothing"


def train(folder: Path, config: dict[str, Any], words: Sequence[str] = ()) -> Result:
    """The result of `fit` with a config and more words; from the folder, if the same has been run there before."""
    file, case, more = (folder / name for name in ("result.json", "case.yaml", "words.json"))
    same = file.exists() and yaml.safe_load(case.read_text(encoding="utf-8")) == config
    if same and json.loads(more.read_text(encoding="utf-8")) == [*words]:
        return Result(folder, **json.loads(file.read_text(encoding="utf-8")))
    from commands import command  # sets a cache of its own
    from lightning import Callback

    from gan.callbacks import FIDTracker, GradientDoctor
    from gan.errors import GANError
    from gan.order import callbacks_of

    class Keep(Callback):
        """Keeps what is asked for at the end, and notes each score."""

        def __init__(self):
            self.began, self.fids, self.doctor = False, {}, None

        def on_train_start(self, trainer, pl_module):
            self.began, (self.doctor,) = True, callbacks_of(trainer, GradientDoctor)
            self.trackers = callbacks_of(trainer, FIDTracker)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            for latest in (tracker.latest for tracker in self.trackers if tracker.latest):
                self.fids[str(int(latest["step"]))] = latest["fid"]

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    more.write_text(json.dumps([*words]), encoding="utf-8")
    if "SICK_CACHE" in os.environ:
        os.environ["GAN_CACHE"] = os.environ["SICK_CACHE"]
    keep, refused, ended, start = Keep(), "", "", time.perf_counter()
    with (folder / "log.txt").open("w", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            whole = ["--config", case, *words, "--run_dir", folder / "run"]
            command("fit", *whole, callbacks=[keep])
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            traceback.print_exc(file=log)
            text = str(error) if isinstance(error, GANError) else f"{type(error).__name__}: {error}"
            refused, ended = ("", text) if keep.began else (text or type(error).__name__, "")
    shutil.rmtree(folder / "run" / "tensorboard", ignore_errors=True)
    findings = keep.doctor.told if keep.doctor else []
    if (path := folder / "run" / "findings.json").exists():
        findings = json.loads(path.read_text(encoding="utf-8"))
    keys = ("name", "since", "until", "why", "symptoms", "prescriptions")
    result = {
        "refused": refused,
        "ended": ended,
        "fids": keep.fids,
        "findings": [{key: finding.get(key, []) for key in keys} for finding in findings],
        "seconds": round(time.perf_counter() - start, 1),
    }
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1), encoding="utf-8")
    part.rename(file)
    return Result(folder, **json.loads(file.read_text(encoding="utf-8")))


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Waits for the other processes that hold a lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]


# ---------------------------------------------------------------------- failures, and what heals them


@dataclass(frozen=True)
class Tried:
    """A prescription, and what came of it."""

    condition: str
    words: list[str]
    result: Result
    healed: bool


@dataclass(frozen=True)
class Judged:
    """A case, and what came of it."""

    case: Case
    sound: Result
    result: Result
    tried: list[Tried]
    cured: bool | None = None  # by `cure`; None if it was not asked

    @property
    def bad(self) -> bool:
        """Whether the run turned out badly."""
        return bool(self.result.ended) or not self.result.fid <= 2 * self.sound.fid

    @property
    def failed(self) -> bool:
        """Whether it turned out badly, and something was told of it."""
        return self.bad and bool(self.result.present or self.result.ended)

    @property
    def by_first(self) -> bool:
        return any(tried.healed for tried in self.tried[:1])

    @property
    def by_one(self) -> bool:
        return any(tried.healed for tried in self.tried)


def prescriptions(result: Result) -> list[tuple[str, list[str]]]:
    """The first distinct ones that are settings, with their condition: those of the first condition first."""
    found: list[tuple[str, list[str]]] = []
    for finding in result.present:
        for each in finding["prescriptions"]:
            if each["settings"] and each["settings"] not in [words for _, words in found]:
                found.append((finding["name"], each["settings"]))
    return found[:TRIED]


def heals(condition: str, new: Result, old: Result, sound: Result) -> bool:
    """Whether a run with a prescription is out of the condition, and much better or good."""
    out = condition not in [finding["name"] for finding in new.present]
    before = old.fid if math.isfinite(old.fid) else NOISE
    return not new.refused and not new.ended and out and (new.fid <= before / 2 or new.fid <= 2 * sound.fid)


def by_command(folder: Path) -> bool:
    """Whether `cure` of a run finds what heals it; from the folder, if it has been asked before."""
    file = folder / "cure.json"
    if not file.exists():
        words = [sys.executable, "-m", "gan.cli", "cure", "--run_dir", folder / "run", "--trust", "strangers"]
        environment = os.environ | {"GAN_CACHE": os.environ.get("SICK_CACHE", os.environ.get("GAN_CACHE", ""))}
        with (folder / "cure.txt").open("w", encoding="utf-8") as log:
            ended = subprocess.run([*map(str, words)], env=environment, stdout=log, stderr=subprocess.STDOUT)
        if ended.returncode not in (0, 1):
            raise RuntimeError(f"{folder / 'cure.txt'}: status {ended.returncode}")
        healed = (folder / "run" / "cure" / "cured.yaml").exists()  # none where it takes the run for well
        if (table := folder / "run" / "cure" / "table.md").exists():
            shutil.copy(table, folder / "cure.md")
        shutil.rmtree(folder / "run" / "cure", ignore_errors=True)
        file.write_text(json.dumps(healed), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def judge(seed: int, out: Path, every: bool = False, cures: bool = True, command: bool = False) -> Judged:
    """Runs a case and its sound form, and where it fails the first prescriptions until one heals, or every one.

    Args:
        seed: Of the case.
        out: The folder of all runs.
        every: Whether to try all of them.
        cures: Whether to try any.
        command: Whether to let `cure` look for what heals, too.
    """
    case = draw(seed)
    folder = out / f"seed-{seed:04}"
    with alone(out / "sound" / f"{digest(case.sound)}.lock"):  # many cases have the same
        sound = train(out / "sound" / digest(case.sound), case.sound)
    judged = Judged(case, sound, train(folder / "failure", case.config), [])
    if not (cures and judged.failed):
        return judged
    for condition, words in prescriptions(judged.result):
        new = train(folder / f"cure-{digest([case.config, words])}", case.config, words)
        judged.tried.append(Tried(condition, words, new, heals(condition, new, judged.result, sound)))
        if judged.by_one and not every:
            break
    return replace(judged, cured=by_command(folder / "failure")) if command else judged


def failures(
    count: int,
    first_seed: int,
    out: Path,
    every: bool = False,
    cures: bool = True,
    command: bool = False,
    parallel: int = PARALLEL,
) -> Iterator[Judged]:
    """All cases from a seed on, in their order, until so many of them have failed; some runs side by side."""
    done: dict[int, Judged] = {}
    waiting: dict[Future[Judged], int] = {}
    next_seed, given, failed = first_seed, first_seed, 0
    with ProcessPoolExecutor(parallel, get_context("spawn")) as pool:
        while failed < count:
            while len(waiting) < parallel:
                waiting[pool.submit(judge, next_seed, out, every, cures, command)] = next_seed
                next_seed += 1
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                done[waiting.pop(future)] = future.result()
            while given in done and failed < count:
                failed += done[given].failed
                yield done[given]
                given += 1
        for future in waiting:
            future.cancel()


# ---------------------------------------------------------------------- words


def row(judged: Judged) -> str:
    """A line of the table."""
    result = judged.result
    said = result.said + (f"; ended: {result.ended[:60]}" if result.ended else "")
    tried = [
        f"{'**' if each.healed else ''}`{' '.join(each.words)}` {each.result.fid:.3g}{'**' if each.healed else ''}"
        + (f" refused: {each.result.refused}" if each.result.refused else "")
        + (f" ({each.result.said})" if not each.healed and each.result.present else "")
        for each in judged.tried
    ]
    healed = "first" if judged.by_first else "one of three" if judged.by_one else "no"
    healed += {None: "", True: ", cure", False: ", not by cure"}[judged.cured]
    cells = [str(judged.case.seed), "; ".join(judged.case.wrong), said, f"{result.fid:.3g}", f"{judged.sound.fid:.3g}"]
    return f"| {' | '.join([*cells, '<br>'.join(tried) or '-', healed])} |"


HEAD = "| seed | wrong | said | FID | sound | tried | healed |\n|---|---|---|---|---|---|---|"


def totals(all_judged: Sequence[Judged]) -> str:
    """What stands under the table."""
    failed = [judged for judged in all_judged if judged.failed]
    unseen = [judged for judged in all_judged if judged.bad and not judged.failed]
    tried = [each for judged in failed for each in judged.tried]
    number = max(1, len(failed))
    lines = [
        f"{len(all_judged)} cases: {len(failed)} failures, {sum(not each.bad for each in all_judged)} well, "
        f"{len(unseen)} bad without a word of the doctor's",
        *(
            f"- unseen: seed {each.case.seed}, FID {each.result.fid:.3g} (sound {each.sound.fid:.3g}): "
            f"{'; '.join(each.case.wrong)}; {each.result.said}"
            for each in unseen
        ),
        f"healed by the first {sum(each.by_first for each in failed) / number:.0%}, by one of {TRIED} "
        f"{sum(each.by_one for each in failed) / number:.0%}; without a prescription to try: "
        f"{sum(not each.tried for each in failed)}; refused {sum(bool(each.result.refused) for each in tried)} of "
        f"{len(tried)}",
    ]
    if asked := [judged for judged in failed if judged.cured is not None]:
        lines.append(f"`cure` heals {sum(bool(judged.cured) for judged in asked) / len(asked):.0%} of {len(asked)}")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> None:
    heal = argparse.ArgumentParser(prog="heal", description=__doc__.splitlines()[0])
    heal.add_argument("--out", type=Path, required=True)
    heal.add_argument("--count", type=int, default=30, help="failures; cases that turn out well are passed over")
    heal.add_argument("--first-seed", type=int, default=0)
    heal.add_argument("--seeds", type=int, nargs="*", help="these alone, in this process")
    heal.add_argument("--all", action="store_true", help="all three prescriptions, though one has healed")
    heal.add_argument("--no-cures", action="store_true", help="failures and their sound forms alone")
    heal.add_argument("--cure", action="store_true", help="let `cure` look for what heals each failure, too")
    heal.add_argument(
        "--fresh", action="store_true", help="run them again, but the sound forms: the doctor has changed"
    )
    heal.add_argument("--parallel", type=int, default=PARALLEL)
    given = heal.parse_args(words)
    out = given.out.absolute()
    os.environ.setdefault("SICK_CACHE", str(out / "cache"))
    if given.fresh:
        seeds = given.seeds or [int(path.name[5:]) for path in out.glob("seed-*")]
        for seed in seeds:
            (out / f"seed-{seed:04}" / "failure" / "result.json").unlink(missing_ok=True)
            for path in out.glob(f"seed-{seed:04}/cure-*/result.json"):
                path.unlink()
            (out / f"seed-{seed:04}" / "failure" / "cure.json").unlink(missing_ok=True)
    start = time.perf_counter()
    print(HEAD, flush=True)
    every, cures = given.all, not given.no_cures
    if given.seeds:
        found = (judge(seed, out, every, cures, given.cure) for seed in given.seeds)
    else:
        found = failures(given.count, given.first_seed, out, every, cures, given.cure, given.parallel)
    all_judged = []
    for judged in found:
        all_judged.append(judged)
        if judged.failed:
            print(row(judged), flush=True)
        else:
            print(f"{judged.case.seed}: {'unseen' if judged.bad else 'well'}", file=sys.stderr, flush=True)
    print(f"\n{totals(all_judged)}\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
