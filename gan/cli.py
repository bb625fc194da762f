"""The door: `python -m gan.cli fit | validate | test | cure | sample | translate | export | train_features | lab`.

fit, validate and test are Lightning's (`gan.run`); cure tries what the doctor of a run prescribes (`gan.cure`); sample,
translate and export take images and the generator out of a checkpoint (`gan.generate`); train_features trains what FID
is measured with (`gan.train_features`); lab runs the experiments on vanishing gradients (`gan.lab`).
"""

import ctypes
import errno
import gc
import io
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from gan.errors import GANError, or_meant

COMMANDS = {
    "fit": "train a GAN; without a word more, on MNIST",
    "validate": "score a checkpoint against the images kept out of training",
    "test": "score a checkpoint against the test images",
    "cure": "try what the doctor of a run prescribes",
    "sample": "write images that a checkpoint's generator makes",
    "translate": "write what a checkpoint's generator makes of the images in a folder",
    "export": "write a checkpoint's generator for use without this project",
    "train_features": "train the features that scores of your own data are measured with",
    "lab": "experiments on vanishing and exploding gradients; without a word more, their list",
}


def main(args: list[str] | None = None) -> None:
    """Runs one command.

    Args:
        args: The words after `python -m gan.cli`; those of the process if not given.

    Raises:
        SystemExit: If the command fails in a way that the user can help (status 2, after a one-line error), is
            stopped by Ctrl-C (130), is a check of the lab that fails, or a run that nothing cures (1); and after a
            help text (0).
    """
    if args is None:
        read_words()
        see_working_directory()
    args = sys.argv[1:] if args is None else list(args)
    if args[:1] in ([], ["-h"], ["--help"]):
        print_help()
        sys.exit(0)
    share_cores()
    keep_memory()
    warnings.formatwarning = as_line
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack the letters of a path
    try:
        command, *words = args
        check_texts(words)
        if command not in COMMANDS:
            raise GANError(
                f"the command must be one of {', '.join(COMMANDS)}, got {command!r}{or_meant(command, COMMANDS)}"
            )
        if command == "lab":
            from gan.lab.command import lab

            lab(words)
        elif command == "train_features":
            with quick_import():
                from gan.train_features import train_features

            train_features(words)
        elif command == "cure":
            with quick_import():
                from gan.cure import cure

            cure(words)
        elif command in ("sample", "translate", "export"):
            with quick_import():
                from jsonargparse import auto_cli

                from gan import generate
                from gan.settings import texts_in_utf8
                from gan.suggestions import Parser

            settings = {"prog": f"gan {command}", "parser_class": Parser, "as_positional": False}
            with texts_in_utf8():
                auto_cli(getattr(generate, command), args=words, exit_on_error=False, **settings)
        else:
            with quick_import():
                from gan.run import run

            run(args)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)  # what shells expect after Ctrl-C
    except Exception as error:
        complaint = for_people(error)
        if complaint is None:
            raise
        print(f"error{in_process()}: {one_line(complaint)}", file=sys.stderr)
        sys.exit(2)


def read_words() -> None:
    """Starts the process anew in Python's UTF-8 mode if its words are UTF-8 and the locale cannot read them.

    Python turns to this mode by itself where the locale is C, unless it is told not to.
    """
    try:
        b"\0".join(os.fsencode(word) for word in sys.argv).decode()
    except UnicodeDecodeError:
        return  # in another encoding, which may be the locale's
    if os.name == "posix" and any("\udc80" <= letter <= "\udcff" for word in sys.argv for letter in word):
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def see_working_directory() -> None:
    """Lets modules be imported from where one stands, as `python -m` does, and a console script does not."""
    with suppress(FileNotFoundError):  # somebody has removed it
        if not sys.flags.safe_path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())


def check_texts(words: list[str]) -> None:
    """Refuses configs that are no text, which the parser would not name.

    Raises:
        ValueError: If one is not.
    """
    for word in words:
        path = Path(word.partition("=")[2] if word.startswith("--") else word)
        try:
            if path.suffix in (".yaml", ".yml") and path.is_file():
                path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise GANError(f"{path} is not a text in UTF-8 (byte {error.start:,}): save it as one") from error
        except OSError as error:
            raise GANError(f"{path} cannot be read: {error.strerror}") from error


def print_help() -> None:
    """The list of commands, without importing any of them."""
    print("usage: gan COMMAND [options]\n")
    print("Trains GANs, and shows what their gradients do.\n")
    width = max(map(len, COMMANDS))
    for command, purpose in COMMANDS.items():
        print(f"  {command:{width}}  {purpose}")
    print("\n`gan COMMAND --help` says what a command takes.")


@contextmanager
def quick_import() -> Iterator[None]:
    """Imports without the garbage collector, which would go through the growing library again and again.

    Nor does it go through the library later: of the time to import torch and Lightning, and to leave again, both
    together save a quarter. Ctrl-C ends the process at once: there is nothing to clear up yet, and an exception amid
    the loading of a library comes out as another one.
    """
    if "torch" in sys.modules or not gc.isenabled():  # the caller's process
        yield
        return
    gc.disable()
    in_main = threading.current_thread() is threading.main_thread()  # elsewhere signals are not ours to handle
    before = signal.signal(signal.SIGINT, leave) if in_main else None
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
        if in_main:
            signal.signal(signal.SIGINT, before)


def leave(*_: object) -> NoReturn:
    """Ends the process as Ctrl-C does, without clearing up."""
    os.write(2, b"stopped\n")
    os._exit(128 + signal.SIGINT)


def for_people(error: BaseException) -> BaseException | None:
    """What of `error` says what the user can do; None for a bug, here or in the user's code, which is shown whole.

    Such are our own errors, those of the argument parser, which may have wrapped one of ours, those of Lightning's
    configuration checks, what its callbacks and loggers refuse, a missing package or compiler, and a full disk.
    """
    from argparse import ArgumentError

    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from gan.spec import no_compiler

    if os.environ.get("GAN_TRACEBACK"):
        return None
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    if isinstance(error, GANError):
        return error
    if reason := no_compiler(error):
        return GANError(reason)
    missing = re.search(r"Requirement '([^']+)' not met", str(error))  # Lightning's words
    if missing and {"jsonargparse", "lightning"} & {*raised_in(error).parts}:
        return GANError(f"a package is missing: pip install '{missing[1]}'")
    if said_by_lightning(error):
        return error
    is_known = isinstance(error, ArgumentError | MisconfigurationException)
    if not is_known and "jsonargparse" not in raised_in(error).parts:
        return None
    cause = error.__cause__
    while cause is not None and not isinstance(cause, GANError | MisconfigurationException):
        cause = cause.__cause__
    return cause or (error if is_known else None)


def said_by_lightning(error: BaseException) -> bool:
    """Whether one of Lightning's callbacks or loggers has raised an error on purpose, for its user."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    own = "lightning/pytorch/callbacks" in where.filename or "lightning/pytorch/loggers" in where.filename
    return own and (where.line or "").startswith("raise ")


def raised_in(error: BaseException) -> Path:
    """The file in which an error was raised."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename)


def in_process() -> str:
    """Which of several processes speaks; nothing for the first."""
    from lightning.pytorch.utilities import rank_zero_only

    process = getattr(rank_zero_only, "rank", 0)
    return f" in process {process}" if process else ""


def as_line(message: Warning | str, category: type[Warning], filename: str, *where: Any, **line: Any) -> str:
    """A warning of ours as the line that it is, and any other as Python shows it."""
    if issubclass(category, UserWarning) and Path(filename).is_relative_to(Path(__file__).parent):
        return f"warning: {message}\n"
    return show_warning(message, category, filename, *where, **line)


show_warning = warnings.formatwarning


def one_line(error: BaseException) -> str:
    """The message of an error, without line breaks."""
    return " ".join(str(error).split())


def share_cores() -> None:
    """Lets the threads of torch wait for each other asleep rather than spinning, as soon as a core is wanted elsewhere.

    With libgomp's default, one other busy process on two cores made a training step ten times as slow. Read when torch
    is loaded, so this must come first.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # turns of an empty loop, some microseconds


def keep_memory() -> None:
    """Lets glibc keep freed memory for the next batch rather than return it to the system and fault it in again."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return  # not Linux with glibc: nothing to set
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc.mallopt(m_mmap_threshold, 1 << 30)
    libc.mallopt(m_trim_threshold, -1)


if __name__ == "__main__":
    main()
