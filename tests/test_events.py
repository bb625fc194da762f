"""Event files: what TensorBoard reads of them, whatever kills the run or fills the disk."""

import threading
from dataclasses import asdict

import pytest
import torch
from conftest import SmallDisk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from gan.events import EventWriter


def accumulated(folder) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def points(folder, tag="loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in accumulated(folder).Scalars(tag)]


def age(folder) -> None:
    """Makes what is there older: TensorBoard sorts its files by the second that they begin in."""
    for path in folder.glob("events.out.tfevents.*"):
        path.rename(path.with_name(path.name.replace(path.name.split(".")[3], f"{int(path.name.split('.')[3]) - 9}")))


def test_tensorboard_reads_all_kinds(tmp_path):
    """As those of torch's own writer."""
    read_by = []
    for folder, writer in [(tmp_path / "ours", EventWriter), (tmp_path / "torch's", SummaryWriter)]:
        with writer(str(folder)) as board:
            board.add_scalar("loss", 0.5, 3)
            board.add_image("image", torch.zeros(3, 4, 5), 4)
            board.add_text("text", "word", 5)
            board.add_histogram("histogram", torch.arange(9.0), 6)
            board.add_scalars("pair", {"one": 1.0}, 7)  # by torch's own means, in a folder below
        events = accumulated(folder)
        read = [events.Scalars("loss"), events.Images("image"), events.Histograms("histogram")]
        read += [events.Tensors("text/text_summary")]
        read_by.append((events.Tags(), [asdict(point) | {"wall_time": 0} for (point,) in read]))
    assert read_by[0] == read_by[1]


def test_no_thread_is_started(tmp_path):
    """Which dies of the first write that fails: tensorboard's own, which torch asks for by a private method."""
    before = threading.active_count()
    ours = EventWriter(str(tmp_path / "ours"))
    assert threading.active_count() == before
    ours.close()
    assert "_get_file_writer" in vars(SummaryWriter)
    theirs = SummaryWriter(str(tmp_path / "theirs"))
    assert threading.active_count() == before + 1
    theirs.close()


def test_comes_to_the_disk_within_seconds(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("gan.events.time.monotonic", lambda: now[0])
    board = EventWriter(str(tmp_path))
    for step, second in [(1, 100), (2, 101), (3, 103), (4, 104)]:
        now[0] = second
        board.add_scalar("loss", step, step)
    assert points(tmp_path) == [(1, 1), (2, 2), (3, 3)]
    board.flush()
    assert points(tmp_path) == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_full_for_a_while(disk):
    """Each point, once and in order."""
    folder, full = disk
    board = EventWriter(str(folder))
    board.add_scalar("loss", 1, 1)
    board.flush()
    with full:
        board.add_scalar("loss", 2, 2)
        board.add_image("image", torch.rand(3, 64, 64), 2)  # what is left of a block would take the other
        with pytest.warns(UserWarning, match="cannot write .*tfevents"):
            board.flush()
        for step in range(3, 6):
            board.add_scalar("loss", step, step)
            board.add_image("image", torch.rand(3, 64, 64), step)
            board.flush()
        assert points(folder) == [(1, 1)]
    board.add_scalar("loss", 6, 6)
    board.close()
    assert points(folder) == [(step, step) for step in range(1, 7)]
    assert [image.step for image in accumulated(folder).Images("image")] == [2, 3, 4, 5]


def test_still_full_at_the_end(tmp_path):
    board = EventWriter(str(tmp_path))
    for step in (1, 2):
        board.add_scalar("loss", step, step)
    with SmallDisk(0), pytest.warns(UserWarning, match="^cannot write"):
        board.close()


def test_goes_on_after_close(tmp_path):
    board = EventWriter(str(tmp_path), purge_step=0)
    for step in (1, 2):
        board.add_scalar("loss", step, step)
        board.close()
        board.close()
    assert points(tmp_path) == [(1, 1), (2, 2)]


def test_a_run_that_goes_on(tmp_path):
    """Later points are those of a run that was killed, and come again; half a record is none."""
    board = EventWriter(str(tmp_path))
    for step in range(1, 6):
        board.add_scalar("loss", step, step)
    board.flush()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    age(tmp_path)
    board = EventWriter(str(tmp_path), purge_step=4)
    for step in range(4, 7):
        board.add_scalar("loss", 10 * step, step)
    board.close()
    assert points(tmp_path) == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60)]


def test_an_end_that_comes_again(tmp_path):
    """What was logged of it is not there twice, and what was not is there; whatever kills that run in its turn."""
    ends = ["loss", "fid"], ["fid", "text"], ["fid", "text", "image"]
    for number, tags in enumerate(ends):
        board = EventWriter(str(tmp_path), purge_step=8 if number else 0)
        for tag in tags:
            board.add_scalar(tag, 1.0, 7)
        board.flush()
        age(tmp_path)
    for tag in ("loss", "fid", "text", "image"):
        assert points(tmp_path, tag) == [(7, 1.0)]
    board.add_scalar("loss", 2.0, 8)
    board.close()
    assert points(tmp_path) == [(7, 1.0), (8, 2.0)]
