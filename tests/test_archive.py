"""Archives on the disk: a bit that is not as it was written is seen, and what readers could differ in is refused."""

import io
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from commands import equal, load

from gan import GAN
from gan.archive import COMMENT, ENTRY, LOCAL, damage, read_directory, seal, widened
from gan.checkpoints import check_checkpoint, read, write

CONTENT = {
    "state_dict": {f"generator.{number}": torch.arange(5.0 + number) for number in range(3)},
    "hyper_parameters": {"_instantiator": "x"},
}


@pytest.fixture(scope="module")
def plain() -> bytes:
    """As torch writes it."""
    file = io.BytesIO()
    torch.save(CONTENT, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> bytes:
    """As a run does."""
    path = tmp_path_factory.mktemp("sealed") / "a.ckpt"
    write(CONTENT, path)
    return path.read_bytes()


def flipped(content: bytes, places: Iterable[int]) -> Iterator[tuple[tuple[int, int], bytes]]:
    """The content with one bit otherwise, for each bit of some bytes."""
    for place in places:
        for bit in range(8):
            copy = bytearray(content)
            copy[place] ^= 1 << bit
            yield (place, bit), bytes(copy)


def directory(content: bytes) -> int:
    """Where the directory begins, which the end of the archive is behind."""
    return content.index(b"PK\1\2")


def around_records(content: bytes) -> list[int]:
    """All that is no record's: what is before each, and the directory."""
    records, _ = read_directory(io.BytesIO(content))
    inside = {place for record in records for place in range(record.start, record.start + record.size)}
    return sorted(set(range(len(content))) - inside)


def is_refused(content: bytes, path: Path) -> bool:
    """Whether it is; if not, torch must read what was written, however it is asked."""
    path.write_bytes(content)
    try:
        check_checkpoint(path)
    except ValueError:
        return True
    assert equal(load(path), CONTENT)
    assert equal(torch.load(path, mmap=True, weights_only=True), CONTENT)
    return False


# ---------------------------------------------------------------------- bits


def test_every_bit_of_a_sealed_one(sealed):
    """Three kilobytes, from the first to the last."""
    assert damage(io.BytesIO(sealed)) is None
    for place, content in flipped(sealed, range(len(sealed))):
        assert damage(io.BytesIO(content)) is not None, place


def test_some_bits_of_the_directory(plain, tmp_path):
    """Without a digest, some are harmless: dates, versions, permissions."""
    places = random.Random(0).sample(range(directory(plain), len(plain)), 60)
    refused = [is_refused(content, tmp_path / "a.ckpt") for _, content in flipped(plain, places)]
    assert sum(refused) > 0.7 * len(refused)


@pytest.mark.slow
def test_every_bit_around_the_records(plain, tmp_path):
    """Each is refused, or exactly the same is read. Half of them lie in what fills the space before a record."""
    refused = [is_refused(content, tmp_path / "a.ckpt") for _, content in flipped(plain, around_records(plain))]
    assert len(refused) > 10_000
    assert sum(refused) > 5_000


@pytest.mark.slow
def test_several_bits_around_the_records(plain, tmp_path):
    rng, places = random.Random(1), around_records(plain)
    for _ in range(5_000):
        content = bytearray(plain)
        for place in rng.sample(places, rng.choice([2, 3, 5])):
            content[place] ^= 1 << rng.randrange(8)
        is_refused(bytes(content), tmp_path / "a.ckpt")


# ---------------------------------------------------------------------- what readers differ in


def changed(content: bytes, record: int, field: int, value: int | bytes, of: str = "directory") -> bytes:
    """The content with another value in a field of a record: of the directory, or before its bytes."""
    form = ENTRY if of == "directory" else LOCAL
    starts = [place for place in range(len(content)) if content[place : place + 4] == b"PK\1\2"]
    at = starts[record]
    if of != "directory":
        at = ENTRY.unpack_from(content, at)[-1]
    fields = list(form.unpack_from(content, at))
    fields[field] = value
    return content[:at] + form.pack(*fields) + content[at + form.size :]


def renamed(content: bytes, old: bytes, new: bytes) -> bytes:
    """The content with another name, as long as the first, in both of its places."""
    assert content.count(old) == 2
    assert len(old) == len(new)
    return content.replace(old, new)


def both(content: bytes, record: int, field: int, value: int) -> bytes:
    """The content with another value in a field that the directory and the place of a record share."""
    return changed(changed(content, record, field, value), record, field - 1, value, of="place")


def with_ends(content: bytes, start: int, size: int, count: int | None = None) -> bytes:
    """The content with a directory there in both of its ends, and the last of them in its place."""
    copy, at = bytearray(content), content.index(b"PK\6\6")
    struct.pack_into("<2Q", copy, at + 40, size, start)
    struct.pack_into("<Q", copy, at + 56 + 8, at)
    struct.pack_into("<2L", copy, at + 56 + 20 + 12, size, start)
    if count is not None:
        struct.pack_into("<2Q", copy, at + 24, count, count)
        struct.pack_into("<2H", copy, at + 56 + 20 + 8, count, count)
    return bytes(copy)


def with_extra(content: bytes, extra: bytes) -> bytes:
    """The content with more behind the last name of the directory."""
    start, at = directory(content), content.index(b"PK\6\6")
    lengths = content.rindex(b"PK\1\2", 0, at) + 30
    content = content[:lengths] + struct.pack("<H", len(extra)) + content[lengths + 2 : at] + extra + content[at:]
    return with_ends(content, start, at + len(extra) - start)


def with_gap(content: bytes) -> bytes:
    """The content with something between the directory and its ends."""
    start, at = directory(content), content.index(b"PK\6\6")
    return with_ends(content[:at] + bytes(8) + content[at:], start, at - start)


def without_records(content: bytes) -> bytes:
    start, at = directory(content), content.index(b"PK\6\6")
    return with_ends(content[:start] + content[at:], start, 0, count=0)


def fewer(content: bytes) -> bytes:
    start, at = directory(content), content.index(b"PK\6\6")
    return with_ends(content, start, at - start, count=7)


def end_field(content: bytes, at: int, form: str, value: int) -> bytes:
    """The content with another value somewhere in its ends."""
    copy = bytearray(content)
    struct.pack_into(form, copy, content.index(b"PK\6\6") + at, value)
    return bytes(copy)


def behind_something(content: bytes) -> bytes:
    """As Python's reader finds it: behind anything, wherever its ends say that it is."""
    return b"PK\3\4" + bytes(60) + content


def behind_something_and_says_so(content: bytes) -> bytes:
    file = io.BytesIO(b"PK\3\4" + bytes(60))
    with zipfile.ZipFile(io.BytesIO(content)) as one, zipfile.ZipFile(file, "a") as two:
        for name in one.namelist():
            two.writestr(name, one.read(name))
    return file.getvalue()


OTHERWISE = {
    "marked as a folder": lambda content: changed(content, 4, 15, 0x10),  # torch hands out memory as it found it
    "named as a folder": lambda content: renamed(content, b"archive/data/1", b"archive/data//"),
    "two of a name": lambda content: renamed(content, b"archive/data/1", b"archive/data/0"),
    "two of a name but for case": lambda content: renamed(content, b"archive/data/1", b"archive/DATA/0"),
    "letters of no ASCII": lambda content: renamed(content, b"archive/data/1", b"archive/data/\xff"),
    "no letter": lambda content: renamed(content, b"archive/data/1", b"archive/data\0001"),
    "a backslash": lambda content: renamed(content, b"archive/data/1", b"archive/data\\1"),
    "other name at its place": lambda content: content.replace(b"archive/data/1", b"archive/data/3", 1),
    "at the place of another": lambda content: changed(
        content, 4, 16, ENTRY.unpack_from(content, directory(content))[-1]
    ),
    "encrypted": lambda content: both(content, 4, 3, 0x0809),
    "encrypted at its place": lambda content: changed(content, 4, 2, 0x0809, of="place"),
    "packed": lambda content: both(content, 4, 4, 8),
    "packed at its place": lambda content: changed(content, 4, 3, 8, of="place"),
    "on another disk": lambda content: changed(content, 4, 13, 1),
    "for a later version": lambda content: changed(content, 4, 2, 64),
    "two sizes": lambda content: changed(content, 4, 8, 4),
    "over the next one": lambda content: changed(changed(content, 4, 8, 200), 4, 9, 200),
    "over the directory": lambda content: changed(changed(content, 8, 8, 200), 8, 9, 200),
    "beyond the end": lambda content: changed(changed(content, 4, 8, 2**32 - 2), 4, 9, 2**32 - 2),
    "a wide number that nothing asks for": lambda content: with_extra(content, struct.pack("<2HQ", 1, 8, 1)),
    "another name for some": lambda content: with_extra(content, struct.pack("<2HBL", 0x7075, 9, 1, 0) + b"x/ye"),
    "fewer than there are": fewer,
    "none": without_records,
    "a gap before the ends": with_gap,
    "more at the end": lambda content: content + b"more",
    "half a comment": lambda content: content[:-2] + b"\4\0",
    "a comment": lambda content: content[:-2] + b"\4\0more",
    "a comment of that length": lambda content: content[:-2] + struct.pack("<H", COMMENT) + bytes(COMMENT),
    "an archive in the comment": lambda content: content[:-2] + struct.pack("<H", len(content)) + content,
    "something before it": behind_something,
    "something before it that counts": behind_something_and_says_so,
    "two counts": lambda content: end_field(content, 24, "<Q", 8),
    "two counts at the end": lambda content: end_field(content, 84, "<H", 8),
    "two disks": lambda content: end_field(content, 16, "<L", 1),
    "a wide end elsewhere": lambda content: end_field(content, 64, "<Q", 1),
    "a longer wide end": lambda content: end_field(content, 4, "<Q", 60),
}


@pytest.mark.parametrize("kind", OTHERWISE)
def test_what_readers_differ_in(plain, kind):
    """A digest says that nothing has changed since it was written, not that it is ours: refused with one, too."""
    content = OTHERWISE[kind](plain)
    assert damage(io.BytesIO(content)) == "the list of its parts"
    with pytest.raises(ValueError, match="is damaged"):
        check_checkpoint(io.BytesIO(content))
    if content[-2:] == b"\0\0":
        file = io.BytesIO(content)
        seal(file)
        assert damage(file) == "the list of its parts"


def test_numbers_of_64_bits():
    """Those of files beyond 4 GB, where the directory has room for 32."""
    full = 0xFFFFFFFF
    assert widened((1, 2, 3), b"") == [1, 2, 3]
    assert widened((1, full, 3), struct.pack("<2HQ", 1, 8, 5)) == [1, 5, 3]
    assert widened((full, full, full), struct.pack("<2H3Q", 1, 24, 5, 6, 7)) == [5, 6, 7]
    for extra in (b"", struct.pack("<2HQ", 2, 8, 5), struct.pack("<2HQ", 1, 16, 5), struct.pack("<2H2Q", 1, 16, 5, 6)):
        with pytest.raises(ValueError, match="only some readers"):
            widened((1, full, 3), extra)


def test_helpers_change_what_they_should(plain):
    """What is left as it was is taken: it is not for a slip of these tests that the others are refused."""
    size = plain.index(b"PK\6\6") - directory(plain)
    for same in (with_ends(plain, directory(plain), size, count=9), both(plain, 4, 4, 0), with_extra(plain, b"")):
        assert same == plain
    assert damage(io.BytesIO(plain)) is None


# ---------------------------------------------------------------------- what is as it was


def test_others_read_a_sealed_one(sealed, tmp_path):
    path, copy, link = (tmp_path / name for name in ("a.ckpt", "b.ckpt", "c.ckpt"))
    path.write_bytes(sealed)
    shutil.copyfile(path, copy)
    os.link(path, link)
    for name in (path, copy, link):
        check_checkpoint(name)
        assert equal(load(name), CONTENT)
        assert equal(torch.load(name, weights_only=True, mmap=True), CONTENT)
        assert torch.load(name, weights_only=True, map_location="meta").keys() == CONTENT.keys()
        with zipfile.ZipFile(name) as archive:
            assert archive.testzip() is None
            assert len(archive.comment) == COMMENT


def test_one_without_a_digest_is_taken(plain, tmp_path):
    """Of torch itself; and of Python's zipfile, which writes other versions and permissions."""
    again = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain)) as one, zipfile.ZipFile(again, "w") as two:
        for name in one.namelist():
            two.writestr(name, one.read(name))
    for content in (plain, again.getvalue()):
        assert not is_refused(content, tmp_path / "a.ckpt")
        assert is_refused(content.replace(torch.arange(7.0).numpy().tobytes(), bytes(28)), tmp_path / "a.ckpt")


def test_every_door_looks(plain, tmp_path):
    """Those of the commands are in test_run.py."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(OTHERWISE["marked as a folder"](plain))
    load(path)  # torch's own reader says nothing
    with path.open("rb") as file:
        for door in (check_checkpoint, read, GAN.load_from_checkpoint):
            with pytest.raises(ValueError, match="is damaged: the list of its parts"):
                door(path)
            if door is not read:
                with pytest.raises(ValueError, match="is damaged: the list of its parts"):
                    door(file)
