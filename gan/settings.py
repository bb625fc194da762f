"""A command's words as settings: recipes by name, files in UTF-8, classes that begin with their own defaults."""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import (
    _paths,  # private: no setting says in which encoding
    _typehints,  # private: no setting leaves out the arguments of the class before
)

from gan.errors import GANError, or_meant
from gan.text import briefly

HERE = Path(__file__).parent
CONFIGS = next(path for path in (HERE / "configs", HERE.parent / "configs") if path.is_dir())  # wheel, checkout

read_text = _paths.Path.read_text
import_path = _typehints.serialize_as_import_path
discard_unknown = _typehints.discard_init_args_on_class_path_change
take_option = _typehints.ActionTypeHint.__call__
option: ContextVar[str | None] = ContextVar("option", default=None)  # the one that is being parsed

# What a run writes into its config it reads again: where a function or its name will do, the name, and the text that a
# constant stands for, as in Lightning's Timer.
_typehints.serialize_as_import_path = lambda value: value if isinstance(value, str) else import_path(value)
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))


@contextmanager
def own_defaults(words: Sequence[str] = ()) -> Iterator[None]:
    """Lets jsonargparse forget the arguments of a class whose place another one takes, but for those in `words`.

    It would keep all that the other class has too, whatever they mean there: AdamW with the weight decay of Adam.
    """
    given = given_arguments(words)

    def take(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = option.set(getattr(self, "dest", None))
        try:
            return take_option(self, *args, **kwargs)
        finally:
            option.reset(token)

    def discard(parser_or_action: Any, before: Any, value: Any) -> None:
        if not before or "init_args" not in before or before["class_path"] == value["class_path"]:
            return
        setting = option.get() or ""
        arguments = before["init_args"]
        for name in top_level(arguments) - given[setting]:
            arguments.pop(name)
        kept = top_level(arguments)
        discard_unknown(parser_or_action, before, value)
        for name in sorted(kept - top_level(before["init_args"])):
            warnings.warn(f"--{setting}.{name} is left out: {value['class_path']} takes none", stacklevel=1)

    _typehints.discard_init_args_on_class_path_change = discard
    _typehints.ActionTypeHint.__call__ = take
    try:
        yield
    finally:
        _typehints.discard_init_args_on_class_path_change = discard_unknown
        _typehints.ActionTypeHint.__call__ = take_option


@contextmanager
def texts_in_utf8() -> Iterator[None]:
    """Lets jsonargparse read the files of settings as UTF-8, where it would by the locale."""

    def read(self: Any) -> str:
        path = Path(self.absolute)
        return path.read_text("utf-8") if path.is_file() else read_text(self)

    _paths.Path.read_text = read
    try:
        yield
    finally:
        _paths.Path.read_text = read_text


def with_recipes(words: list[str]) -> list[str]:
    """The words of a command, a recipe of this package that `--config` gives by its name replaced by its path.

    `wgan_gp` is `wgan_gp.yaml` among the package's configs, and `cures/collapse` one in a folder of them. A file of
    that name that is there goes before.

    Raises:
        GANError: If there is neither.
    """
    return [
        f"--config={recipe(word.partition('=')[2])}"
        if word.startswith("--config=")
        else recipe(word)
        if before in ("--config", "-c")
        else word
        for before, word in pairwise(["", *words])
    ]


def recipe(name: str) -> str:
    """The path of a config that is given by its path, or by its name among those of this package.

    Raises:
        GANError: If there is none.
    """
    if not re.fullmatch(r"[\w./~-]*\w", name) or Path(name).expanduser().is_file():
        return name  # a text, which is a config too
    names = {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in sorted(CONFIGS.rglob("*.yaml"))}
    known = names.get(name.removesuffix(".yaml"))
    if known is None:
        there_are = f"; there are {', '.join(each for each in names if '/' not in each)}"
        raise GANError(f"--config {name}: no such file, and no recipe of that name{or_meant(name, names) or there_are}")
    return str(known)


def given_arguments(words: Sequence[str]) -> dict[str, set[str]]:
    """The names of the arguments that words give to the class of each setting: `--SETTING.NAME`."""
    given: dict[str, set[str]] = defaultdict(set)
    for word in words:
        if word.startswith("--"):
            names = word.partition("=")[0].removeprefix("--").replace(".init_args.", ".").split(".")
            for end in range(1, len(names)):  # an argument may have arguments of its own
                given[".".join(names[:end])].add(names[end])
    return given


def top_level(arguments: Any) -> set[str]:
    """The names of a class's own arguments, without those of what they are."""
    return {name.partition(".")[0] for name in arguments.keys()}  # noqa: SIM118 # a Namespace goes through its values


def taken(config: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """A line for each class of a config that stands in place of another one in `defaults`, with its arguments."""
    parts = {"data": config["data"]} | {f"model.{name}": value for name, value in config["model"].items()}
    before = {"data": defaults["data"]} | {f"model.{name}": value for name, value in defaults["model"].items()}
    return [
        f"taken          {name}: {class_path} {arguments}".rstrip()
        for name, value in parts.items()
        for class_path, arguments in classes(value)
        if class_path not in [path for path, _ in classes(before.get(name))]
    ]


def classes(value: Any) -> Iterator[tuple[str, str]]:
    """The class paths of a setting, which may be a list of them, each with its arguments as text."""
    for spec in value if isinstance(value, list) else [value]:
        if isinstance(spec, dict) and "class_path" in spec:
            arguments = spec.get("init_args") or {}
            shown = (f"{key} {as_words(item)}" for key, item in arguments.items() if item is not None)
            yield spec["class_path"], ", ".join(shown)


def as_words(value: Any) -> str:
    """A value of a setting, a class in it by its path and arguments."""
    within = [path + f" ({arguments})" * bool(arguments) for path, arguments in classes(value)]
    return ", ".join(within) or briefly(str(value))
