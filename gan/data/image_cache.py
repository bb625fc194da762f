"""Images of a folder as one file of uint8 that is mapped into memory: read, cropped and resized once, by all cores."""

import hashlib
import io
import json
import os
import shutil
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from torch import Tensor

from gan.data.reading import Unreadable, read_array, reason
from gan.data.sources import File, Sources, shown, told
from gan.errors import GANError, counted
from gan.folder import lock
from gan.paths import cache_folder

# Part of the key of a cache. Change it with anything that changes the pixels of the same files.
PREPROCESSING = "cropped to the middle, Lanczos, 1"

HEAD = 1024  # bytes before the images
WHOLE = 2**24  # bytes up to which a file is read at once, and by its parts beyond
TURN = 8  # files that a thread reads before it takes others
WAIT = 0.2  # seconds between two looks at whether another process has made the cache
WAY_OUT = "set the environment variable GAN_CACHE to a folder that can be written and has room"


class Settings(NamedTuple):
    """What becomes of each image."""

    size: int  # height and width
    channels: int | None  # 1 grey, 3 colour, None what the files are
    background: str  # behind what is transparent


class Kept(NamedTuple):
    """What a cache holds, in the order of the hashes, which is as good as none."""

    path: Path
    images: Tensor  # uint8 (N, C, size, size), mapped: read from the disk as it is asked for
    labels: Tensor  # int64 (N,)
    hashes: Tensor  # int64 (N,) from 0 to 2^63 - 1, by each file's content
    left_out: list[tuple[str, str]]  # names of files, and what is wrong with each


def say(text: str) -> None:
    """Shows a line on the first process's terminal, which may not have all its letters."""
    if getattr(rank_zero_only, "rank", 0):
        return
    console = Console(highlight=False, soft_wrap=True)
    with suppress(OSError):  # the output may be a file on a full disk
        console.print(text.encode(console.encoding, "backslashreplace").decode(console.encoding), markup=False)


def place_of(sources: Sources, settings: Settings) -> tuple[Path, str]:
    """Where a cache is kept, and what the names of all caches of this place and these settings begin with.

    Raises:
        ValueError: If this user has no place for it.
    """
    folder = cache_folder()
    if folder is None:
        raise GANError(f"this user has no home to keep a cache of images in: {WAY_OUT}")
    what = repr((PREPROCESSING, *settings)).encode()
    key = hashlib.blake2b(sources.fingerprint() + what, digest_size=10).hexdigest()
    where = hashlib.blake2b(os.fsencode(sources.path.absolute()) + what, digest_size=5).hexdigest()
    stem = "".join(letter if letter.isalnum() else "_" for letter in sources.path.absolute().stem)[:40]
    begin = f"{stem}-{settings.size}-{where}-"
    return folder / "images" / f"{begin}{key}.safetensors", begin


def recall(sources: Sources, settings: Settings) -> Kept | None:
    """The cache of these files and settings; None if there is none, or a damaged one, which is a warning.

    A copy of the files elsewhere has the same.

    Raises:
        ValueError: If this user has no place for it.
    """
    path, _ = place_of(sources, settings)
    key = path.name.rpartition("-")[2]
    for found in (path, *sorted(path.parent.glob(f"*-{key}"))):
        try:
            with safe_open(found, framework="pt") as file:
                images, labels, hashes, notes = map(file.get_tensor, ("images", "labels", "hashes", "notes"))
            left_out = json.loads(notes.numpy().tobytes())["left_out"]
        except FileNotFoundError:
            continue
        except Exception as error:  # a damaged file can raise anything
            warnings.warn(f"{found} is damaged, and is made anew: {error}", stacklevel=2)
            with suppress(OSError):
                found.unlink()
            continue
        # Copies of what is small: of a file that is cut off, memory that is mapped ends the process.
        return Kept(found, images, labels.clone(), hashes.clone(), [(name, why) for name, why in left_out])
    return None


def make(sources: Sources, settings: Settings, channels: int, max_damaged: float) -> Kept:
    """Reads all files, and keeps what they give; or waits for another run that does so, and takes what that has kept.

    Args:
        sources: The files.
        settings: What becomes of them.
        channels: Of all images, where the settings leave it to the files.
        max_damaged: The largest share of the files that may be left out.

    Raises:
        ValueError: If more are damaged, a class is left without an image, or the cache cannot be written.
    """
    path, begin = place_of(sources, settings)
    needed = len(sources.files) * channels * settings.size**2
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(path) as file:
            if file is not None:
                free = shutil.disk_usage(path.parent).free
                if free < needed:
                    raise GANError(
                        f"the cache of images needs {as_bytes(needed)} in {path.parent}, where {as_bytes(free)} are "
                        f"free: {WAY_OUT}"
                    )
                outdated = [other for other in path.parent.glob(f"{begin}*.safetensors") if other != path]
                if outdated:
                    say(f"data           {shown(sources.path)} has changed: its cache is made anew")
                fill(file, sources, settings, channels, max_damaged)
                for other in outdated:
                    with suppress(OSError):  # as where another run reads it, and the system minds
                        other.unlink()
    except OSError as error:
        raise GANError(f"the cache of images cannot be written to {path.parent}: {reason(error)}; {WAY_OUT}") from error
    kept = recall(sources, settings)
    if kept is None:
        raise GANError(f"the cache of images {path} is gone as soon as it was made: {WAY_OUT}")
    return kept


def as_bytes(number: int) -> str:
    """`12 MB` or `3.4 GB`."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def fill(file: IO[bytes], sources: Sources, settings: Settings, channels: int, max_damaged: float) -> None:
    """Writes a cache to a file.

    Raises:
        ValueError: If too many files are damaged, or a class is left without an image.
        OSError: If the file cannot be written.
    """
    total, since = len(sources.files), time.perf_counter()
    left_out: list[tuple[str, str]] = []
    with at_work(total) as (threads, advance), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of files that it reads all the same
        known = []
        looked = turns(threads, partial(look, sources), sources.files, partial(advance, "looks at"))
        for number, hash_ in enumerate(looked):
            if isinstance(hash_, int):
                known.append((hash_, sources.files[number], sources.labels[number]))
            else:
                left_out.append((sources.files[number].name, hash_))
        check_damage(left_out, total, max_damaged, sources)
        known.sort(key=lambda item: (item[0], item[1].name))
        file.write(bytes(HEAD))
        good = []
        read = partial(pixels_of, sources, settings, channels)
        for item, pixels in zip(
            known, turns(threads, read, [file for _, file, _ in known], partial(advance, "reads")), strict=True
        ):
            if isinstance(pixels, str):
                left_out.append((item[1].name, pixels))
            else:
                file.write(pixels.data)
                good.append(item)
    check_damage(left_out, total, max_damaged, sources)
    check_classes([label for *_, label in good], sources)
    shape = (len(good), channels, settings.size, settings.size)
    notes = {
        "source": shown(sources.path),
        "settings": settings._asdict(),
        "classes": [*map(shown, sources.classes or [])],
    }
    notes["left_out"] = [(shown(name), why) for name, why in sorted(left_out)]
    text = json.dumps(notes).encode()
    ended = int(np.prod(shape)) + len(text)
    parts = {
        "notes": ("U8", np.frombuffer(text + b" " * (-ended % 8), np.uint8)),  # so that what follows is aligned
        "labels": ("I64", np.array([label for *_, label in good], "<i8")),
        "hashes": ("I64", np.array([hash_ for hash_, *_ in good], "<i8")),
    }
    head: dict[str, Any] = {"images": {"dtype": "U8", "shape": shape, "data_offsets": [0, int(np.prod(shape))]}}
    for name, (dtype, array) in parts.items():
        file.write(array.data)
        begin = file.tell() - HEAD - array.nbytes
        head[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, begin + array.nbytes]}
    file.seek(0)
    file.write((HEAD - 8).to_bytes(8, "little") + json.dumps(head).encode().ljust(HEAD - 8))
    took = time.perf_counter() - since
    say(f"data           read {counted(len(good), 'image')} once, in {took:.0f} s, for this run and those to come")


def look(sources: Sources, file: File) -> int | str:
    """The hash of a file's content, 0 to 2^63 - 1; or why it cannot be read."""
    digest = hashlib.sha256()  # half the time of blake2b where the processor helps, as most do
    try:
        with sources.open(file) as content:
            while chunk := content.read(2**20):
                digest.update(chunk)
    except Exception as error:  # of damaged archives Python raises anything
        return reason(error)
    return int.from_bytes(digest.digest()[:8]) >> 1


def pixels_of(sources: Sources, settings: Settings, channels: int, file: File) -> np.ndarray | str:
    """The pixels of a file, uint8 (channels, size, size); or what is wrong with it."""
    try:
        with opened(sources, file) as content:
            size, mode = (settings.size, settings.size), "L" if channels == 1 else "RGB"
            return read_array(content, size, mode, settings.background)
    except Exception as error:  # of damaged archives Python raises anything
        return str(error) if isinstance(error, Unreadable) else reason(error)


@contextmanager
def opened(sources: Sources, file: File) -> Iterator[IO[bytes]]:
    """A file's content; of a large one never all of it, whatever an archive makes of it."""
    with sources.open(file) as content:
        yield io.BytesIO(content.read()) if file.size <= WHOLE else content


def turns(
    threads: ThreadPoolExecutor, function: Callable[[File], Any], files: Sequence[File], advance: Callable[[int], None]
) -> Iterator[Any]:
    """What a function gives of each file, in order, and no more of it at once than is soon written."""

    def each(start: int) -> list[Any]:
        return [function(file) for file in files[start : start + TURN]]

    waiting: deque[Future[list[Any]]] = deque()
    for start in range(0, len(files), TURN):
        waiting.append(threads.submit(each, start))
        if len(waiting) > 3 * cores():
            yield from waiting.popleft().result()
            advance(start)
    while waiting:
        yield from waiting.popleft().result()


@contextmanager
def at_work(total: int) -> Iterator[tuple[ThreadPoolExecutor, Callable[[str, int], None]]]:
    """Threads, one a core, and what moves a bar of `total` files that are looked at, and read then."""
    console = Console(highlight=False)
    bar = Progress(
        TextColumn("data           {task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
        transient=True,
        disable=not console.is_terminal or bool(getattr(rank_zero_only, "rank", 0)),
    )
    tasks = {what: bar.add_task(f"{what} the images", total=total, visible=False) for what in ("looks at", "reads")}
    threads = ThreadPoolExecutor(cores())
    try:
        with bar:
            yield threads, lambda what, done: bar.update(tasks[what], completed=done, visible=True)
    finally:
        threads.shutdown(cancel_futures=True)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_damage(left_out: Sequence[tuple[str, str]], total: int, most: float, sources: Sources) -> None:
    """Refuses a set of which too much is left out.

    Raises:
        ValueError: If it is.
    """
    if left_out and (len(left_out) > most * total or len(left_out) == total):
        raise GANError(
            f"{told_left_out(left_out, total)}: more than data.max_damaged={most:g} allows of {shown(sources.path)}; "
            "mend or remove them, or raise it"
        )


def told_left_out(left_out: Sequence[tuple[str, str]], total: int) -> str:
    """`2 of 500 files cannot be read: a.png (no image), b.jpg (image file is truncated)`."""
    files = [f"{shown(name)} ({why})" for name, why in sorted(left_out)]
    return f"{len(left_out):,} of {counted(total, 'file')} cannot be read: {told(files, most=20)}"


def check_classes(labels: Iterable[int], sources: Sources) -> None:
    """Refuses classes of which no image is left.

    Raises:
        ValueError: If there is one.
    """
    present = Counter(labels)
    if missing := [name for number, name in enumerate(sources.classes or []) if number not in present]:
        raise GANError(
            f"data.folder {shown(sources.path)} has no image that can be read of {told(missing)}: mend one there, or "
            "take the folder away"
        )


# ---------------------------------------------------------------------- written whole, and by one


@contextmanager
def held(path: Path) -> Iterator[IO[bytes] | None]:
    """A new file, which takes its place at `path` at the end, whole; None where another process has put one there.

    It is locked as long as it is written. Where a process is killed, the next one goes on with its file.

    Raises:
        OSError: If it cannot be written.
    """
    file = part = None
    while file is None and not path.exists():
        file, part = take(path.with_name(f"{path.name}.part"))
    if file is None or part is None:
        yield None
        return
    try:
        file.truncate(0)
        yield file
        file.flush()
        os.fsync(file.fileno())
        if os.name == "nt":  # where a file that is open cannot be renamed
            file.close()
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    finally:
        with suppress(OSError):  # what a full disk has not taken
            file.close()


def take(part: Path) -> tuple[IO[bytes] | None, Path]:
    """A file to write, locked for this process, and its path; None while another process has it.

    Raises:
        OSError: If it cannot be written.
    """
    file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    try:
        if not lock(file):  # where no file can be locked, each process writes one of its own
            file.close()
            part.unlink(missing_ok=True)
            part = part.with_name(f"{part.name}.{os.getpid()}")
            return part.open("w+b"), part
        if os.path.samestat(os.fstat(file.fileno()), part.stat()):
            return file, part
    except BlockingIOError:
        time.sleep(WAIT)
    except FileNotFoundError:  # another one has just put it in its place, or given up
        pass
    file.close()
    return None, part
