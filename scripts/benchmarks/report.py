"""How a figure is given: the machine and the versions above it, the median, and the range it was in."""

import platform
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from operator import truediv
from pathlib import Path
from statistics import median

import lightning
import torch


def machine() -> None:
    """Prints the processor, where Linux tells its name, its threads, and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    print(f"machine   {processor}, {torch.get_num_threads()} threads, {platform.system()} {platform.machine()}")
    print(f"versions  Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}")


def spread(values: Iterable[float], form: str = "{:.3f}") -> str:
    """Median, least and most."""
    values = list(values)
    return f"{form} ({form} to {form})".format(median(values), min(values), max(values))


def ratios(values: Iterable[float], base: Iterable[float]) -> list[float]:
    """Of values to those that were measured beside them."""
    return list(map(truediv, values, base))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def resident() -> float:
    """Memory of this process, in MB, as Linux has it."""
    status = Path("/proc/self/status")
    if not status.exists():
        sys.exit("memory over time is read from /proc, which Linux alone has")
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+)", status.read_text(encoding="utf-8"))
    return int(kilobytes) / 1e3
