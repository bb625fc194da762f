"""What a run writes besides its checkpoints, to a disk that may be full for a while."""

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from lightning import Trainer  # which takes seconds to load, and the lab's list has no use for it

MOST = 256 * 2**20  # bytes that wait for room on the disk


class Outbox:
    """Files on their way to the disk. What it does not take is kept in memory, and goes out with the next.

    A file is there whole or not at all, and one that grows does so by whole pieces. A write that fails is a warning,
    one for all that fail for the same reason, and never an error.

    Args:
        work: What goes on meanwhile, in the words of that warning.
    """

    def __init__(self, work: str = "Training") -> None:
        self.work = work
        self.whole: dict[Path, bytes] = {}  # what files are to hold
        self.pieces: dict[Path, bytearray] = {}  # what files are to grow by
        self.errors: dict[Path, OSError] = {}  # why that is still here

    def write(self, path: Path, content: bytes) -> None:
        """Writes a file, in place of what it held."""
        for waiting in (self.whole, self.pieces):
            waiting.pop(path, None)
        self.whole[path] = content
        self.send()

    def append(self, path: Path, piece: bytes) -> None:
        """Lets a file grow, with the next `send`."""
        self.pieces.setdefault(path, bytearray()).extend(piece)

    def send(self) -> None:
        """Writes all that is here, as far as the disk takes it."""
        for waiting, put in ((self.pieces, grow), (self.whole, replace)):
            for path in list(waiting):
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    put(path, waiting[path])
                except OSError as error:
                    self._keep(path, error)
                else:
                    del waiting[path]
                    self.errors.pop(path, None)
        while sum(map(len, (*self.whole.values(), *self.pieces.values()))) > MOST:
            self._lose([next(iter(self.whole or self.pieces))])

    def give_up(self) -> list[Path]:
        """Tries for the last time. What the disk does not take now is lost, with a warning, and returned."""
        self.send()
        lost = [*self.pieces, *self.whole]
        if lost:
            self._lose(lost)
        return lost

    def _keep(self, path: Path, error: OSError) -> None:
        known = {other.errno for other in self.errors.values()}
        self.errors[path] = error.with_traceback(None)  # which would hold on to what was to be written
        if error.errno not in known:
            reason = error.strerror or error
            warnings.warn(f"cannot write {path}: {reason}. {self.work} goes on, and it is tried again", stacklevel=2)

    def _lose(self, paths: list[Path]) -> None:
        reason = self.errors[paths[0]]
        for path in paths:
            self.whole.pop(path, None)
            self.pieces.pop(path, None)
            self.errors.pop(path, None)
        names = ", ".join(map(str, paths))
        warnings.warn(f"cannot write {names}: {reason.strerror or reason}. It is lost", stacklevel=2)


OUTBOXES: WeakKeyDictionary["Trainer", Outbox] = WeakKeyDictionary()


def outbox(trainer: "Trainer") -> Outbox:
    """The outbox that the callbacks of a trainer share."""
    return OUTBOXES.setdefault(trainer, Outbox())


def replace(path: Path, content: bytes | bytearray) -> None:
    """Writes a file beside its place, and moves it there.

    Raises:
        OSError: If the disk does not take it; then nothing is left of it.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def grow(path: Path, piece: bytes | bytearray) -> None:
    """Appends to a file.

    Raises:
        OSError: If the disk does not take all of it; then the file is as it was.
    """
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        written = 0
        try:
            while written < len(piece):
                written += file.write(memoryview(piece)[written:])
        except BaseException:
            file.truncate(size)  # half a piece would make what follows unreadable
            file.close()
            if not size:
                path.unlink()
            raise
