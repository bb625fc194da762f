"""The config of a run, as plain data: its checkpoints carry it, and commands take the run up by it."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from gan.errors import GANError
from gan.paths import cache_folder
from gan.text import briefly

KEY = "config"  # in a checkpoint
OF_COMMAND = ("run_dir", "resume", "config", "trust", "ckpt_path", "verbose")  # which say nothing of the run


def config_in(checkpoint: dict[str, Any], source: str) -> dict[str, Any] | None:
    """The config that a checkpoint carries; None if it was saved from Python.

    Args:
        checkpoint: What it holds.
        source: What the error calls it.

    Raises:
        GANError: If it is something else than settings by their names, or says what is for the command to say, as
            where to write and whom to trust.
    """
    config = checkpoint.get(KEY)
    if config is not None and not isinstance(config, dict):
        raise GANError(f"{source} is not as this project writes it: its config is a {type(config).__name__}")
    for name in OF_COMMAND:
        if name in (config or ()):
            raise GANError(f"{source} is not as this project writes it: its config gives {name}")
    return config


def as_text(config: dict[str, Any]) -> str:
    """A config as YAML in ASCII, which gives the same one again, and which no locale takes for an impossible path."""
    return yaml.safe_dump(config, sort_keys=False)


# ---------------------------------------------------------------------- two configs


def changes(old: dict[str, Any], new: dict[str, Any], whole: bool = True) -> list[str]:
    """What differs between two configs, a line for each setting.

    Args:
        old: The one before.
        new: The one now.
        whole: Whether what `old` leaves out was not there, rather than not written down.
    """
    before, now = settings(old), settings(new)
    names = [name for name in now | before if before.get(name) != now.get(name) and (whole or name in before)]
    return [
        f"changed        {name}: {briefly(str(before.get(name)))} -> {briefly(str(now.get(name)))}" for name in names
    ]


def settings(config: Any, name: str = "") -> dict[str, Any]:
    """The settings of a config by the names that the command line has for them."""
    match config:
        case {"class_path": path, **rest}:
            return {name: path} | settings(rest.get("init_args", {}), name)
        case dict():
            items = config.items()
        case [dict(), *_]:
            items = enumerate(config)
        case _:
            return {name: config}
    parts = [settings(value, f"{name}.{key}" if name else str(key)) for key, value in items]
    return {key: value for part in parts for key, value in part.items()}


# ---------------------------------------------------------------------- one's own


def remember_own(config: dict[str, Any]) -> None:
    """Keeps a mark, in the user's cache, of the config of a run of one's own: to go on there needs no --trust."""
    path = mark(config)
    if path is not None:
        with suppress(OSError):  # then it does ask
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def is_own(config: dict[str, Any]) -> bool:
    """Whether a run of this user had the config, to the letter."""
    path = mark(config)
    return path is not None and path.is_file()


def mark(config: dict[str, Any]) -> Path | None:
    """Where that mark lies, if the user has a cache."""
    folder = cache_folder()
    digest = hashlib.blake2b(as_text(config).encode(), digest_size=16).hexdigest()
    return None if folder is None else folder / "own_runs" / digest
