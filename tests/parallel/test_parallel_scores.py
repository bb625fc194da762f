"""Scores of one, two and three processes: the same, of the same images, and nobody waits for anybody."""

import os
import sys
from pathlib import Path

import pytest
import torch
from commands import Pooled, load, process
from conftest import ROOT, SmallMNIST

from gan.callbacks.fid_tracker import latents
from gan.generate import load as load_gan
from gan.metrics.evaluator import Evaluator
from parallel.sharded import make_trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What one, two and three processes have written."""
    folder = tmp_path_factory.mktemp("scores")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}
    env["GAN_CACHE"] = str(folder / "cache")
    started = process([sys.executable, ROOT / "tests" / "parallel" / "scored.py", folder], cwd=ROOT, env=env)
    _, errors = started.communicate(timeout=500)
    assert started.returncode == 0, errors
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [("ddp", 10), ("fsdp2", 10), ("translation", 15)])
@pytest.mark.parametrize("processes", [2, 3])
def test_as_many_processes_as_one_likes_give_the_same_scores(folder, name, number, processes):
    one = load(folder / f"{name}-1-0.pt")
    assert len(one) == number
    for rank in range(processes):
        scores = load(folder / f"{name}-{processes}-{rank}.pt")
        assert scores.keys() == one.keys()
        for metric in one:
            assert scores[metric] == pytest.approx(one[metric], rel=1e-9, abs=1e-9), metric


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_a_run_is_scored_as_on_one_process(folder, processes):
    one = load(folder / "float64-1-0.pt")
    for rank in range(processes):
        result = load(folder / f"float64-{processes}-{rank}.pt")
        assert result["best"] == pytest.approx(one["best"], rel=1e-6)
        assert result["step"] == result["kept"] == one["step"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch norm", "batch norm in shards"])
@pytest.mark.parametrize("processes", [2, 3])
def test_what_is_scored_is_what_is_saved(folder, name, processes):
    """Each process has batch statistics of its own, and a checkpoint those of the first."""
    best = load(folder / f"{name}-{processes}-0.pt")["best"]
    run_dir = folder / f"{name}-{processes}"
    gan = load_gan(str(run_dir / "checkpoints" / "best.ckpt"))
    if name == "batch norm in shards":
        gan.to(memory_format=torch.contiguous_format)
    data = SmallMNIST(batch_size=12, validation_size=16)
    trainer = make_trainer(run_dir, 1)
    trainer.strategy.connect(gan)
    evaluator = Evaluator(Pooled(), data.train_dataloader(), data.test_dataloader())
    generated = evaluator.generate(lambda number: gan(latents(gan, "curve", number)), 280)
    assert best == pytest.approx(generated.fid, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_a_run_in_shards_is_scored(folder, processes):
    results = [load(folder / f"fsdp2 run-{processes}-{rank}.pt") for rank in range(processes)]
    assert all(result == results[0] for result in results)
    assert results[0]["step"] == results[0]["kept"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_images_that_are_nan_on_one_process_have_no_score_on_any(folder, processes):
    assert {load(folder / f"broken-{processes}-{rank}.pt") for rank in range(processes)} == {6}
