"""The door: `python -m gan.cli fit | validate | test | sample | export | lab`.

fit, validate and test are Lightning's (`gan.run`); sample and export take images and the generator out of a
checkpoint (`gan.generate`); lab runs the experiments on vanishing gradients (`gan.lab`).
"""

import ctypes
import errno
import os
import sys
import traceback
from pathlib import Path

OURS = ("sample", "export")


def main(args: list[str] | None = None) -> None:
    """Runs one command.

    Args:
        args: The words after `python -m gan.cli`; those of the process if not given.

    Raises:
        SystemExit: with status 2 after a one-line error where the user can help it, 130 after Ctrl-C, and 1 if a
            check of the lab failed.
    """
    args = sys.argv[1:] if args is None else list(args)
    share_cores()
    keep_memory()
    try:
        if args[:1] == ["lab"]:
            from gan.lab.command import lab

            lab(args[1:])
        elif args and args[0] in OURS:
            from jsonargparse import auto_cli

            from gan import generate

            command = getattr(generate, args[0])
            auto_cli(command, args=args[1:], prog=f"gan {args[0]}", as_positional=False, exit_on_error=False)
        else:
            from gan.run import run

            run(args)
    except Exception as error:
        complaint = for_people(error)
        if complaint is None:
            raise
        print(f"error{in_process()}: {one_line(complaint)}", file=sys.stderr)
        sys.exit(2)


def for_people(error: BaseException) -> BaseException | None:
    """What of `error` says what the user can do; None for a bug, here or in the user's code, which is shown whole.

    Such are the complaints of the argument parser and of Lightning's configuration checks, a full disk, and every
    ValueError and ConnectionError that this package itself raises, which the parser may have wrapped.
    """
    from argparse import ArgumentError

    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if os.environ.get("GAN_TRACEBACK"):
        return None
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    is_known = isinstance(error, ArgumentError | MisconfigurationException)
    if not is_known and not isinstance(error, ValueError | ConnectionError):
        return None
    chain = [error]
    if is_known or "jsonargparse" in raised_in(error).parts:
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
    for one in chain:
        if isinstance(one, ValueError | ConnectionError) and raised_in(one).is_relative_to(Path(__file__).parent):
            return one
    return error if is_known else None


def raised_in(error: BaseException) -> Path:
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename)


def in_process() -> str:
    """Which of several processes speaks; nothing for the first."""
    from lightning.pytorch.utilities import rank_zero_only

    return f" in process {rank_zero_only.rank}" if getattr(rank_zero_only, "rank", 0) else ""


def one_line(error: BaseException) -> str:
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
