"""Several processes train what one would have trained, send no more than they must, and end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import FAST, MLPS, SMALL, command, equal, load, process, table
from conftest import ROOT
from lightning import Callback
from torch import nn

from gan.parallel import DDP
from parallel.cases import CASES, OTHERS, STEPS

SHAPE = (1, 28, 28)
FLOAT64 = ["--trainer.precision", "64-true"]  # where training does not blow rounding up, which differs by processor
TWO = ["--trainer.devices", "2", "--trainer.accelerator", "cpu"]


def script(name, *words, by=(sys.executable,)) -> subprocess.Popen:
    """A script beside this file, in a process of its own."""
    return process(["env", f"PYTHONPATH={ROOT / 'tests'}", *by, str(Path(__file__).with_name(name)), *map(str, words)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All cases on one process, and on two, of which the second reports too."""
    folder = tmp_path_factory.mktemp("parallel")
    runs = [script("cases.py", folder, devices) for devices in (1, 2)]
    for run in runs:
        _, errors = run.communicate(timeout=500)
        assert run.returncode == 0, errors
    return [load(folder / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt")]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(trained, name):
    one, two, second = (results[name] for results in trained)
    assert len(one["losses"]) == STEPS
    assert len(one["gradients"]) == STEPS + STEPS // CASES[name].get("n_critic", 1)
    for row, other in zip(one["losses"], two["losses"], strict=True):
        assert row.keys() == other.keys()
        assert list(row.values()) == pytest.approx(list(other.values()), rel=1e-9, abs=1e-9)
    for gradient, other in zip(one["gradients"], two["gradients"], strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-9)
    assert any(key.startswith("generator_ema.") for key in one["weights"])
    for key, value in one["weights"].items():
        torch.testing.assert_close(value, two["weights"][key], rtol=0, atol=1e-9)
        assert torch.equal(second["weights"][key], two["weights"][key])  # to the bit, and for ever


@pytest.mark.parametrize("name", ["NonSaturating", "GradientPenalty", "n_critic", "accumulate", "fully connected"])
def test_each_step_reduces_its_own_network_once(trained, name):
    """Besides, Lightning asks in each batch whether to stop, and logging takes the mean of the scalars."""
    run = trained[1][name]
    discriminator, generator = run["sizes"]
    n_critic = CASES[name].get("n_critic", 1)
    for batch, (wire, row) in enumerate(zip(run["wire"], run["losses"], strict=True)):
        steps = [("all_reduce", discriminator)] + [("all_reduce", generator)] * ((batch + 1) % n_critic == 0)
        logged = [("barrier", 0), ("all_reduce", len(row) - 1)]
        assert wire == [("broadcast", 1), *steps, *logged]


@pytest.mark.parametrize("name", OTHERS)
def test_processes_agree_to_the_bit(trained, name):
    """Batch norm's running averages too, which each process has its own of until they are used."""
    _, two, second = (results[name]["weights"] for results in trained)
    assert equal(two, second)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's SyncBatchNorm needs a GPU")
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


def fit(run_dir, *words, **settings) -> subprocess.Popen:
    words = ["fit", "--config", FAST, *MLPS, *SMALL, *TWO, "--run_dir", run_dir, *words]
    return process([sys.executable, "-m", "gan.cli", *map(str, words)], cwd=ROOT / "tests", **settings)


def finished(run: subprocess.Popen) -> tuple[str, str]:
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    return output, errors


def test_two_devices_by_one_flag(tmp_path):
    """Nothing but the number: one run folder, every line once, and the weights of one process with the whole batch."""
    output, errors = finished(fit(tmp_path / "two", *FLOAT64))
    one = ["--data.batch_size", "16", "--run_dir", tmp_path / "one", *FLOAT64]
    command("fit", "--config", FAST, *MLPS, *SMALL, *one)
    assert errors == ""
    assert output.count("device         2 x CPU, 1 threads") == 1
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


def training(run: subprocess.Popen, run_dir: Path) -> int:
    """Waits until both processes train. Returns the id of the second one."""
    for _ in range(600):
        if (run_dir / "metrics.csv").is_file():
            (child,) = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            return int(child)
        assert run.poll() is None, run.communicate()
        time.sleep(0.2)
    raise AssertionError("training did not begin")


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


ENDLESS = ["--trainer.max_steps", "1000000", "--trainer.log_every_n_steps", "10"]
IMPATIENT = ["--trainer.strategy", "gan.parallel.DDP", "--trainer.strategy.patience", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["first killed", "second killed", "first stuck", "second stuck"])
def test_the_others_end_when_one_does(tmp_path, how):
    run = fit(tmp_path / "run", *ENDLESS, *(IMPATIENT if "stuck" in how else []))
    second = training(run, tmp_path / "run")
    victim, other = (run.pid, second) if "first" in how else (second, run.pid)
    os.kill(victim, signal.SIGKILL if "killed" in how else signal.SIGSTOP)
    since = time.monotonic()
    while not ended(other) and time.monotonic() - since < 60:
        time.sleep(0.2)
        if other == run.pid:
            run.poll()
    assert ended(other)
    if how == "first stuck":
        os.kill(victim, signal.SIGCONT)  # back to a world where it is alone
    _, errors = run.communicate(timeout=60)
    assert ended(second)
    assert "lost the others" in errors
    assert "Traceback" not in errors
    if "second" in how:
        assert run.returncode == 2


@pytest.mark.slow
def test_a_measurement_that_fails_on_one_process_alone_ends_the_run(tmp_path):
    run = fit(tmp_path / "run", *IMPATIENT, "--trainer.callbacks+", "commands.OutOfMemory")
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "no memory for it" in errors


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_they_stop_together(tmp_path, number, strategy):
    """Ctrl-C, which a terminal sends to all of them, and SIGTERM to the first alone: saved, and said how to go on."""
    words = ["--trainer.strategy", strategy, "--model.penalties", "[]", "--trainer.callbacks+", "RunCheckpoint"]
    run = fit(tmp_path / "run", *ENDLESS, *words, start_new_session=True)
    second = training(run, tmp_path / "run")
    (os.killpg if number == signal.SIGINT else os.kill)(run.pid, number)
    output, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + number, errors
    assert errors == ""
    assert output.count("--resume auto") == 1
    assert ended(second)
    step = load(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]
    assert f"stopped after batch {step:,}; saved as of batch {step:,}" in output


def test_patience_ends_within_a_minute():
    assert DDP().patience + 10 < 60  # the wait, and the grace for those that are left


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


def refused(capsys, message, *words) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("fit", "--config", FAST, *MLPS, *words)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.strategy", "fsdp"], "is FSDP1, which cannot save two networks that step in turn: set it to fsdp2"),
        (["--trainer.strategy", "ddp_spawn"], "on the command line use ddp"),
        (["--trainer.strategy", "ddp_notebook"], "on the command line use ddp"),
        (["--trainer.accumulate_grad_batches", "2"], "use model.accumulate"),
        (["--trainer.sync_batchnorm", "true", "--trainer.strategy", "ddp"], "needs GPUs"),
        (["--model.accumulate", "0"], "model.accumulate must be at least 1"),
    ],
)
def test_refused_by_name(capsys, tmp_path, words, message):
    refused(capsys, message, "--trainer.accelerator", "cpu", "--run_dir", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


# -- in Python ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_started_from_a_python_session(start_method, tmp_path):
    """Spawned, and forked as in a notebook: the weights come back to the session."""
    finished(script("session.py", start_method, tmp_path))
    trained, alone = (load(tmp_path / name) for name in ("two.pt", "one.pt"))
    for name, value in alone.items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-6)


def test_lightnings_own_ddp_is_refused(make_gan, make_trainer, data):
    from lightning.pytorch.strategies import DDPStrategy

    with pytest.raises(ValueError, match=r"DDPStrategy cannot train two networks in turn: take ddp"):
        make_trainer(strategy=DDPStrategy(), devices=1).fit(make_gan(), data)


def test_find_unused_parameters_is_ignored_with_a_word():
    with pytest.warns(UserWarning, match="find_unused_parameters is ignored"):
        DDP(find_unused_parameters=True)


@pytest.mark.slow
def test_averaging_keeps_layouts_types_and_silent_parameters(tmp_path):
    """On two processes: channels_last, two dtypes, a parameter that none uses and one that a single process uses."""
    finished(script("gradients.py", tmp_path, by=["torchrun", "--standalone", "--nproc_per_node", "2"]))
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()
