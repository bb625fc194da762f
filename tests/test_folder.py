"""The folder of a run: one run at a time, whoever comes when, and no trace of those that never began."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import SHORT, TRUSTED, At, command, equal, fit, load, process, resume, table
from conftest import ROOT
from lightning.pytorch.utilities import rank_zero_only

from gan import folder
from gan.folder import LOCK, RunFolder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Forks:
    """Processes that begin at one moment."""

    def __init__(self):
        self.pids: list[int] = []

    def start(self, number: int, action: Callable[[], object]) -> list[int]:
        ready, go = os.pipe(), os.pipe()
        for _ in range(number):
            self.pids.append(os.fork())
            if self.pids[-1] == 0:
                os.close(go[1])
                self.run(action, ready[1], go[0])
        os.close(go[0])
        for _ in range(number):
            os.read(ready[0], 1)
        os.close(go[1])  # for all of them at once
        for end in ready:
            os.close(end)
        return self.pids[-number:]

    def run(self, action: Callable[[], object], ready: int, go: int) -> None:
        status = 1
        try:
            os.write(ready, b".")
            os.read(go, 1)
            action()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except ValueError as error:
            Path(f"refused-{os.getpid()}").write_text(str(error), encoding="utf-8")
            status = 2
        except Exception:
            Path(f"failed-{os.getpid()}").write_text(traceback.format_exc(), encoding="utf-8")
        finally:
            os._exit(status)

    def status(self, pid: int) -> int:
        self.pids.remove(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def first(self) -> tuple[int, int]:
        """The next one to end, and its status."""
        pid, status = os.wait()
        self.pids.remove(pid)
        return pid, os.waitstatus_to_exitcode(status)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        assert self.status(pid) == -signal.SIGKILL


@pytest.fixture
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    for pid in list(forks.pids):
        forks.kill(pid)


def until(there: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.005)


def holds(run_dir: str | None = None, name: str = "fast") -> None:
    """Holds a folder until the file `end` is there, as a run does, and says which one it is."""
    mine = RunFolder(run_dir, name)
    Path(f"held-{os.getpid()}").write_text(str(mine.path), encoding="utf-8")
    (mine.path / "metrics.csv").write_text(str(os.getpid()), encoding="utf-8")
    until(Path("end").exists)
    assert (mine.path / "metrics.csv").read_text(encoding="utf-8") == str(os.getpid())
    mine.began = True
    mine.close()


def said(kind: str) -> dict[int, str]:
    return {int(path.name.partition("-")[2]): path.read_text(encoding="utf-8") for path in Path().glob(f"{kind}-*")}


# ---------------------------------------------------------------------- started together


def test_without_a_folder_each_has_its_own(forks):
    """Eight of one second, whose folders are made, not looked for."""
    pids = forks.start(8, holds)
    until(lambda: len(said("held")) + len(said("refused")) == 8)
    Path("end").touch()
    assert [forks.status(pid) for pid in pids] == [0] * 8, said("refused")
    assert len(set(said("held").values())) == 8
    assert all(re.fullmatch(r"runs/fast/[-\d_]{19}(-\d+)?", path) for path in said("held").values())


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_of_those_with_one_folder_one_has_it(forks, there):
    if there:
        Path("run").mkdir()
    pids = forks.start(8, lambda: holds("run"))
    until(lambda: len(said("held")) + len(said("refused")) == 8)
    (holder,) = said("held")
    for reason in said("refused").values():
        assert reason == (
            f"--run_dir run is in use by a run that is going on, process {holder} on {os.uname().nodename}: "
            "wait for its end, stop it, or choose another folder"
        )
    Path("end").touch()
    assert sorted(forks.status(pid) for pid in pids) == [0] + [2] * 7
    assert os.listdir("run") == ["metrics.csv"]  # nobody has taken the folder from under the run, and no lock is left


@pytest.mark.slow
def test_two_that_go_on_with_one_run(forks, capfd):
    """One is refused; and the table has each batch once."""
    fit("run")
    whole = fit("whole", "--trainer.max_steps", "6")

    def go_on():
        resume("run", "--trainer.max_steps", "6", callbacks=[At(4, lambda: until(Path("end").exists))])

    try_both = forks.start(2, go_on)
    refused, status = forks.first()
    (reason,) = said("refused").values()
    assert status == 2
    assert f"process {next(pid for pid in try_both if pid != refused)} on " in reason
    Path("end").touch()
    assert forks.first()[1] == 0
    assert [row["step"] for row in table("run")] == ["1", "2", "3", "4", "5", "6"]
    assert equal(load("run/checkpoints/last.ckpt"), load(whole))


def test_some_that_are_refused_one_after_the_other(forks):
    """One takes the folder away, and those above it, while another one makes it and takes its lock."""

    def again():
        end = time.monotonic() + 1
        while time.monotonic() < end:
            try:
                mine = RunFolder("new/run")
            except ValueError as error:
                if "is in use" not in str(error):
                    raise
            else:
                Path("inside").touch(exist_ok=False)
                Path("inside").unlink()
                mine.close()

    assert [forks.status(pid) for pid in forks.start(4, again)] == [0] * 4, (said("refused"), said("failed"))
    assert not [path for path in Path().rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("where", [[], ["--run_dir", "run", "--resume", "auto"]], ids=["new", "one"])
def test_the_command_twice(where, devices):
    """As a shell starts it; with the processes that it starts itself, who are no other run."""
    path = os.pathsep.join(str(ROOT / name) for name in (".", "tests"))
    words = [sys.executable, "-m", "gan.cli", "fit", *SHORT, "--trainer.max_steps", "40", *where]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", str(devices)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    both = [process(words, env=env) for _ in range(2)]
    errors = [one.communicate()[1] for one in both]
    statuses = sorted(one.returncode for one in both)
    runs = [Path("run")] if where else list(Path("runs/fast").iterdir())
    if not where:
        assert len(runs) == 2
    if not where or statuses == [0, 0]:  # the second one came after the first: there was nothing left to do for it
        assert errors == ["", ""]
    else:
        assert statuses == [0, 2], errors
        (reason,) = filter(None, errors)
        assert "--run_dir run is in use by a run that is going on, process" in reason
    for run_dir in runs:
        assert [int(row["step"]) for row in table(run_dir)] == list(range(1, 41))


# ---------------------------------------------------------------------- beside a run, and after it


@pytest.mark.slow
def test_beside_a_run_and_after_its_end_by_force(forks, capsys):
    """Whoever comes is refused and changes nothing, whatever else is wrong; when it is killed, the next goes on."""
    words = ["--trainer.max_steps", "6", "--trainer.callbacks+", "RunCheckpoint", "--trainer.callbacks.every", "2"]
    live = [At(4, lambda: (Path("there").touch(), until(Path("end").exists)))]
    (pid,) = forks.start(1, lambda: fit("run", *words, callbacks=live))
    until(Path("there").exists)
    before = files()
    for more in ([], ["--resume", "auto"], ["--resume", "never"], ["--data.batch_size", "497"]):
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            fit("run", *more)
        output, errors = capsys.readouterr()
        assert (output, errors.count("\n")) == ("", 1)
        assert errors.startswith(f"error: --run_dir run is in use by a run that is going on, process {pid} on ")
        assert files() == before
    forks.kill(pid)
    assert load(resume("run"))["global_step"] == 6
    assert [row["step"] for row in table("run")] == ["1", "2", "3", "4", "5", "6"]
    assert not Path("run", LOCK).exists()


def files() -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in Path("run").rglob("*")}


def worker() -> int:
    """A process that works for this one, as those of a DataLoader do: a fork."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    return pid


def program() -> int:
    """Another program, which is given all files that may be given."""
    return subprocess.Popen(["sleep", "600"], close_fds=False).pid


@pytest.mark.parametrize("helper", [worker, program])
def test_a_killed_process_leaves_no_lock_to_its_helpers(forks, helper):
    def hold_with_help():
        mine = RunFolder("run")
        Path("helper.partial").write_text(str(helper()), encoding="utf-8")
        os.rename("helper.partial", "helper")
        until(Path("end").exists)
        mine.close()

    (pid,) = forks.start(1, hold_with_help)
    until(Path("helper").exists)
    with pytest.raises(ValueError, match=f"process {pid} on"):
        RunFolder("run")
    forks.kill(pid)
    try:
        RunFolder("run").close()
    finally:
        os.kill(int(Path("helper").read_text(encoding="utf-8")), signal.SIGKILL)


def test_a_fork_does_not_let_go(forks):
    mine = RunFolder("run")
    (pid,) = forks.start(1, mine.close)
    assert forks.status(pid) == 0
    assert Path("run", LOCK).is_file()
    (pid,) = forks.start(1, lambda: RunFolder("run"))
    assert forks.status(pid) == 2
    mine.close()
    assert not Path("run").exists()


# ---------------------------------------------------------------------- what is taken away


def test_what_was_made_for_nothing_is_taken_away(here):
    Path("there").mkdir()
    for run_dir in (None, "there/a/run", "new"):
        mine = RunFolder(run_dir, "x")
        (mine.path / "samples").mkdir()
        (mine.path / "samples" / "a.png").touch()
        (mine.path / "link").symlink_to(here / "there")
        (mine.path / "config.yaml").touch()
        mine.close()
        assert os.listdir() == ["there"]
        assert os.listdir("there") == []


def test_what_was_there_stays():
    Path("run").mkdir()
    Path("run", "notes.txt").touch()
    RunFolder("run").close()
    assert os.listdir("run") == ["notes.txt"]


def test_the_folder_above_stays_where_another_run_has_come_in():
    one, two = RunFolder("runs/one"), RunFolder("runs/two")
    one.close()
    assert os.listdir("runs") == ["two"]
    two.close()  # who has not made it does not take it away
    assert os.listdir("runs") == []


def test_a_folder_that_was_removed_and_made_again_is_another_ones(forks):
    one = RunFolder("run")
    os.rename("run", "away")
    (pid,) = forks.start(1, lambda: holds("run"))
    until(lambda: said("held"))
    one.began = True
    one.close()
    assert Path("run", LOCK).read_text(encoding="utf-8").split()[0] == str(pid)
    Path("end").touch()
    assert forks.status(pid) == 0


@pytest.mark.slow
@pytest.mark.parametrize("run_dir", ["--run_dir=~/run", "--run_dir=$HOME/run", "run_dir: ~/run", "run_dir: $HOME/run"])
def test_one_run_in_one_folder_however_it_is_spelled(here, monkeypatch, run_dir):
    """All that it writes, and what goes on with it."""
    monkeypatch.setenv("HOME", str(here / "home"))
    words = [run_dir]
    if not run_dir.startswith("--"):
        Path("home").mkdir()
        Path("home/mine.yaml").write_text(run_dir, encoding="utf-8")
        words = ["--config=$HOME/mine.yaml"]
    command("fit", *SHORT, *words)
    assert os.listdir() == ["home"]
    assert {"config.yaml", "checkpoints", "samples", "tensorboard"} <= set(os.listdir("home/run"))
    command("fit", *words, "--resume", "auto", "--trainer.max_steps", "4")
    assert load("home/run/checkpoints/last.ckpt")["global_step"] == 4
    command("fit", "--run_dir", "new", "--resume=~/run", "--trainer.max_steps", "5", *TRUSTED)
    assert load("new/checkpoints/last.ckpt")["global_step"] == 5
    command("validate", "--ckpt_path=~/run", *TRUSTED)


@pytest.mark.parametrize(
    "words",
    [
        ["--run_dir", "s3://bucket/x"],
        ["--run_dir=gs://bucket/x"],
        ["--config", "mine.yaml"],
        ["--resume", "hf://a/b.ckpt"],
    ],
)
def test_a_url_is_no_folder(here, capsys, words):
    Path("mine.yaml").write_text("run_dir: s3://bucket/x\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        command("fit", *SHORT, *words)
    assert "is a URL, and files are read and written by their paths" in capsys.readouterr().err
    assert os.listdir() == ["mine.yaml"]


def test_the_lines_of_a_trial_name_no_folder(capsys):
    command("fit", *SHORT, "--trainer.fast_dev_run", "true", "--run_dir", "mine")
    lines = capsys.readouterr().out.splitlines()
    assert "run            one batch to try, of which nothing is kept" in lines
    assert not [line for line in lines if "mine" in line or line.startswith(("pictures", "checkpoint"))]


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_one_batch_to_try_leaves_nothing(there):
    if there:
        Path("mine").mkdir()
    command("fit", *SHORT, "--trainer.fast_dev_run", "true", "--run_dir", "mine")
    command("fit", *SHORT, "--trainer.fast_dev_run", "true")
    assert os.listdir() == ["mine"] * there
    assert not there or not Path("mine", "config.yaml").exists()  # the next run would be refused for it


@pytest.mark.parametrize("run_dir", ["x" * 300, "a/" + "x" * 300, "file", "file/run", "dangling", "/proc"])
def test_no_folder(here, run_dir):
    """Nor is anything left of the way there."""
    Path("file").touch()
    Path("dangling").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"cannot write to --run_dir .*; choose another"):
        RunFolder(run_dir)
    assert sorted(os.listdir()) == ["dangling", "file"]


@pytest.mark.parametrize("run_dir", ["a/run", None])
def test_full_disk_when_it_starts(run_dir):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(ValueError, match=r"cannot write to --run_dir .*: File too large; choose another"):
            RunFolder(run_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir() == []


@pytest.mark.parametrize(("run_dir", "why"), [("new/nul\0", "NUL"), ("new/\udcff", "set PYTHONUTF8=1")])
def test_no_name(run_dir, why):
    with pytest.raises(ValueError, match=f"--run_dir .*{why}.*choose another"):
        RunFolder(run_dir)
    assert os.listdir() == []


# ---------------------------------------------------------------------- several processes


@pytest.mark.parametrize("run_dir", ["run", None])
def test_other_processes_of_a_run_are_not_refused(monkeypatch, run_dir):
    first = RunFolder(run_dir)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    second = RunFolder(run_dir)
    assert second.path == first.path
    second.close()
    assert Path(first.path, LOCK).is_file()
    first.close()


def test_second_machine_is_not_refused(monkeypatch):
    """Started by hand, its first process has the rank 0 until it meets the others."""
    first = RunFolder("run")
    monkeypatch.setenv("NODE_RANK", "1")
    RunFolder("run").close()
    monkeypatch.delenv("GAN_RUN_DIR", raising=False)
    with pytest.raises(ValueError, match="need one folder for all: set --run_dir RUN"):
        RunFolder(None)
    monkeypatch.setenv("RANK", "0")  # as torchrun says it
    with pytest.raises(ValueError, match="in use"):
        RunFolder("run")
    first.close()


# ---------------------------------------------------------------------- where the file system knows no locks


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, None], ids=["NFS", "Lustre", "Windows"])
def no_locks(request, monkeypatch):
    def flock(*args):
        raise OSError(request.param, os.strerror(request.param))

    if request.param is None:
        monkeypatch.setattr(folder, "fcntl", None)
    else:
        monkeypatch.setattr(folder.fcntl, "flock", flock)
    monkeypatch.setattr(folder, "SETTLED", 0.5)


def test_one_by_its_name(forks, no_locks):
    pids = forks.start(4, lambda: holds("run"))
    until(lambda: len(said("held")) + len(said("refused")) == 4)
    (holder,) = said("held")
    with pytest.raises(ValueError, match=rf"process {holder} on .*\. If that process is no more, remove run/\.lock"):
        RunFolder("run")
    os.kill(holder, signal.SIGKILL)
    os.waitid(os.P_PID, holder, os.WEXITED | os.WNOWAIT)  # dead, and still in the list of processes
    mine = RunFolder("run")
    mine.close()
    assert not Path("run", LOCK).exists()
    assert all(pid == holder or forks.status(pid) == 2 for pid in pids)


def test_names_written_at_one_moment(forks, no_locks, monkeypatch):
    """Each has seen that nobody is there."""
    is_running = folder.is_running

    def nobody_at_first(name):
        if os.getpid() in said("looked"):
            return is_running(name)
        Path(f"looked-{os.getpid()}").touch()
        until(lambda: len(said("looked")) == 4)
        return False

    monkeypatch.setattr(folder, "is_running", nobody_at_first)
    pids = forks.start(4, lambda: holds("run"))
    until(lambda: len(said("held")) + len(said("refused")) == 4)
    Path("end").touch()
    assert sorted(forks.status(pid) for pid in pids) == [0, 2, 2, 2]


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("{pid} {since} {host}", True),
        ("{pid} 1 {host}", False),  # the number has been given again
        ("4194304 1 {host}", False),
        ("{pid} {since} elsewhere", True),
        ("4194304 1 elsewhere", True),
        ("{pid} {since}", False),  # half written
        ("", False),
    ],
)
def test_names_of_other_times_and_machines(no_locks, name, refused):
    Path("run").mkdir()
    parent = os.getppid()
    fields = {"pid": parent, "since": folder.started(parent), "host": os.uname().nodename}
    Path("run", LOCK).write_text(name.format(**fields), encoding="utf-8")
    if refused:
        with pytest.raises(ValueError, match="is in use by a run that is going on"):
            RunFolder("run")
        assert os.listdir("run") == [LOCK]
    else:
        RunFolder("run").close()
        assert os.listdir("run") == []
