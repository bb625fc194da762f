"""What a checkpoint is on the disk: written so that it is never half there, and never read where it is damaged.

A checkpoint is a file of plain data, written by `torch.save`, or a folder of such files, one from each process:
`0-of-2.ckpt` and `1-of-2.ckpt`. A run keeps its newest as `step_001000.ckpt`, and the last of them as `last.ckpt` too,
the best as `best.ckpt`.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, TYPE_CHECKING, Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from gan.archive import damage, end_of, seal
from gan.errors import GANError
from gan.paths import local_path
from gan.pickles import Misfit, check_pickle

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # in typing from Python 3.13 on

LAST = "last.ckpt"
BEST = "best.ckpt"

# ---------------------------------------------------------------------- writing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when it is whole and on the disk.

    Lightning's own writes to the system's temporary folder and copies from there: a disk that fills up on the way
    leaves half a file where the good one was.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with replacing(Path(path)) as partial:
            write(checkpoint, partial)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Reads a file, or a folder of parts. Runs no code in it, whatever the arguments."""
        return read(path)


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a file with its digest, and sees it onto the disk.

    Raises:
        OSError: If the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w+b") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch has words of its own for a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        seal(file)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the path beside `path` at which to write what then, whole, takes its place; in an error, nothing does."""
    partial = unfinished(path)
    remove(partial)
    try:
        yield partial
        put(partial, path)
    except BaseException:
        remove(partial)
        raise


def unfinished(path: Path) -> Path:
    """Where a checkpoint lies while it is written."""
    return path.with_name(path.name + ".partial")


def put(partial: Path, path: Path) -> None:
    """Moves what is whole to its place: in one go, unless there is a folder on either side."""
    if is_folder(partial) or is_folder(path):
        remove(path)
    os.replace(partial, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk; Windows has no such thing."""
    if os.name == "nt":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def name_again(checkpoint: Path, path: Path) -> None:
    """Makes `path` a second name of a checkpoint in the same folder, in one go, whatever it was before."""
    with replacing(path) as partial:
        if checkpoint.is_dir():
            partial.symlink_to(checkpoint.name)
            return
        try:
            partial.hardlink_to(checkpoint)
        except OSError:  # not every file system can
            shutil.copyfile(checkpoint, partial)
            sync(partial)


def step_path(folder: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a batch."""
    return folder / f"step_{step:06d}.ckpt"


def steps(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run that are named by their batch, oldest first."""
    found = ((re.fullmatch(r"step_(\d{6,})\.ckpt", path.name), path) for path in folder.glob("step_*.ckpt"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def is_folder(path: Path) -> bool:
    """Whether there is a folder, rather than a link to one."""
    return path.is_dir() and not path.is_symlink()


def remove(checkpoint: Path) -> None:
    """Removes a file, a link or a folder, where there is one."""
    if is_folder(checkpoint):
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Takes away what killed runs have left half-written."""
    for path in folder.glob("*.ckpt.partial"):
        remove(path)


# ---------------------------------------------------------------------- a folder of parts


def part_name(process: int, processes: int) -> str:
    """The name of what a process writes into a folder of parts."""
    return f"{process}-of-{processes}.ckpt"


def parts(path: str | Path) -> list[Path]:
    """The files of a checkpoint, in the order of the processes that wrote them.

    Raises:
        ValueError: If there is none, or not all are there, or nobody can look.
    """
    path = Path(path)
    try:
        if path.is_file():
            return [path]
        names = os.listdir(path) if path.is_dir() else []
    except OSError as error:
        raise GANError(f"{path} cannot be read: {error.strerror}") from error
    matches = [re.fullmatch(r"(\d+)-of-(\d+)\.ckpt", name) for name in names]
    numbers = {(int(match[1]), int(match[2])) for match in matches if match}
    if not numbers:
        raise GANError(f"no checkpoint at {path}; a run writes its own to RUN/checkpoints/last.ckpt")
    total = max(of for _, of in numbers)
    wanted = [(number, total) for number in range(total)]
    for number in sorted(numbers ^ set(wanted)):
        raise GANError(f"{path} is damaged: {part_name(*number)} is {'missing' if number in wanted else 'too many'}")
    return [path / part_name(*number) for number in wanted]


def merge(checkpoints: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One checkpoint of the parts of all processes, in their order: shards put together, all else from the first."""
    return rebuild(checkpoints, join)


def join(shards: list[Tensor], shape: list[int]) -> Tensor:
    """The whole tensor of its shards, in the order of their processes.

    Raises:
        ValueError: If they do not make one of `shape`.
    """
    whole = torch.cat(shards)
    if list(whole.shape) != shape:
        raise GANError(f"the parts of the checkpoint make a tensor {list(whole.shape)} of what was {shape}")
    return whole


def rebuild(parts: Sequence[Any], make: Callable[[list[Tensor], list[int]], Tensor]) -> dict[str, Any]:
    """The first of `parts`, with `make(shards, shape)` wherever it holds a shard of a weight or an optimizer state.

    Raises:
        ValueError: If the parts are not of one checkpoint.
    """

    def walk(values: list[Any]) -> Any:
        first = values[0]
        if isinstance(first, dict) and first.keys() == {"shard", "shape"}:
            return make([value["shard"] for value in values], first["shape"])
        if isinstance(first, dict):
            return {key: walk([value[key] for value in values]) for key in first}
        if isinstance(first, list):
            return [walk(list(items)) for items in zip(*values, strict=True)]
        return first

    if len({part["global_step"] for part in parts}) != 1:
        raise GANError("the parts of the checkpoint were saved at different batches")
    sharded = [key for key in ("state_dict", "optimizer_states") if key in parts[0]]
    return parts[0] | {key: walk([part[key] for part in parts]) for key in sharded}


# ---------------------------------------------------------------------- reading


def read(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU; a folder as the file that one process would have written.

    Raises:
        ValueError: If a part is missing or damaged, or the parts are not of one checkpoint.
        UnpicklingError: If it asks for anything but containers, numbers and tensors.
    """
    contents = []
    for part in parts(path):
        check_whole(part)
        check_pickle(part)
        contents.append(torch.load(part, map_location="cpu", weights_only=True))
    return merge(contents) if Path(path).is_dir() else contents[0]


def check_checkpoint(path: str | Path | IO[bytes]) -> dict[str, Any]:
    """Refuses a checkpoint that is missing, damaged or not ours, before anything is made of it. Runs no code in it.

    Args:
        path: A file, a folder of parts, or an open file, which is left where it was.

    Returns:
        What it holds, tensors without their values.

    Raises:
        ValueError: If it cannot be used, with the reason.
    """
    contents = [check_file(part) for part in ([path] if is_open(path) else parts(path))]
    try:
        ours = any(key.startswith("generator.") for key in contents[0]["state_dict"])
        ours = ours and "_instantiator" in contents[0]["hyper_parameters"]
    except Exception:  # no dictionaries, or with other keys
        ours = False
    if not ours:
        raise GANError(f"{path} is a checkpoint of something else: it has no generator of this project")
    try:
        return contents[0] if is_open(path) or Path(path).is_file() else merge(contents)
    except Exception as error:
        raise GANError(f"{path} is damaged: {error}") from error


def is_open(path: object) -> "TypeIs[IO[bytes]]":
    """Whether it is a file that is open, rather than a path."""
    return hasattr(path, "read")


@contextmanager
def opened(path: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    """A file to read from its start; one that is open already is put back."""
    if not is_open(path):
        with path.open("rb") as file:
            yield file
        return
    before = path.tell()
    path.seek(0)
    try:
        yield path
    finally:
        path.seek(before)


def newest_whole(folder: Path) -> tuple[Path, dict[str, Any], list[Path]] | None:
    """The checkpoint that a run goes on from: `last.ckpt` or, where that cannot be used, the newest that can.

    Returns:
        Its path, what it holds (see `check_checkpoint`), and those before it that cannot be used; None if the run has
        no checkpoint yet.

    Raises:
        ValueError: If there are checkpoints, and none can be used.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return None
    except OSError as error:  # not to be taken for a run that has no checkpoint yet
        raise GANError(f"{folder} cannot be read: {error.strerror}") from error
    candidates = [folder / LAST] if LAST in names else []
    candidates += reversed(steps(folder).values())
    reason = None
    for number, path in enumerate(candidates):
        try:
            return path, check_checkpoint(path), candidates[:number]
        except ValueError as error:
            reason = error
    if not candidates:
        return None
    raise GANError(
        f"no checkpoint in {folder} can be used; the oldest: {reason}. Give a copy of one by --resume PATH and another "
        "--run_dir, or start again in another --run_dir"
    )


def check_file(path: Path | IO[bytes]) -> Any:
    """What a file holds, tensors without their values.

    Raises:
        ValueError: If a bit of it is not as it was written, or if it is not plain data.
    """
    check_whole(path)
    try:
        with opened(path) as file:
            check_pickle(file)
            file.seek(0)
            mapped = not is_open(path)
            return torch.load(path if mapped else file, map_location="meta", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        raise GANError(
            f"{path} is not a checkpoint of this project: those are plain data, and this one asks to run code "
            f"({error.args[0].splitlines()[0]}). Do not trust where it is from"
        ) from error
    except Misfit as error:
        raise GANError(f"{path} is damaged: it describes {error}") from error
    except Exception as error:  # what is no checkpoint can raise anything
        raise GANError(f"{path} is not a checkpoint: {type(error).__name__}") from error


def check_whole(path: Path | IO[bytes]) -> None:
    """Refuses a file that cannot be read, is no archive, or of which a bit is not as it was written.

    Raises:
        ValueError: If it is one, with the reason.
    """
    try:
        with opened(path) as file:
            magic, complete = file.read(4), end_of(file) is not None
            damaged = damage(file) if complete else None
    except OSError as error:
        raise GANError(f"{path} cannot be read: {error.strerror or error}") from error
    if not magic:
        raise GANError(f"{path} is damaged: it is empty")
    if damaged is not None:
        raise GANError(f"{path} is damaged: {damaged} is not what was written")
    if not complete and magic == b"PK\x03\x04":
        raise GANError(f"{path} is damaged: its end is missing")
    if not complete:
        raise GANError(f"{path} is not a checkpoint; a run writes its own to RUN/checkpoints/last.ckpt")


def checkpoint_in(path: str | Path) -> Path:
    """A checkpoint's own path; of the folder of a run, or of its checkpoints, the best or, without scores, the last.

    Raises:
        GANError: If the system cannot look there, or it is a URL.
    """
    path = local_path(path, "the checkpoint")
    try:
        found = [folder / name for folder in (path / "checkpoints", path) for name in (BEST, LAST)]
        found = [candidate for candidate in found if candidate.exists()]
    except OSError as error:
        raise GANError(f"cannot read {path}: {error.strerror}") from error
    return found[0] if found else path


def last_in(path: str | Path) -> tuple[Path, dict[str, Any], list[Path]]:
    """A checkpoint's own path; of the folder of a run, or of its checkpoints, the newest that can be used.

    Returns:
        It, what it holds (see `check_checkpoint`), and newer ones that cannot be used.

    Raises:
        GANError: If it cannot be used, or none can, or it is a URL.
    """
    path = local_path(path, "the checkpoint")
    with suppress(OSError):  # the reason is said below
        for folder in (path / "checkpoints", path):
            if folder.is_dir() and (found := newest_whole(folder)):
                return found
    return path, check_checkpoint(path), []
