"""Runs of the real command, each in one thread."""

import json
import os
import subprocess
import sys
from pathlib import Path

DOOR = Path(__file__).parents[1] / "benchmark.py"


def gan(*words: object, may_fail: bool = False) -> float:
    """Runs a command of ours; the seconds of one core that it took, which other processes hardly change.

    Args:
        *words: Of the command.
        may_fail: Whether it may end with an error.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "gan.cli", *map(str, words)], stdout=subprocess.DEVNULL, env=env()
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status and not may_fail:
        sys.exit("a run has failed")
    return usage.ru_utime + usage.ru_stime


def scored(run_dir: Path, *fit: object) -> dict[str, float]:
    """The scores of a run's last checkpoint, and the seconds of one core that it took; kept in its folder.

    Args:
        run_dir: Folder of the run. One that is scored is left alone, and one that was stopped goes on.
        *fit: Arguments of `fit`.
    """
    kept = run_dir / "scores.json"
    if not kept.exists():
        seconds = gan("fit", "--run_dir", run_dir, "--resume", "auto", *fit)
        score = [sys.executable, str(DOOR), "score", str(run_dir / "checkpoints" / "last.ckpt")]
        scores = json.loads(subprocess.run(score, check=True, capture_output=True, env=env()).stdout.splitlines()[-1])
        kept.write_text(json.dumps(scores | {"seconds": seconds}), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def env() -> dict[str, str]:
    """The environment of one thread, in which classes of these measurements can be named."""
    path = os.pathsep.join(filter(None, [str(DOOR.parent), os.environ.get("PYTHONPATH")]))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
