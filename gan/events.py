"""TensorBoard's event files, by whole records, to a disk that may be full for a while."""

import itertools
import os
import socket
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue] # made
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter

from gan.outbox import Outbox

SECONDS = 2  # between two writes, at least
FORMAT = "brain.Event:2"  # what TensorBoard expects to read first
NUMBERS = itertools.count()  # of the files of this process


class EventWriter(SummaryWriter):
    """torch's SummaryWriter without its thread, which dies of the first write that fails.

    With a `purge_step`, it goes on with what is in the folder, up to the step before. What was logged of that one, by
    the end of a run that was killed in it, is not written a second time when that end comes again.

    Args:
        folder: Where to write.
        purge_step: The first step that is to come; what is there of it is of a run that was killed.
        outbox: What writes; one of its own if not given.
        **others: torch's, without effect.
    """

    def __init__(
        self, folder: str | Path, purge_step: int | None = None, outbox: Outbox | None = None, **others: Any
    ) -> None:
        self.outbox = outbox or Outbox()
        super().__init__(str(folder), purge_step=purge_step, **others)

    def _get_file_writer(self) -> FileWriter:  # private, but it is what opens a file and starts the thread
        if self.file_writer is None:
            self.file_writer = FileWriter.__new__(FileWriter)
            file: Any = EventFile(Path(self.log_dir), self.purge_step, self.outbox)
            self.file_writer.event_writer = file
            self.all_writers = {str(self.log_dir): self.file_writer}
            self.purge_step = None  # only the first file takes up what was there
        return self.file_writer


class EventFile:
    """What tensorboard's EventFileWriter is to torch's FileWriter.

    Args:
        folder: Where to write.
        purge_step: The first step that is to come, if it goes on with what is there.
        outbox: What writes.
    """

    def __init__(self, folder: Path, purge_step: int | None, outbox: Outbox):
        number = f"{os.getpid()}.{next(NUMBERS)}"
        self.path = folder / f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{number}"
        self.last = None if purge_step is None else purge_step - 1
        self.outbox = outbox
        self.records = RecordWriter(self)
        self.sent = 0.0
        self.keep(Event(wall_time=time.time(), file_version=FORMAT))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self.keep(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def keep(self, event: Event) -> None:
        """Puts an event into the outbox."""
        self.records.write(event.SerializeToString())

    def write(self, record: bytes) -> None:
        """Takes what the RecordWriter makes of an event."""
        self.outbox.append(self.path, record)

    def add_event(self, event: Event) -> None:
        """Writes an event, within some seconds."""
        if event.step == self.last and any(value.tag in self.there for value in event.summary.value):
            return
        self.keep(event)
        if time.monotonic() - self.sent > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is waiting."""
        self.outbox.send()
        self.sent = time.monotonic()

    close = flush  # there is nothing open

    def get_logdir(self) -> str:
        """The folder."""
        return str(self.path.parent)

    @cached_property
    def there(self) -> set[str]:
        """The tags that other files of the folder have at the step before the first."""
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

        files = [path for path in self.path.parent.glob("events.out.tfevents.*") if path != self.path]
        events = (event for path in files for event in LegacyEventFileLoader(str(path)).Load())
        return {value.tag for event in events if event.step == self.last for value in event.summary.value}
