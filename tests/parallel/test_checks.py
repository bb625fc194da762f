"""Strategies and settings that would train two networks in turn wrongly are refused by name, with the way out."""

from argparse import Namespace

import pytest
import torch
from commands import fit
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from gan.parallel import check_settings, check_strategy
from gan.parallel.checks import check_devices
from parallel.processes import refused


def check(strategy, precision="32-true") -> None:
    clipping = {"gradient_clip_val": None, "gradient_clip_algorithm": None}
    devices = {"accelerator": "cpu", "devices": 2, "accumulate_grad_batches": 1}
    check_settings(Namespace(strategy=strategy, precision=precision, **devices, **clipping))


@pytest.mark.parametrize(
    ("strategy", "word"),
    [
        ("fsdp", "FSDP1"),
        ("fsdp_cpu_offload", "FSDP1"),
        (Namespace(class_path="lightning.pytorch.strategies.FSDPStrategy"), "FSDP1"),
        (Namespace(class_path="lightning.pytorch.strategies.ModelParallelStrategy"), "tensor parallel"),
    ],
)
def test_refuses_settings_that_are_not_fsdp2(strategy, word):
    with pytest.raises(ValueError, match=word):
        check(strategy)


@pytest.mark.parametrize(("strategy", "word"), [(FSDPStrategy, "FSDP1"), (ModelParallelStrategy, "tensor parallel")])
def test_refuses_strategies_that_are_not_fsdp2(strategy, word):
    with pytest.raises(ValueError, match=word):
        check_strategy(Namespace(strategy=strategy()), [])


@pytest.mark.parametrize("strategy", ["fsdp2", Namespace(class_path="gan.parallel.FSDP2")])
def test_refuses_precisions(strategy):
    with pytest.raises(
        ValueError, match=r"trainer\.precision=64-true: set it to one of 32-true, bf16-mixed, bf16-true, "
    ):
        check(strategy, "64-true")
    for precision in ("32-true", "bf16-mixed", "bf16-true", "16-true", 32, None):
        check(strategy, precision)


@pytest.mark.parametrize("strategy", ["auto", "ddp", Namespace(class_path="gan.parallel.DDP")])
def test_lets_others_pass(strategy):
    check(strategy, "64-true")


@pytest.mark.parametrize("strategy", ["fsdp", "lightning.pytorch.strategies.ModelParallelStrategy"])
def test_command_line_refuses(tmp_path, capsys, strategy):
    with pytest.raises(SystemExit, match="2"):
        fit(tmp_path / "run", "--trainer.strategy", strategy)
    assert capsys.readouterr().err.startswith(f"error: trainer.strategy={strategy.split('.')[-1]}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.strategy", "fsdp"], "is FSDP1, which cannot save two networks that step in turn: set it to fsdp2"),
        (["--trainer.strategy", "ddp_spawn"], "on the command line use ddp"),
        (["--trainer.strategy", "ddp_notebook"], "on the command line use ddp"),
        (["--trainer.strategy", "dpp"], "trainer.strategy=dpp is not known: set it to auto, ddp or fsdp2"),
        (["--trainer.strategy", "gan.parallel.DPP"], "trainer.strategy=gan.parallel.DPP is not known"),
        *((["--trainer.devices", devices], f"trainer.devices={devices} must be") for devices in ("-1", "0", "0,1")),
        (["--trainer.devices", "-1", "--trainer.accelerator", "auto"], "trainer.devices=-1 must be"),
        (["--trainer.accumulate_grad_batches", "2"], "use model.accumulate"),
        (["--trainer.check_val_every_n_epoch", "0"], "trainer.check_val_every_n_epoch must be above 0, got 0"),
        (["--trainer.val_check_interval", "0.0"], "trainer.val_check_interval must be above 0, got 0"),
        (["--trainer.sync_batchnorm", "true", "--trainer.strategy", "ddp"], "needs GPUs"),
        (["--model.accumulate", "0"], "model.accumulate must be at least 1"),
    ],
)
def test_refused_by_name(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    refused(capsys, message, "--trainer.accelerator", "cpu", "--run_dir", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


def test_gpus_may_be_listed_or_all_taken(monkeypatch):
    for there, accelerator in ((False, "gpu"), (True, "auto"), (True, "cuda")):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda there=there: there)
        for devices in (-1, "-1", "0,1", [0, 1], "auto"):
            check_devices(Namespace(accelerator=accelerator, devices=devices))


def test_lightnings_own_ddp_is_refused(make_gan, make_trainer, data):
    from lightning.pytorch.strategies import DDPStrategy

    with pytest.raises(ValueError, match=r"DDPStrategy cannot train two networks in turn: take ddp"):
        make_trainer(strategy=DDPStrategy(), devices=1).fit(make_gan(), data)
