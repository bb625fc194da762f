"""What an experiment is made of, and what comes out of one: tables of data, and checks."""

import ast
import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gan.lab import EXPERIMENTS

Progress = Callable[[float], None]  # told from time to time which fraction is done, 0 to 1


def silent(fraction: float) -> None:
    """Progress that nobody looks at."""


class Table:
    """Rows under named columns, as in a CSV file.

    Args:
        columns: Their names.
    """

    def __init__(self, *columns: str) -> None:
        self.columns: dict[str, list] = {column: [] for column in columns}

    def add(self, **values: Any) -> None:
        """Adds one row, or as many as the arrays among the values are long; single values are repeated.

        Args:
            values: For each column a number, a string, or an array, tensor or sequence of them.
        """
        assert values.keys() == self.columns.keys(), f"the columns are {list(self.columns)}, not {list(values)}"
        for column, array in zip(values, np.broadcast_arrays(*map(np.atleast_1d, values.values())), strict=True):
            assert array.ndim == 1, f"column {column} has shape {array.shape}"
            self.columns[column].extend(array.tolist())

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, column: str) -> np.ndarray:
        return np.array(self.columns[column])

    def where(self, **values: Any) -> "Table":
        """The rows that have these values."""
        kept = np.ones(len(self), dtype=bool)
        for column, value in values.items():
            kept &= self[column] == value
        return self._rows(kept)

    def groups(self, column: str) -> Iterator[tuple[Any, "Table"]]:
        """Each value of a column, in order of first appearance, with its rows."""
        for value in dict.fromkeys(self.columns[column]):
            yield value, self.where(**{column: value})

    def csv(self) -> str:
        """The table as a CSV file has it."""
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow(self.columns)
        writer.writerows(zip(*self.columns.values(), strict=True))
        return file.getvalue()

    def _rows(self, kept: np.ndarray) -> "Table":
        table = Table(*self.columns)
        table.columns = {
            name: [v for v, keep in zip(column, kept, strict=True) if keep] for name, column in self.columns.items()
        }
        return table


@dataclass(frozen=True)
class Check:
    """A claim as a number and where it must lie, ends excluded; NaN lies nowhere.

    Args:
        what: The number in words, with its unit, such as "test accuracy at depth 40".
        value: What was measured.
        above: It must be larger than this.
        below: And smaller than this.
    """

    what: str
    value: float
    above: float = -math.inf
    below: float = math.inf

    def __post_init__(self) -> None:
        for name in ("value", "above", "below"):
            object.__setattr__(self, name, float(getattr(self, name)))  # a tensor has gone no further than here
        assert self.above > -math.inf or self.below < math.inf, f"nothing is asked of {self.what}"

    @property
    def passed(self) -> bool:
        return self.above < self.value < self.below

    @property
    def asked(self) -> str:
        """Where the value must lie, in words."""
        if self.above == -math.inf:
            return f"< {self.below:.4g}"
        return f"> {self.above:.4g}" if self.below == math.inf else f"{self.above:.4g} to {self.below:.4g}"


class Result(NamedTuple):
    """What came out of a run. Tables with a column `step` are curves, which TensorBoard shows as such."""

    tables: dict[str, Table]
    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]


class Experiment(NamedTuple):
    """One file of this package, loaded."""

    name: str
    title: str
    explanation: list[str]  # paragraphs
    mathematics: str
    reference: str
    run: Callable[..., Result]
    figure: Callable[[Result], Any]


def load(name: str) -> Experiment:
    """The experiment of a name in `EXPERIMENTS`."""
    module: ModuleType = import_module(f"gan.lab.{name}")
    paragraphs = [" ".join(lines.split()) for lines in title_and_rest(name)[1].split("\n\n")]
    return Experiment(
        name, title_of(name), paragraphs, module.MATHEMATICS.strip(), module.REFERENCE, module.run, module.figure
    )


def title_of(name: str) -> str:
    """Its title, read without running its file, which would load torch."""
    return title_and_rest(name)[0]


def title_and_rest(name: str) -> tuple[str, str]:
    assert name in EXPERIMENTS
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring
    title, _, rest = docstring.partition("\n\n")
    return title.strip().removesuffix("."), rest.strip()
