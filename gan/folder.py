"""The folder of a run: made by one process, held by it against all others, and taken away if the run never began."""

import errno
import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from gan.errors import GANError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"  # in the folder of a run that is going on: its process and host
SETTLED = 1.0  # seconds after which of several names written at once the last one is seen, on other machines too
UNKNOWN = "?"
held: list[IO[str]] = []  # the open locks of this process


class RunFolder:
    """The folder that a run writes to. Of several processes the first one makes it, and holds it until it is closed.

    Args:
        run_dir: Where it is; a new one, `runs/<name>/<start time>`, if not given.
        name: What the run is called.

    Raises:
        ValueError: If it cannot be written, another run is at work there, or processes that know nothing of each other
            would choose each their own.
    """

    def __init__(self, run_dir: str | None, name: str = "default"):
        self.began = False  # what was made for a run that did not is taken away
        self._made: list[Path] = []
        self._lock: IO[str] | None = None
        first, chosen = is_first_process(), run_dir or os.environ.get("GAN_RUN_DIR")
        if not first and chosen:
            self.path = Path(chosen)
            return
        if not run_dir and (not first or TorchElasticEnvironment.detect() or SLURMEnvironment.detect()):
            raise GANError("processes that torchrun or SLURM has started need one folder for all: set --run_dir RUN")
        try:
            self._take(run_dir, name)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                reason = f"cannot write to --run_dir {self.path}: {error.strerror}; choose another"
                raise GANError(reason) from error
            raise

    def _take(self, run_dir: str | None, name: str) -> None:
        start = Path("runs", name, time.strftime("%Y-%m-%d_%H-%M-%S"))
        self.path = Path(run_dir) if run_dir else start
        check_text(self.path)
        failure: OSError = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        for number in range(2, 1000):
            try:
                self._make(self.path)
                if run_dir or self.path in self._made:
                    self._lock = hold(self.path)
                    break
                self.path = start.with_name(f"{start.name}-{number}")  # another run has started in the same second
            except (FileNotFoundError, FileExistsError) as error:
                failure = error  # as it is for good, or another run is just taking away what it had made
        else:
            raise failure
        if not run_dir:
            os.environ["GAN_RUN_DIR"] = str(self.path)  # for the processes that this one will start

    def _make(self, path: Path) -> None:
        """Makes a folder and those above it, where they are missing, and keeps in mind which ones were."""
        for folder in (*reversed(path.parents), path):
            try:
                folder.mkdir()
                self._made.append(folder)
            except FileExistsError:
                if folder == path and not path.is_dir():
                    raise
            except OSError:  # a system may have other complaints first of what is there
                if not folder.is_dir():
                    raise

    def close(self) -> None:
        """Lets go of the folder, and takes it away if this process made it for a run that never began."""
        if self._lock is not None and self._lock not in held:
            return  # closed before, or in a fork
        made = [] if self.began else self._made
        if self._lock is not None:
            if self.path in made:
                empty(self.path)
            let_go(self.path / LOCK, self._lock)
        for folder in reversed(made):
            with suppress(OSError):  # another run has come in
                folder.rmdir()


def is_first_process() -> bool:
    """Whether this is the first process of a run, or its only one."""
    if getattr(rank_zero_only, "rank", 0):
        return False
    # Where a run is started by hand on each of several machines, this is all that is known yet.
    return "RANK" in os.environ or os.environ.get("NODE_RANK", "0") == "0"


def check_text(path: Path) -> None:
    """Refuses a folder whose name is no text: what is written there is named by it.

    Raises:
        ValueError: If it is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise GANError(
            f"--run_dir {str(path)!a} cannot be read in this locale: set PYTHONUTF8=1, or choose another"
        ) from error
    if "\0" in str(path):
        raise GANError(f"--run_dir {str(path)!a} holds a NUL, which no path may: choose another")


def empty(folder: Path) -> None:
    """Takes away what is in a folder but for its lock, behind which another run may come in."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != LOCK:
                entry.unlink()


# ---------------------------------------------------------------------- locks


def hold(folder: Path) -> IO[str]:
    """Takes the lock of a folder for this process, with which it falls, whatever that dies of. Returns its file.

    Raises:
        ValueError: If another process has it.
        FileNotFoundError: If whoever had it is just taking it away, or another one took it at the same moment: one must
            try again.
    """
    path, name = folder / LOCK, f"{os.getpid()} {started(os.getpid())} {socket.gethostname()}"
    file, by_system = path.open("a+", encoding="utf-8"), True
    try:
        by_system = lock(file)
        if not by_system and is_running(path.read_text(encoding="utf-8")):
            raise BlockingIOError
        file.truncate(0)
        file.write(name)
        file.flush()
        os.fsync(file.fileno())  # for other machines
        if not by_system:
            time.sleep(SETTLED)
        if path.read_text(encoding="utf-8") != name:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        held.append(file)
        return file
    except BlockingIOError:
        time.sleep(0.1)  # it may have come just now, and be about to write who it is
        fields = path.read_text(encoding="utf-8").split()
        pid, _, host = fields if len(fields) == 3 else "???"
        way_out = "" if by_system else f". If that process is no more, remove {path}"
        raise GANError(
            f"--run_dir {folder} is in use by a run that is going on, process {pid} on {host}: wait for its end, "
            f"stop it, or choose another folder{way_out}"
        ) from None
    except OSError as error:
        if by_system and not isinstance(error, FileNotFoundError):  # a full disk
            path.unlink()
        raise
    finally:
        if file not in held:
            file.close()


def lock(file: IO[Any]) -> bool:
    """Locks a file for as long as it is open in this process. False where the system, or that of the file, cannot.

    Raises:
        BlockingIOError: If it is locked by another one.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def let_go(path: Path, file: IO[str]) -> None:
    """Takes a lock away."""
    held.remove(file)
    file.seek(0)
    try:
        if path.read_text(encoding="utf-8") == file.read():  # nobody has removed the folder and made it again
            path.unlink()
    except FileNotFoundError:
        pass
    except OSError:
        file.truncate(0)  # where a file that is open cannot be removed
    file.close()


def is_running(name: str) -> bool:
    """Whether the process of a lock is there. On another machine, it is taken for so."""
    match name.split():
        case [pid, since, host] if pid.isdigit():
            return host != socket.gethostname() or since == UNKNOWN or started(int(pid)) == since
    return False  # nobody, or half a name


def started(pid: int) -> str:
    """When a process has started, which tells it from another one of its number; UNKNOWN outside Linux."""
    if not Path("/proc/self/stat").exists():
        return UNKNOWN
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return "never"
    return "never" if state in "ZX" else fields[18]  # dead, and not yet waited for


def forget() -> None:
    """Closes the locks in a fork, which would keep them when this process is gone."""
    for file in held:
        file.close()
    held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)
