"""What an experiment leaves in its folder: figure, data, verdict, and the same for TensorBoard."""

import io
import json
import math
import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gan.lab.experiment import Check, Experiment, Result, Table
from gan.lab.figures import STYLE
from gan.outbox import Outbox


class Report(NamedTuple):
    """One run of an experiment."""

    experiment: Experiment
    result: Result
    seed: int
    seconds: float


def write(report: Report, folder: Path, outbox: Outbox) -> None:
    """Writes `figure.png`, `figure.svg`, a CSV file for each table, `verdict.json` and TensorBoard events.

    What an earlier run has left there under these names is replaced.

    Args:
        report: What to write.
        folder: Where to.
        outbox: What writes, now or when it can.
    """
    from matplotlib import rc_context

    figure, files = report.experiment.figure(report.result), {}
    with rc_context(STYLE):
        for form, settings in (("png", {"dpi": 200}), ("svg", {"metadata": {"Date": None}})):
            content = io.BytesIO()
            figure.savefig(content, format=form, **settings)
            files[f"figure.{form}"] = content.getvalue()
    files |= {f"{name}.csv": table.csv().encode() for name, table in report.result.tables.items()}
    text = json.dumps(verdict(report), indent=2, ensure_ascii=False, allow_nan=False)
    files["verdict.json"] = f"{text}\n".encode()
    for name, content in files.items():
        outbox.write(folder / name, content)
    log(report, folder, files["figure.png"], outbox)


def verdict(report: Report) -> dict[str, Any]:
    """Each check with its threshold and value, and what they were measured with."""
    import torch

    return {
        "experiment": report.experiment.name,
        "passed": not report.result.failed,
        "checks": [
            {
                "what": check.what,
                "value": plain(check.value),
                "above": plain(check.above),
                "below": plain(check.below),
                "passed": check.passed,
            }
            for check in report.result.checks
        ],
        "seed": report.seed,
        "seconds": round(report.seconds, 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def plain(number: float) -> float | str:
    """A number as JSON has it, which knows no infinity and no NaN: those become "inf", "-inf" and "nan"."""
    return number if math.isfinite(number) else str(number)


def log(report: Report, folder: Path, figure: bytes, outbox: Outbox) -> None:
    """Figure, curves, the values of the checks and the text, for TensorBoard."""
    from gan.events import EventWriter

    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    experiment, result = report.experiment, report.result
    with EventWriter(folder, outbox=outbox) as writer:
        writer.add_image("figure", pixels(figure), dataformats="HWC")
        for check in result.checks:
            writer.add_scalar(f"checks/{check.what}", check.value)
        for name, table in result.tables.items():
            if "step" in table.columns:
                log_curves(writer, name, table)
        text = [f"# {experiment.title}", *experiment.explanation, experiment.reference, markdown(result.checks)]
        writer.add_text("explanation", "\n\n".join(text))


def log_curves(writer: Any, name: str, table: Table) -> None:
    """Each number of a table over its `step`, one curve for each combination of its strings."""
    kinds = [column for column, values in table.columns.items() if isinstance(values[0], str)]
    numbers = [column for column in table.columns if column not in kinds and column != "step"]
    for row in zip(*table.columns.values(), strict=True):
        values = dict(zip(table.columns, row, strict=True))
        for column in numbers:
            tag = "/".join([name, column, *(values[kind] for kind in kinds)])
            writer.add_scalar(tag, values[column], round(values["step"]))


def markdown(checks: list[Check]) -> str:
    """The checks as a Markdown table."""
    rows = [f"| {c.what} | {c.asked} | {c.value:.4g} | {'pass' if c.passed else '**fail**'} |" for c in checks]
    return "\n".join(["| check | asked | measured | |", "|---|---|---|---|", *rows])


def pixels(png: bytes) -> np.ndarray:
    """(H, W, 3), uint8."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))
