"""A command's words as settings: a class that is swapped begins with its own defaults."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import _typehints  # private: no setting leaves out the arguments of the class before


@contextmanager
def own_defaults() -> Iterator[None]:
    """Lets jsonargparse forget the arguments of a class whose place another one takes.

    It would keep those that the other class has too, whatever they mean there: AdamW with the weight decay of Adam.
    """
    before = _typehints.discard_init_args_on_class_path_change
    _typehints.discard_init_args_on_class_path_change = forget_arguments
    try:
        yield
    finally:
        _typehints.discard_init_args_on_class_path_change = before


def forget_arguments(parser_or_action: Any, prev_val: Any, value: Any) -> None:
    """Takes the arguments from `prev_val` where `value` names another class."""
    if prev_val and "init_args" in prev_val and prev_val["class_path"] != value["class_path"]:
        for key in list(prev_val["init_args"].keys()):
            del prev_val["init_args"][key]


def classes_first(words: list[str]) -> list[str]:
    """The words of a command, each class before the arguments that are given for it.

    `--model.generator.latent_dim 8 --model.generator MLPGenerator` would give 8 to the class before.
    """
    settings: list[list[str]] = []  # each with its value, which may be in the same word
    for word in words:
        if word.startswith("--") or not settings or len(settings[-1]) == 2 or "=" in settings[-1][0]:
            settings.append([word])
        else:
            settings[-1].append(word)
    ordered: list[list[str]] = []
    for setting in settings:
        name, place = setting[0].partition("=")[0], len(ordered)
        for position in reversed(range(len(ordered))):
            other = ordered[position][0].partition("=")[0]
            if other == "--config":  # which may say more of it
                break
            if other.startswith(f"{name}."):
                place = position
        ordered.insert(place, setting)
    return [word for setting in ordered for word in setting]


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
            yield spec["class_path"], ", ".join(f"{key} {item}" for key, item in arguments.items() if item is not None)
