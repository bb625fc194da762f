"""Files on disks that are full for a while: whole or not there, and none lost."""

import gc
import os
import warnings
import weakref

import pytest
from conftest import SmallDisk

from gan.outbox import Outbox, outbox


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "filler"}


def quiet(box: Outbox) -> None:
    """Sends, and fails at a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        box.send()


def test_with_room(tmp_path):
    box = Outbox()
    box.write(tmp_path / "new" / "a", b"one")
    box.write(tmp_path / "new" / "a", b"two")
    box.append(tmp_path / "new" / "log", b"1")
    box.append(tmp_path / "new" / "log", b"2")
    assert files(tmp_path / "new") == {"a": b"two"}
    box.send()
    assert files(tmp_path / "new") == {"a": b"two", "log": b"12"}
    box.append(tmp_path / "new" / "log", b"3")
    quiet(box)
    quiet(box)
    assert files(tmp_path / "new") == {"a": b"two", "log": b"123"}
    assert box.give_up() == []


def test_full_for_a_while(disk):
    folder, full = disk
    box = Outbox()
    box.write(folder / "a", b"old")
    box.append(folder / "log", b"1")
    box.send()
    for time in ("first", "second"):
        before = files(folder)
        with full:
            with pytest.warns(UserWarning, match=rf"cannot write {folder}/a: (No space|File too).*tried again"):
                box.write(folder / "a", time.encode() * 5000)
            box.append(folder / "log", b"2" * 5000)
            quiet(box)  # one warning is enough
            assert files(folder) == before
            assert {error.errno for error in box.errors.values()} <= {27, 28}
            box.write(folder / f"b of the {time}", b"b" * 5000)
            box.write(folder / "a", time.encode() * 6000)
            box.append(folder / "log", b"3" * 5000)
            quiet(box)
            assert files(folder) == before
        quiet(box)
        assert box.errors == {}
        log = before["log"] + b"2" * 5000 + b"3" * 5000
        assert files(folder) == before | {"a": time.encode() * 6000, f"b of the {time}": b"b" * 5000, "log": log}


def test_half_a_piece_is_none(tmp_path):
    """A disk takes what fits before it says that the rest does not."""
    box, log = Outbox(), tmp_path / "log"
    box.append(log, b"1" * 1000)
    box.send()
    box.append(log, b"2" * 1000)
    with SmallDisk(1500), pytest.warns(UserWarning, match="cannot write"):
        box.send()
    assert log.read_bytes() == b"1" * 1000
    quiet(box)
    assert log.read_bytes() == b"1" * 1000 + b"2" * 1000


def test_what_is_in_the_way_of_one_is_not_in_that_of_others(tmp_path):
    (tmp_path / "file").touch()
    box = Outbox()
    with pytest.warns(UserWarning, match="cannot write .*file/a: (File exists|Not a directory)"):
        box.write(tmp_path / "file" / "a", b"a")
    quiet(box)
    box.write(tmp_path / "b", b"b")
    assert (tmp_path / "b").read_bytes() == b"b"
    with SmallDisk(0), pytest.warns(UserWarning, match="cannot write .*c: File too large"):
        box.write(tmp_path / "c", b"c")  # another reason
    with pytest.warns(UserWarning, match=r"^cannot write [^ ]*file/a: .*\. It is lost$"):
        assert box.give_up() == [tmp_path / "file" / "a"]
    assert box.give_up() == []


def test_memory_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr("gan.outbox.MOST", 10_000)
    box = Outbox()
    with SmallDisk(0):
        with pytest.warns(UserWarning, match="cannot write"):
            box.write(tmp_path / "a", b"x" * 3000)
        for name in "bc":
            box.write(tmp_path / name, b"x" * 3000)
        with pytest.warns(UserWarning, match=f"^cannot write {tmp_path}/a: .* It is lost$"):
            box.write(tmp_path / "d", b"x" * 3000)
    quiet(box)
    assert sorted(os.listdir(tmp_path)) == ["b", "c", "d"]


def test_interrupted(tmp_path, monkeypatch):
    """Ctrl-C in the middle leaves nothing half, and what was to be written can still be."""
    box, move = Outbox(), os.replace

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("gan.outbox.os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        box.write(tmp_path / "a", b"a")
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr("gan.outbox.os.replace", move)
    box.send()
    assert files(tmp_path) == {"a": b"a"}


def test_callbacks_of_a_trainer_share_one(make_trainer):
    one, two = make_trainer(), make_trainer()
    assert outbox(one) is outbox(one)
    assert outbox(one) is not outbox(two)
    box = weakref.ref(outbox(one))
    del one
    gc.collect()
    assert box() is None  # it ends with its trainer
