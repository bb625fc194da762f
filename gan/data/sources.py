"""The image files of a folder, a ZIP archive or a tar, and the classes that their folders tell; nothing is unpacked."""

import hashlib
import io
import os
import re
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from gan.data.reading import suffixes
from gan.errors import GANError, counted

OUTSIDE = re.compile(r"/|[A-Za-z]:/|(.*/)?\.\.(/|$)")  # where a member of an archive must not lie
BOMB = 2**26  # bytes from which a member of an archive
RATIO = 200  # times as large as what is stored of it is no image


class File(NamedTuple):
    """An image file, as far as it is known without being read."""

    name: str  # below the folder or within the archive, with slashes
    size: int  # bytes
    stamp: int  # what changes with its content: the time of its last change, or its checksum
    place: Any  # its path, or what the archive knows it by


class Sources:
    """Image files, by the endings of their names; hidden ones are left out, as is what `__MACOSX` holds.

    Where all of them lie in two or more folders below `path`, or below the one folder there, these are the classes, in
    the order of their names; what lies deeper belongs to them. Otherwise there are none, and `why_none` says which
    images lie beside such folders, if that is why.

    Args:
        path: A folder, whose links are followed, a ZIP archive or a tar that is not compressed.

    Raises:
        ValueError: If it is none of these, cannot be read, has no images, a class without one, or is an archive that is
            made to do harm.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.archive: zipfile.ZipFile | None = None
        try:
            found, folders = self._find()
        except GANError:
            raise
        except Exception as error:  # of damaged archives Python raises anything
            where, why = path, str(error) or type(error).__name__
            if isinstance(error, OSError) and error.strerror:
                where, why = error.filename or path, error.strerror.lower()
            raise GANError(f"data.folder cannot be read, at {shown(where)}: {why}") from error
        visible = [file for file in found if not is_hidden(file.name)]
        images = {ending(file.name) for file in visible} & suffixes()
        self.files = sorted((file for file in visible if ending(file.name) in images), key=lambda file: file.name)
        self.others = Counter(ending(file.name) for file in visible if ending(file.name) not in images)
        if not self.files:
            raise GANError(
                f"data.folder {shown(path)} has no image{self.told_of_others(', but ')}: give the folder, ZIP or tar "
                f"that has files such as .png, .jpg or .webp"
            )
        self.classes, self.labels, self.why_none = classes_of(
            [file.name for file in self.files], {folder for folder in folders if not is_hidden(folder)}, shown(path)
        )

    def _find(self) -> tuple[list[File], set[str]]:
        """All files, and all folders that they lie in or that are empty.

        Raises:
            ValueError: If there are none to be had.
        """
        if self.path.is_dir():
            return walk(self.path)
        if not self.path.exists():
            raise GANError(f"data.folder {shown(self.path)} is not there: give a folder, a ZIP or a tar of images")
        if zipfile.is_zipfile(self.path):
            self.archive = zipfile.ZipFile(self.path)
            return in_zip(self.archive, self.path)
        if tarfile.is_tarfile(self.path):
            return in_tar(self.path)
        raise GANError(f"data.folder {shown(self.path)} is neither a folder, nor a ZIP, nor a tar")

    def told_of_others(self, before: str = "") -> str:
        """`3 other files (.txt, .heic)`: what lies there that is no image by its name; nothing if nothing does."""
        if not self.others:
            return ""
        endings = [name or "without an ending" for name, _ in self.others.most_common(3)]
        more = ", ..." if len(self.others) > 3 else ""
        return f"{before}{counted(self.others.total(), 'other file')} ({', '.join(map(shown, endings))}{more})"

    def fingerprint(self) -> bytes:
        """What changes when a file is added, removed, renamed or written, found without reading any."""
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files:
            digest.update(os.fsencode(f"{file.name}\0{file.size} {file.stamp}\0"))
        digest.update(repr(self.classes).encode("utf-8", "surrogatepass"))
        return digest.digest()

    def open(self, file: File) -> AbstractContextManager[IO[bytes]]:
        """A file's content, from several threads at once if need be.

        Raises:
            OSError: If it cannot be read. Archives raise errors of their own besides.
        """
        archive = self.archive
        if archive is not None:
            return archive.open(file.place)
        if isinstance(file.place, Path):
            return file.place.open("rb")
        with self.path.open("rb") as tar:
            tar.seek(file.place)
            content = tar.read(file.size)
        if len(content) < file.size:
            raise EOFError("the archive ends before it")
        return io.BytesIO(content)


def walk(top: Path) -> tuple[list[File], set[str]]:
    """The files and folders below a folder. Each folder is read once, so that links in a circle end.

    Raises:
        OSError: If a folder cannot be read.
    """
    files, folders, seen, waiting = [], set(), set(), [("", top)]
    while waiting:
        name, folder = waiting.pop(0)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.add(name)
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                below, path = f"{name}/{entry.name}" if name else entry.name, Path(entry.path)
                try:
                    status = entry.stat()
                except OSError:  # a link to nothing, or to itself: why, is known when it is opened
                    files.append(File(below, 0, 0, path))
                    continue
                if stat.S_ISREG(status.st_mode):
                    files.append(File(below, status.st_size, status.st_mtime_ns, path))
                elif stat.S_ISDIR(status.st_mode) and not is_hidden(entry.name):
                    waiting.append((below, path))
    return files, folders - {""}


def in_zip(archive: zipfile.ZipFile, path: Path) -> tuple[list[File], set[str]]:
    """The files and folders of a ZIP archive.

    Raises:
        ValueError: If a member lies outside of it, needs a password, or is a bomb.
    """
    files, folders = [], set()
    for member in archive.infolist():
        name = inside(member.filename, path)
        if member.is_dir():
            folders |= {name, *parents(name)}
            continue
        if member.flag_bits & 1:
            raise GANError(f"data.folder {shown(path)} needs a password: unpack it, and give the folder")
        if member.file_size > max(BOMB, RATIO * member.compress_size) and ending(name) in suffixes():
            raise GANError(
                f"data.folder {shown(path)} is a ZIP bomb: {shown(name)} says that it has {member.file_size:,} bytes, "
                f"of which {member.compress_size:,} are stored; take it out of the archive"
            )
        folders |= set(parents(name))
        files.append(File(name, member.file_size, member.CRC, member))
    if sum(file.size for file in files if ending(file.name) in suffixes()) > max(BOMB, RATIO * path.stat().st_size):
        raise GANError(f"data.folder {shown(path)} is a ZIP bomb: its members share what is stored")
    return files, folders


def in_tar(path: Path) -> tuple[list[File], set[str]]:
    """The files and folders of a tar.

    Raises:
        ValueError: If it is compressed, or a member lies outside of it.
    """
    try:
        archive = tarfile.open(path, "r:")  # noqa: SIM115
    except tarfile.ReadError as error:
        raise GANError(
            f"data.folder {shown(path)} is a compressed tar, of which no image can be read without all before it: "
            "decompress it (gunzip, bunzip2, unxz), or unpack it and give the folder"
        ) from error
    files, folders = [], set()
    with archive:
        for member in archive:
            name = inside(member.name, path)
            if member.isdir():
                folders |= {name, *parents(name)} - {""}
            elif member.isreg() and not member.issparse():
                folders |= set(parents(name))
                stamp = int(member.mtime) << 64 | member.offset_data
                files.append(File(name, member.size, stamp, member.offset_data))
    return files, folders


def inside(name: str, path: Path) -> str:
    """The name of an archive's member, with slashes.

    Raises:
        ValueError: If it would lie outside of the folder that the archive is unpacked in.
    """
    name = name.replace("\\", "/")
    if OUTSIDE.match(name):
        raise GANError(
            f"data.folder {shown(path)} has a member {shown(name)}, which would lie outside of it: who made this "
            "archive may mean harm; take the member out"
        )
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def parents(name: str) -> list[str]:
    """The folders that a name lies in."""
    return [str(folder) for folder in PurePosixPath(name).parents if folder.name]


def ending(name: str) -> str:
    """`.png` of a file's name; nothing if it has none."""
    return os.path.splitext(name)[1].lower()


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def classes_of(names: Sequence[str], folders: set[str], path: str) -> tuple[list[str] | None, list[int], str]:
    """The classes that folders tell, the label of each file, and nothing; or no classes, zeros, and why they tell none.

    Args:
        names: Of the files.
        folders: All folders, those without images too.
        path: What the error calls the place of all that.

    Raises:
        ValueError: If a class has no image.
    """
    above = ""  # the folders that all others lie in, with a slash
    while True:
        tops = {folder[len(above) :].split("/")[0] for folder in folders if folder.startswith(above)} - {""}
        beside = [name for name in names if "/" not in name[len(above) :]]
        if beside:
            lie = f"{counted(len(beside), 'image lies', 'images lie')} beside the folders {told(sorted(tops), 3)}"
            return None, [0] * len(names), lie if len(tops) > 1 else ""
        if len(tops) != 1:
            break
        above += f"{tops.pop()}/"
    own = [name[len(above) :].split("/")[0] for name in names]
    if empty := sorted(tops - set(own)):
        raise GANError(
            f"data.folder {path} has a folder for each class, and in {told(empty)} is no image: take it away, or put "
            "some there"
        )
    classes = sorted(tops)
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, [numbers[name] for name in own], ""


def told(names: Sequence[str], most: int = 20) -> str:
    """Names in a line, and how many there are besides."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def shown(name: str | Path) -> str:
    """A name as one line that a terminal can show, whatever letters, or none, it is made of."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
