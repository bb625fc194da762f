"""A ZIP archive as torch writes it: closed by a digest of all of it, and read only where it can be read in one way.

Torch's reader and Python's make different things of a directory that was damaged or made up. One looks at the first of
two records of a name, the other at the last; a record that is marked as a folder is empty for torch, which then hands
out memory as it found it. So nothing is read from an archive in which the two could differ.
"""

import hashlib
import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

# The parts of a directory, as PKWARE's APPNOTE.TXT has them in 4.3.7 and from 4.3.12 to 4.3.16.
LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
END = struct.Struct("<4s4H2LH")

NAME = re.compile(rb"[^/]+(/[^/]+)+")  # no / at the end, which makes a folder of it
LETTERS = re.compile(rb"[ -\[\]-~]+")  # of ASCII, and no \, which is a / for some readers
FLAGS = 0x0808  # sizes behind the data, names in UTF-8; they may be set, and no others
DIGEST = b"sha256 "  # and 64 digits: the archive's comment, which readers skip
COMMENT = len(DIGEST) + 64


class Record(NamedTuple):
    """One of the files in an archive.

    Args:
        name: Its path in there.
        start: Where its bytes begin.
        size: How many it has.
        crc: Their sum.
    """

    name: str
    start: int
    size: int
    crc: int


class Ambiguous(ValueError):
    """The directory of an archive is none that torch writes."""


def seal(file: IO[bytes]) -> None:
    """Closes an archive without a comment by its digest, which so stays with every copy and every name of the file."""
    size = file.seek(0, io.SEEK_END)
    file.seek(size - 2)
    file.write(COMMENT.to_bytes(2, "little"))  # first: it is among the bytes that count
    digest = digest_of(file, size)
    file.seek(size)
    file.write(digest)


def damage(file: IO[bytes]) -> str | None:
    """What in an archive is not as it was written: a record by its name, or the list of them.

    An archive without a digest, which torch itself has written, is held against the sums of its records.
    """
    try:
        records, comment = read_directory(file)
    except (Ambiguous, struct.error):
        return "the list of its parts"
    if comment and comment == digest_of(file, file.seek(0, io.SEEK_END) - len(comment)):
        return None
    for record in records:
        crc = 0
        for chunk in chunks(file, record.start, record.start + record.size):
            crc = zlib.crc32(chunk, crc)
        if crc != record.crc:
            return record.name
    return "the list of its parts" if comment else None


def end_of(file: IO[bytes]) -> int | None:
    """Where the last part of an archive begins, behind which there is nothing but a digest; None if there is none."""
    size = file.seek(0, io.SEEK_END)
    for comment in (0, COMMENT):
        start = size - END.size - comment
        if start >= 0:
            file.seek(start)
            signature, *_, length = END.unpack(file.read(END.size))
            if signature == b"PK\5\6" and length == comment:
                return start
    return None


def read_directory(file: IO[bytes]) -> tuple[list[Record], bytes]:
    """The records of an archive, in the order of their bytes, and its comment.

    Raises:
        Ambiguous: If two readers could take it for two things.
    """
    place = end_of(file)
    if place is None:
        raise Ambiguous("no end")
    file.seek(place)
    *end, _ = END.unpack(file.read(END.size))
    comment = file.read()
    count, size, start = end[4:]
    limit = place - LOCATOR.size - END_64.size
    if limit >= 0:
        file.seek(limit)
        wide, locator = END_64.unpack(file.read(END_64.size)), LOCATOR.unpack(file.read(LOCATOR.size))
        if locator[0] == b"PK\6\7":  # readers look no further for whether these two are there
            count, size, start = wide[7:]
            if locator[1:] != (0, limit, 1) or wide[:2] != (b"PK\6\6", END_64.size - 12) or any(wide[4:6]):
                raise Ambiguous("a wide end that is not in its place")
            if wide[6] != count:
                raise Ambiguous("more than one disk")
        else:
            limit = place
    else:
        limit = place
    narrow = (b"PK\5\6", 0, 0, min(count, 0xFFFF), min(count, 0xFFFF), min(size, 0xFFFFFFFF), min(start, 0xFFFFFFFF))
    if tuple(end) != narrow or start + size != limit:
        raise Ambiguous("two ends")
    file.seek(start)
    records = list(entries(file, file.read(size), start))
    if count == 0 or len({record.name.lower() for record in records}) != count:
        raise Ambiguous("names that can be mistaken for each other")
    return records, comment


def entries(file: IO[bytes], directory: bytes, limit: int) -> Iterator[Record]:
    """The records that a directory lists, each of which lies behind the one before it, and all before `limit`.

    Raises:
        Ambiguous: If one does not, or is not what its place says that it is.
    """
    at = free = 0
    while at < len(directory):
        fields = ENTRY.unpack_from(directory, at)
        signature, _, needed, flags, method, _, _, crc, packed, size, *lengths, disk, _, marks, offset = fields
        name_at = at + ENTRY.size
        extra_at = name_at + lengths[0]
        at = extra_at + lengths[1]
        name, extra = directory[name_at:extra_at], directory[extra_at:at]
        size, packed, offset = widened((size, packed, offset), extra)
        if signature != b"PK\1\2" or needed > 45 or flags & ~FLAGS or method or packed != size or lengths[2] or disk:
            raise Ambiguous("a record of another kind")
        if (
            marks & 0xFFFF or not NAME.fullmatch(name) or not LETTERS.fullmatch(name)
        ):  # above them are Unix's permissions
            raise Ambiguous("a folder, or a name that not everybody reads alike")
        file.seek(offset)
        signature, _, *same, _, _, _, _, _, name_length, extra_length = LOCAL.unpack(file.read(LOCAL.size))
        start = offset + LOCAL.size + name_length + extra_length
        if signature != b"PK\3\4" or same != [flags, method] or file.read(name_length) != name:
            raise Ambiguous("a record that is not in its place")
        if offset < free or (free == 0 and offset != 0) or start + size > limit:
            raise Ambiguous("records that overlap")
        free = start + size
        yield Record(name.decode(), start, size, crc)
    if at != len(directory):
        raise Ambiguous("half a record")


def widened(numbers: tuple[int, ...], extra: bytes) -> list[int]:
    """Numbers of 32 bits, or of 64 in their place where `extra` has them.

    Raises:
        Ambiguous: If it has others, or anything else.
    """
    count = numbers.count(0xFFFFFFFF)
    if len(extra) != (4 + 8 * count if count else 0) or (count and extra[:4] != struct.pack("<2H", 1, 8 * count)):
        raise Ambiguous("what only some readers look at")
    wide = iter(struct.unpack(f"<{count}Q", extra[4:]))
    return [next(wide) if number == 0xFFFFFFFF else number for number in numbers]


def digest_of(file: IO[bytes], size: int) -> bytes:
    """What the comment of an archive says of the bytes before it, of which there are `size`."""
    digest = hashlib.sha256()  # half the time of blake2b where the processor helps, as most do
    for chunk in chunks(file, 0, size):
        digest.update(chunk)
    return DIGEST + digest.hexdigest().encode()


def chunks(file: IO[bytes], start: int, end: int) -> Iterator[bytes]:
    """The bytes of a file from `start` to `end`, a megabyte at a time."""
    file.seek(start)
    for place in range(start, end, 1 << 20):
        yield file.read(min(1 << 20, end - place))
