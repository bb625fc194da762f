"""What an experiment is made of: tables, and checks."""

import math

import numpy as np
import pytest

from gan.lab.experiment import Check, Table


def test_table():
    table = Table("name", "x", "y")
    table.add(name="a", x=np.arange(3), y=[0.5, 1.5, 2.5])
    table.add(name="b", x=7, y=math.inf)
    assert len(table) == 4
    assert table["name"].tolist() == ["a", "a", "a", "b"]
    assert table.where(name="a", x=1)["y"].tolist() == [1.5]
    assert [(name, len(rows)) for name, rows in table.groups("name")] == [("a", 3), ("b", 1)]
    with pytest.raises(AssertionError, match="columns are"):
        table.add(name="a", x=1)


@pytest.mark.parametrize(
    ("check", "passed", "asked"),
    [
        (Check("x", 1.0, above=0.5), True, "> 0.5"),
        (Check("x", 0.5, above=0.5), False, "> 0.5"),
        (Check("x", 1.0, below=0.5), False, "< 0.5"),
        (Check("x", 1.0, above=0, below=2), True, "0 to 2"),
        (Check("x", 3.0, above=0, below=2), False, "0 to 2"),
        (Check("x", math.nan, above=0, below=2), False, "0 to 2"),
        (Check("x", math.inf, above=0), False, "> 0"),
    ],
)
def test_check(check, passed, asked):
    assert (check.passed, check.asked) == (passed, asked)


def test_a_check_asks_something():
    with pytest.raises(AssertionError, match="nothing is asked"):
        Check("x", 1.0)
