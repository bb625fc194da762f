"""Paths as a user writes them, spelled out once, and URLs, which are none, refused."""

import os
import re
from pathlib import Path

from gan.errors import GANError

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def local_path(path: str | os.PathLike[str], setting: str) -> Path:
    """The path that a setting stands for, with `~` and variables as a shell would fill them in.

    A shell does so only for words of their own: in `--run_dir=~/x`, in quotes, in YAML and in Python nobody does.

    Args:
        path: What the user gave.
        setting: What the error calls it.

    Raises:
        GANError: If it is a URL, or names a variable that is not set.
    """
    text = os.fspath(path)
    if url := URL.match(text):
        way = "leave that out" if url[1].lower() == "file" else "copy or mount it to a disk"
        raise GANError(
            f"{setting} {text} is a URL, and files are read and written by their paths: {way}, and give its path"
        )
    for braced, bare in VARIABLE.findall(text):
        if (braced or bare) not in os.environ and not os.path.lexists(text):  # which may be its name
            raise GANError(f"{setting} {text}: the variable {braced or bare} is not set: set it, or spell the path out")
    return Path(os.path.expanduser(os.path.expandvars(text)))


def as_word(path: Path) -> str:
    """A path as a word of a command, which no parser takes for an option."""
    return str(path.absolute() if str(path).startswith("-") else path)


def cache_folder() -> Path | None:
    """Where what takes its time to make is kept for all runs: $GAN_CACHE, or `gan` in the cache of the user.

    None for a user who has neither that nor a home.
    """
    if own := os.environ.get("GAN_CACHE"):
        return local_path(own, "GAN_CACHE")
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache, "gan")
    home = os.path.expanduser("~")
    return None if home == "~" else Path(home, ".cache", "gan")
