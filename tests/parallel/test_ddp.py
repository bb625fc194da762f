"""Several processes train what one would have trained, send no more than they must, and end together."""

import socket
import sys

import pytest
import torch
from commands import FAST, MLPS, SMALL, command, equal, load, process, table
from conftest import ROOT
from lightning import Callback
from torch import nn

from gan.parallel import DDP
from parallel.cases import CASES, OTHERS, STEPS
from parallel.processes import TWO, finished, fit, refused, script

SHAPE = (1, 28, 28)
QUICK = ["NonSaturating", "GradientPenalty", "n_critic", "accumulate", "extragradient", "fully connected"]
FLOAT64 = ["--trainer.precision", "64-true"]  # where training does not blow rounding up, which differs by processor


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request):
    """The cases that tests are about, on one process, and on two, of which the second reports too."""
    folder = tmp_path_factory.mktemp("parallel")
    here = [item for item in request.session.items if item.module is request.module]
    tests = [item for item in here if "trained" in item.fixturenames]
    names = sorted({item.callspec.params["name"] for item in tests})
    runs = [script("cases.py", folder, devices, *names) for devices in (1, 2)]
    for run in runs:
        _, errors = run.communicate(timeout=500)
        assert run.returncode == 0, errors
    return [load(folder / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt")]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_two_processes_equal_one(trained, name):
    one, two, second = (results[name] for results in trained)
    assert len(one["losses"]) == STEPS
    looks = 2 if "extragradient" in CASES[name] else 1
    assert len(one["gradients"]) == looks * (STEPS + STEPS // CASES[name].get("n_critic", 1))
    for row, other in zip(one["losses"], two["losses"], strict=True):
        assert row.keys() == other.keys()
        assert list(row.values()) == pytest.approx(list(other.values()), rel=1e-9, abs=1e-9)
    for gradient, other in zip(one["gradients"], two["gradients"], strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-9)
    assert any(key.startswith("generator_ema.") for key in one["weights"])
    for key, value in one["weights"].items():
        torch.testing.assert_close(value, two["weights"][key], rtol=0, atol=1e-9)
        assert torch.equal(second["weights"][key], two["weights"][key])  # to the bit, and for ever


@pytest.mark.parametrize("name", QUICK)
def test_each_step_reduces_its_own_network_once(trained, name):
    """Besides, Lightning asks in each batch whether to stop, and logging takes the mean of the scalars."""
    run = trained[1][name]
    discriminator, generator = run["sizes"]
    n_critic, looks = CASES[name].get("n_critic", 1), 2 if "extragradient" in CASES[name] else 1
    for batch, (wire, row) in enumerate(zip(run["wire"], run["losses"], strict=True)):
        steps = [("all_reduce", discriminator)] + [("all_reduce", generator)] * ((batch + 1) % n_critic == 0)
        logged = [("barrier", 0), ("all_reduce", len(row) - 1)]
        assert wire == [("broadcast", 1), *steps * looks, *logged]


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_processes_agree_to_the_bit(trained, name):
    """Batch norm's running averages too, which each process has its own of until they are used."""
    _, two, second = (results[name]["weights"] for results in trained)
    assert equal(two, second)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's SyncBatchNorm needs a GPU, and CUDA_VISIBLE_DEVICES")
def test_sync_batchnorm_by_flag(tmp_path):
    devices = min(2, torch.cuda.device_count())
    seen = []

    class Look(Callback):
        def on_train_end(self, trainer, pl_module):
            seen.extend(type(module) for module in pl_module.generator.modules())

    words = ["--trainer.accelerator", "gpu", "--trainer.devices", devices, "--trainer.strategy", "ddp"]
    words += ["--trainer.sync_batchnorm", "true", "--run_dir", tmp_path / "run"]
    command("fit", "--config", FAST, *words, callbacks=[Look()])
    assert nn.SyncBatchNorm in seen
    assert nn.BatchNorm2d not in seen


# -- the command ------------------------------------------------------------------------------------------------


def test_two_devices_by_one_flag(tmp_path):
    """Nothing but the number: one run folder, every line once, and the weights of one process with the whole batch."""
    output, errors = finished(fit(tmp_path / "two", *FLOAT64))
    one = ["--data.batch_size", "16", "--run_dir", tmp_path / "one", *FLOAT64]
    command("fit", "--config", FAST, *MLPS, *SMALL, *one)
    assert errors == ""
    assert output.count("device         2 x CPU, 1 thread,") == 1
    assert output.count("batch 20/20") == 1
    one, two = (load(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("one", "two"))
    assert two["global_step"] == one["global_step"] == 20
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=0, atol=1e-9)
    tables = [table(tmp_path / run) for run in ("one", "two")]
    assert [row["step"] for row in tables[0]] == ["1", "5", "10", "15", "20"]
    assert tables[0][0]["gradients/image_gradient"]  # the monitor's, and the losses after it
    assert all(row["loss/generator"] for row in tables[0][1:])
    for rows in zip(*tables, strict=True):
        one, two = ({name: float(value) for name, value in row.items() if value} for row in rows)
        assert two == pytest.approx(one, rel=0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("first", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_goes_on_with_another_number_of_processes(tmp_path, first):
    """In the middle of an epoch, with batches as large as before: as one process would have gone on."""
    words = ["--trainer.max_steps", "50", "--data.validation_size", "16", "--trainer.log_every_n_steps", "1"]
    words += FLOAT64
    command("fit", "--config", FAST, *MLPS, *SMALL, *words, "--data.batch_size", 16, "--run_dir", tmp_path / "one")
    run = tmp_path / "run"
    finished(fit(run, *words, "--trainer.max_steps", 40, "--trainer.devices", first, "--data.batch_size", 16 // first))
    then = 3 - first
    again = ["--resume", "auto", "--trainer.max_steps", 50, "--trainer.devices", then, "--data.batch_size", 16 // then]
    output, _ = finished(fit(run, *again))
    assert f"processes      {first} -> {then}: goes on correctly from batch 40, but not bit for bit as before" in output
    assert "images/batch" not in output
    one, two = (load(folder / "checkpoints" / "last.ckpt") for folder in (tmp_path / "one", run))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_default_folder_is_one_for_all(tmp_path):
    words = [sys.executable, "-m", "gan.cli", "fit", "--config", FAST, *MLPS, *TWO, "--trainer.max_steps", "2"]
    words += ["--trainer.logger", "false", "--data.batch_size", "4"]
    finished(process(words, cwd=tmp_path))
    (folder,) = (tmp_path / "runs" / "fast").iterdir()
    assert (folder / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
def test_two_torchrun_nodes_over_loopback(tmp_path):
    """As on two machines with a device each: the same bits as two devices of one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--config", FAST, *MLPS, *SMALL, "--trainer.accelerator", "cpu", "--run_dir", str(tmp_path / "nodes")]
    words += ["--trainer.num_nodes", "2", "--trainer.devices", "1"]
    nodes = []
    for rank in range(2):
        launch = ["torchrun", "--nnodes", "2", "--node_rank", rank, "--nproc_per_node", "1"]
        launch += ["--master_addr", "127.0.0.1", "--master_port", port, "-m", "gan.cli", "fit", *words]
        nodes.append(process([*map(str, launch)], cwd=ROOT / "tests"))
    outputs = [finished(node)[0] for node in nodes]
    assert "2 x CPU" in outputs[0]
    assert "batch" not in outputs[1]  # one of them speaks
    finished(fit(tmp_path / "devices"))
    nodes, devices = (load(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("nodes", "devices"))
    assert equal(nodes["state_dict"], devices["state_dict"])
    assert equal(nodes["optimizer_states"], devices["optimizer_states"])


def test_processes_from_outside_need_one_folder(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for name, value in {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    refused(capsys, "need one folder for all: set --run_dir", "--trainer.num_nodes", "2")


# -- in Python ---------------------------------------------------------------------------------------------------


def test_find_unused_parameters_is_ignored_with_a_word():
    with pytest.warns(UserWarning, match="find_unused_parameters is ignored"):
        DDP(find_unused_parameters=True)


@pytest.mark.slow
def test_averaging_keeps_layouts_types_and_silent_parameters(tmp_path):
    """On two processes: channels_last, two dtypes, a parameter that none uses and one that a single process uses."""
    finished(script("gradients.py", tmp_path, by=["torchrun", "--standalone", "--nproc_per_node", "2"]))
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()
