"""What scores are called, and how they are printed."""

import pytest
from rich.console import Console

from gan.metrics.table import ROWS, scalar, table


@pytest.mark.parametrize("metric", [*ROWS, "fid_floor", "fid_of_best"])
def test_names_make_two_groups(metric):
    """FID's is fixed, and all others stand together wherever names before the first slash make groups."""
    assert scalar(metric, "mnist_cnn").split("/")[0] == ("fid" if metric == "fid" else "scores")
    assert scalar(metric, "mnist_cnn").endswith("/mnist_cnn")


def test_a_table_has_a_row_for_each_score_that_there_is(capsys):
    Console(width=100).print(table({"kid": 0.25, "fid": 1 / 3, "accuracy_score": 0.5}, {"fid": 0.1, "kid": 0.01}))
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines() if "│" in line
    ]
    assert rows == [
        ["FID", "0.333", "0.100"],
        ["KID", "0.25000", "0.01000"],
        ["accuracy of a classifier trained on it", "0.500", ""],
    ]


def test_sources_have_a_column_of_what_is_known_of_them(capsys):
    Console(width=100).print(table({"fid": 0.5, "kid": 0.1, "psnr": 19.123}, {"fid": 0.1}, {"fid": 12, "psnr": 17}))
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line or "┃" in line]
    rows = [[cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]] for line in lines]
    assert rows == [
        ["score", "generated", "real", "source"],
        ["FID", "0.500", "0.100", "12.000"],
        ["KID", "0.10000", "", ""],
        ["PSNR, dB", "19.12", "", "17.00"],
    ]
