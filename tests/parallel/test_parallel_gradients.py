"""Clipping on two processes gives the weights of one, and what is not finite on one of them is known to both."""

import sys
from pathlib import Path

import pytest
import torch
from commands import process
from conftest import ROOT

from parallel.gradient_callbacks import ALL, CLIPS, FAILURES, STRATEGIES, WHERE

NAMES = {
    "image": "real image 3 of the batch",
    "weight": "generator.hidden2.weight",
    "activation": "the output of discriminator.hidden2, in the forward pass",
    "loss": "the loss of the discriminator",
    "gradient": "the gradient of discriminator.hidden2.weight, in the backward pass",
}


def script(folder, *words) -> list[dict]:
    """What each process of the script has seen."""
    words = [sys.executable, Path(__file__).with_name("gradient_callbacks.py"), folder, *words]
    run = process(["env", f"PYTHONPATH={ROOT}:{ROOT / 'tests'}", *map(str, words)])
    _, errors = run.communicate(timeout=400)
    assert run.returncode == 0, errors
    return [torch.load(folder / f"two-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gradients")


@pytest.fixture(scope="module")
def two(folder) -> list[dict]:
    return script(folder)


@pytest.mark.slow
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_clips_as_one_process_does(folder, two, strategy, clip):
    precision = STRATEGIES[strategy][1]
    one = torch.load(folder / "one.pt", weights_only=True)[precision, clip]
    tolerance = 1e-12 if precision == "64-true" else 1e-6
    for key, value in one["weights"].items():
        for rank in range(2):
            torch.testing.assert_close(two[rank][strategy, clip]["weights"][key], value, rtol=0, atol=tolerance)
    for key, moved in one["moved"].items():
        assert moved > 1e-5 or one["weights"][key].ndim < 2 or key == "fixed_latents"
    logged = [row for row in one["rows"] if "grad_norm/generator" in row]
    assert [row["step"] for row in logged] == [2, 4, 6, 8, 10]
    for network in ("generator", "discriminator"):
        assert sum(row[f"clip_rate/{network}"] for row in logged) > 1  # it was at work
    for row, other in zip(one["rows"], two[0][strategy, clip]["rows"], strict=True):
        assert row == pytest.approx(other, rel=1e-3 if precision == "32-true" else 1e-9)
    assert two[0][strategy, clip]["state"] == two[1][strategy, clip]["state"]


def told(where: str, rank: int, strategy: str) -> str:
    """Where the numbers went bad. An average over the processes is nobody's own."""
    own = "" if where == "gradient" and strategy == "ddp" else f" (process {rank})"
    return f"first to go bad: {NAMES[where]}{own}"


def test_every_failure_is_injected_on_every_process():
    assert sorted(ALL.values()) == sorted((where, rank) for where in WHERE for rank in range(2))
    ends = [place for kind in ("raise", "raise too") for _, plan in FAILURES[kind] for place in plan.values()]
    assert sorted(ends) == sorted(ALL.values())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rollback(two, strategy):
    first, second = (results[strategy, "rollback"][0] for results in two)
    for run in (first, second):
        assert run["outcome"] == "done"
        assert run["steps"] == max(ALL) + 3
        assert run["finite"]
        # A bad activation is met by both networks.
        assert run["counts"] == {"discriminator": 10, "generator": 2}
        assert run["row"]["non_finite/discriminator"] == 10
    for batch, (where, rank) in ALL.items():
        said = [line for line in first["said"] if line.startswith(f"batch {batch + 1}: ")]
        assert len(said) == (2 if where == "activation" else 1)
        for line in said:
            assert told(where, rank, strategy) in line
            assert f"back to the state after batch {batch} (try 1 of 1)" in line
    assert second["said"] == []  # one line for all
    if strategy == "ddp":
        for weight, other in zip(first["weights"], second["weights"], strict=True):
            assert torch.equal(weight, other)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_skip(two, strategy):
    """It goes on until a weight is bad, whichever process has it."""
    for rank, (run, other) in enumerate(zip(*(results[strategy, "skip"] for results in two), strict=True)):
        assert told("weight", rank, strategy) in run["outcome"]
        assert "No skipped step heals weights" in run["outcome"]
        assert (other["outcome"], other["counts"]) == (run["outcome"], run["counts"])
    run = two[0][strategy, "skip"][0]
    places = [(batch, *place) for batch, place in ALL.items() if place[0] != "weight"]
    for batch, where, rank in places:
        said = [line for line in run["said"] if line.startswith(f"batch {batch + 1}: ")]
        assert said
        for line in said:
            assert told(where, rank, strategy) in line
            assert line.endswith("; the step is skipped")
    assert run["steps"] == 36  # the batch of the weight did not come to its end
    assert run["counts"] == {"discriminator": 9, "generator": 2}
    assert two[1][strategy, "skip"][0]["finite"]  # whose weights were left alone


def check_raise(results: list[dict], strategy: str, kind: str) -> None:
    for number, (_, plan) in enumerate(FAILURES[kind]):
        ((where, rank),) = plan.values()
        for each in results:
            run = each[strategy, kind][number]
            assert run["outcome"].startswith("batch 5: the gradient of the discriminator is not finite; first to")
            assert told(where, rank, strategy) in run["outcome"]
            assert run["steps"] == 4
            assert run["counts"] == {"discriminator": 1, "generator": 0}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_raise(two, strategy):
    check_raise(two, strategy, "raise")


@pytest.mark.slow
def test_raise_for_the_other_process_too(tmp_path):
    results = script(tmp_path, "all")
    for strategy in STRATEGIES:
        for kind in ("raise", "raise too"):
            check_raise(results, strategy, kind)
