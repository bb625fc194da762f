"""The monitor on two processes: it finds what one process finds in the same batch, and changes nothing."""

import os
import sys
import warnings
from pathlib import Path

import pytest
from commands import equal, load, process
from conftest import ROOT

from gan import GAN
from parallel.monitored import SHARDED, fit, with_penalties


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes have found."""
    folder = tmp_path_factory.mktemp("monitored")
    paths = [str(ROOT), str(ROOT / "tests")]
    settings = {"env": os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}, "cwd": ROOT}
    started = process([sys.executable, ROOT / "tests" / "parallel" / "monitored.py", folder], **settings)
    _, errors = started.communicate()
    assert started.returncode == 0, errors
    return folder


def one(gan: GAN, folder: Path, precision: str) -> list[dict]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(gan, 1, "auto", folder, precision=precision)


def check_close(value, other, rel: float, where: str = "") -> None:
    """Two records, but for their histograms: a rounding may put a norm into the next bin."""
    assert type(value) is type(other), where
    if isinstance(value, dict):
        assert list(value) == list(other), where
        for key in value.keys() - {"histograms"}:
            check_close(value[key], other[key], rel, f"{where}/{key}")
        if "histograms" in value:
            sums = [{name: sum(counts) for name, counts in record["histograms"].items()} for record in (value, other)]
            assert sums[0] == sums[1], where
    elif isinstance(value, list | tuple):
        assert len(value) == len(other), where
        for number, pair in enumerate(zip(value, other, strict=True)):
            check_close(*pair, rel, f"{where}/{number}")
    elif isinstance(value, str):
        assert value == other, where
    elif value is not None:  # `movement`, at first
        assert value == pytest.approx(other, rel=rel, abs=1e-12, nan_ok=True), where


@pytest.mark.slow
def test_all_processes_find_the_same(folder):
    records = [load(folder / f"records-{rank}.pt") for rank in (0, 1)]
    assert records[0].keys() == {"ddp", *SHARDED}
    assert all(len(some) > 1 for some in records[0].values())
    assert equal(*records)


@pytest.mark.slow
def test_two_processes_find_what_one_does(folder, tmp_path):
    """Dead units among them: one that is dead on one process alone is not dead."""
    alone = one(with_penalties(), tmp_path, "64-true")
    together = load(folder / "records-0.pt")["ddp"]
    assert [record["step"] for record in together] == [2, 4]
    assert together[0]["discriminator"]["terms"].keys() == {"adversarial", "r1", "dragan"}
    check_close(together, alone, 1e-9)
    assert 5 / 128 <= alone[0]["generator"]["dead"]["hidden1"] < 8 / 128


@pytest.mark.slow
def test_shards_find_what_one_process_does(folder, tmp_path):
    make, precision = SHARDED["spectral"]
    check_close(load(folder / "records-0.pt")["spectral"], one(make(), tmp_path, precision), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_sharded_training_is_bit_identical_with_and_without(folder, name):
    one, two = (load(folder / which / "last.ckpt") for which in (name, f"{name} alone"))
    assert equal(one["state_dict"], two["state_dict"])
    assert equal(one["optimizer_states"], two["optimizer_states"])
