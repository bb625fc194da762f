"""The table of failures: each run that fails, what its doctor says of it, and the same run with its cure."""

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.runs import gan
from gan.run import CONFIGS
from gan.trials import fids_in, findings_in

FAILURES = [path.stem for path in sorted((CONFIGS / "failures").glob("*.yaml"))]
PAGE = Path(__file__).parents[2] / "docs" / "gradients.md"
BEGIN, END = "<!-- table of failures -->", "<!-- end of it -->"
HEADER = (
    "| `configs/failures/` | the fault | what the doctor says | FID | what it prescribes first | FID, cured | seconds |"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--configs", nargs="+", default=FAILURES, metavar="NAME", help="names in configs/failures/")
    parser.add_argument("--at_once", type=int, default=2, help="runs at a time, each in one thread")
    parser.add_argument("--out", type=Path, default=Path("runs/failures"), help="folder of the runs; whole ones stay")


def measure(settings: argparse.Namespace) -> None:
    with ThreadPoolExecutor(settings.at_once) as pool:
        runs = [pool.submit(both, settings.out, name) for name in settings.configs]
        rows = [row(name, *run.result()) for name, run in zip(settings.configs, runs, strict=True)]
    print(f"failures  {settings.at_once} runs at a time, each in one thread; FID of the last batch\n")
    table = "\n".join([HEADER, re.sub(r"[^|]+", "---", HEADER), *rows])
    print(table)
    if set(settings.configs) == set(FAILURES):
        PAGE.write_text(with_table(PAGE.read_text("utf-8"), table), "utf-8")
        print(f"\nwritten into {PAGE}")
    else:
        print(f"\nnot written into {PAGE}: it is for all of them")


def both(out: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What came of a failure, and of the same with its cure."""
    failure, cure = CONFIGS / "failures" / f"{name}.yaml", CONFIGS / "cures" / f"{name}.yaml"
    return ended(out / name, failure), ended(out / f"{name}-cured", failure, cure)


def ended(run_dir: Path, *configs: Path) -> dict[str, Any]:
    """The FID of a run's last batch, its findings, and the seconds of one core that it took; kept in its folder."""
    kept = run_dir / "seconds.json"
    if not kept.exists():
        words = [word for config in configs for word in ("--config", config)]
        # One that dies of a NaN fails as it should.
        seconds = gan("fit", "--run_dir", run_dir, "--resume", "auto", *words, may_fail=True)
        kept.write_text(json.dumps(seconds), encoding="utf-8")
    fids = fids_in(run_dir)
    found = {"fid": fids[max(fids)] if fids else None, "findings": findings_in(run_dir) or []}
    return found | {"seconds": json.loads(kept.read_text("utf-8"))}


def row(name: str, failed: dict[str, Any], cured: dict[str, Any]) -> str:
    """A row of the table."""
    present = [finding for finding in failed["findings"] if finding["until"] is None] or failed["findings"]
    names = ", ".join(finding["name"] for finding in present) or "nothing wrong"
    first = next((each for finding in present for each in finding["prescriptions"]), None)
    prescribed = "" if first is None else f"`{shlex.join(first['settings'])}`" if first["settings"] else first["text"]
    fids = ["none" if run["fid"] is None else f"{run['fid']:.2g}" for run in (failed, cured)]
    cells = (f"`{name}.yaml`", fault(name), names, fids[0], prescribed, fids[1], f"{failed['seconds']:.0f}")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def fault(name: str) -> str:
    """What is wrong in a failure, by the first words of its config's comment."""
    lines = (CONFIGS / "failures" / f"{name}.yaml").read_text("utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines[1:] if line.startswith("#"))
    first = re.split(r"[.:](?: |$)", comment, maxsplit=1)[0]
    return first[:1].lower() + first[1:]


def with_table(page: str, table: str) -> str:
    """A page with the table between its marks.

    Args:
        page: Its text.
        table: In Markdown.
    """
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def names_on(page: str) -> Sequence[str]:
    """The failures that the table of a page has rows for."""
    return re.findall(r"^\| `(\w+)\.yaml` \|", page.partition(BEGIN)[2].partition(END)[0], re.MULTILINE)
