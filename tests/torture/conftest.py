"""Figures: of so many cases of a kind, so many came out right. A run of the suite ends with a table of them.

`TORTURE=0.1 pytest -n 0 -m slow tests/torture` tries a tenth of each kind.
"""

import math
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from _pytest.outcomes import Failed

SHARE = float(os.environ.get("TORTURE", "1"))


def count(number: int) -> int:
    """As many cases as are asked for."""
    return math.ceil(SHARE * number)


class Figure:
    """How many cases of a kind came out right, and what went wrong in the others."""

    def __init__(self, kind: str):
        self.kind, self.right, self.wrong = kind, 0, []

    @contextmanager
    def case(self, name: object) -> Iterator[None]:
        """One of them: right, unless something is raised in it. Those after it have their turn in any case."""
        try:
            yield
        except (Exception, Failed, SystemExit):
            self.wrong.append(f"{self.kind}, {name}:\n{traceback.format_exc(limit=-3)}")
            print(self.wrong[-1], flush=True)
        else:
            self.right += 1


@pytest.fixture
def figure(record_property) -> Callable:
    """`with figure(kind) as counted`: whatever is counted in there goes into the table, and all must be right."""

    @contextmanager
    def counting(kind: str) -> Iterator[Figure]:
        counted = Figure(kind)
        try:
            yield counted
        finally:
            record_property("figure", (kind, counted.right, counted.right + len(counted.wrong)))
        assert not counted.wrong, f"{len(counted.wrong)} cases, each printed where it failed"
        assert counted.right, f"no case of {kind}"

    return counting


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, [])]
    properties = [
        value for report in reports for name, value in getattr(report, "user_properties", []) if name == "figure"
    ]
    if properties:
        terminalreporter.section(f"right, at {SHARE:g} of the counts")
        for kind, right, number in properties:
            terminalreporter.line(f"{kind:50} {right:4} of {number:4}")
