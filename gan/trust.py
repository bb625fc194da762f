"""What a file may name: classes of a closed list, and of packages that the user trusts.

Checkpoints, and the configs in them, are plain data, and still say which classes rebuild a run: whoever imports
and calls what a name says runs what the writer of the file chose. So every name is looked at before anything is
imported, and the line that refuses one says how to let it pass.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from jsonargparse import set_parsing_settings

from gan.errors import GANError

PACKAGE = __name__.partition(".")[0]
LISTED = (
    PACKAGE,
    "torch.nn",
    "torch.optim",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
)
BASES = {  # what a setting takes, where that is of one kind
    "model.generator": "torch.nn.Module",
    "model.discriminator": "torch.nn.Module",
    "model.loss": f"{PACKAGE}.losses.Loss",
    "model.penalties": f"{PACKAGE}.penalties.Penalty",
    "model.augment": f"{PACKAGE}.augment.Augment",
    "model.generator_optimizer": "torch.optim.Optimizer",
    "model.discriminator_optimizer": "torch.optim.Optimizer",
    "model.generator_scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "model.discriminator_scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "data": "lightning.LightningDataModule",
    "trainer.callbacks": "lightning.Callback",
    "trainer.logger": "lightning.pytorch.loggers.Logger",
}
PLAIN = re.compile(r"[^\W\d]\w*|[^.+]*\s[^.+]*")  # names of settings; with a space, those of a table
MOST = 100_000  # settings, of which a run has hundreds
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"

Trust = str | Iterable[str] | None


def check_hyper_parameters(
    checkpoint: Mapping[str, Any],
    trust: Trust = None,
    source: str = "the checkpoint",
    given: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Holds what a checkpoint rebuilds its networks from against the list. Imports nothing that is not on it.

    Args:
        checkpoint: Plain data; its `hyper_parameters` are looked at.
        trust: Packages, besides the listed ones, whose classes may be imported: names, or one text with commas.
        source: What the error calls it.
        given: Settings that win over the checkpoint's, which are not looked at then.

    Raises:
        ValueError: If something else is named, or called in another way than this project writes it.
    """
    hparams = checkpoint.get("hyper_parameters", {})
    # Lightning reads these too, and they would bring in settings by another door.
    foreign = [key for key in ("hparams", "module_arguments") if key in checkpoint]
    if checkpoint.get("hparams_name") not in (None, "kwargs"):
        foreign.append("hparams_name")
    if not isinstance(hparams, Mapping) or foreign or hparams.get("_instantiator", INSTANTIATOR) != INSTANTIATOR:
        what = foreign[0] if foreign else "hyper_parameters"
        raise GANError(f"{source} is not as this project writes it: its {what} would be read in another way")
    if "hparams_file" in given:
        raise GANError("hparams_file would take the place of what is in the checkpoint: give settings by their names")
    ours = {name: value for name, value in hparams.items() if name != "_instantiator" and name not in given}
    check_names({"model": ours}, trust, source)


def check_names(
    settings: Mapping[str, Any], trust: Trust = None, source: str = "the config", folder: Path = Path()
) -> None:
    """Holds every class that settings name against the list. Imports nothing that is not on it.

    Args:
        settings: Those of a run, as its `config.yaml` has them.
        trust: Packages, besides the listed ones, whose classes may be imported: names, or one text with commas.
        source: What the error calls them.
        folder: Where the file lies that they are from.

    Raises:
        ValueError: If something else is named.
    """
    trusted = packages(trust)
    for section in ("model", "data", "trainer"):  # as text, they would be the path of another file
        if not isinstance(settings.get(section, {}), Mapping):
            raise GANError(f"{source} gives {section} as {settings[section]!r}, and must spell it out")
    found = list(names(settings, folder))
    for _, name, is_class in found:  # all of them, before the first is imported
        check_listed(name, is_class, trusted, source)
    for place, name, is_class in found:
        check_class(name, is_class, BASES.get(place), trusted, source)


def names(value: Any, folder: Path = Path(), strict: bool = True) -> Iterator[tuple[str, Any, bool]]:
    """All that settings may have imported: the place in dotted form, the name, and whether it stands as a class path.

    A text counts where a parser could take it for a name, for YAML or JSON that has one, or for the path of such a
    file. Items of a list are at its place.

    Args:
        value: The settings.
        folder: Where the file lies that they are from.
        strict: Whether to refuse what no run writes, and a parser would read in its own way.

    Raises:
        ValueError: If there is no end to the settings, or something else than plain data under plain names.
    """
    left = [("", value, folder)]
    for _ in range(MOST):
        if not left:
            return
        place, value, folder = left.pop()
        match value:
            case Mapping():
                if "class_path" in value:
                    yield place, value["class_path"], True
                for key, item in value.items():
                    if strict and not (isinstance(key, int | float) or (isinstance(key, str) and PLAIN.fullmatch(key))):
                        raise GANError(f"the name of a setting, {str(key)[:60]!r}, is not as a run writes it")
                    left.append((f"{place}.{key}" if place else str(key), item, folder))
            case list() | tuple():
                left += [(place, item, folder) for item in value]
            case str() if place.endswith(".class_path"):
                pass
            case str():
                if place in BASES or is_dotted(value.strip()):
                    yield place, value.strip(), place in BASES
                left += [(place, inner, home) for inner, home in hidden(value, folder, strict)]
            case None | bool() | int() | float():
                pass
            case _ if strict:
                raise GANError(f"a setting, {place}, is a {type(value).__name__}, which no run writes")
    raise GANError("the settings are nested without end")


def hidden(text: str, folder: Path, strict: bool) -> Iterator[tuple[Any, Path]]:
    """What a parser that takes text for YAML or JSON, or for the path of such a file, would make of it, and its folder.

    Raises:
        ValueError: If it looks like a mapping, and cannot be read.
    """
    yield from ((inner, folder) for inner in structures(text, strict))
    for path in {Path(text), folder / text, Path(os.path.expanduser(text))}:
        try:
            is_text = path.is_file() and b"\0" not in path.open("rb").read(4096)
            content = path.read_text(encoding="utf-8") if is_text else ""
        except (OSError, ValueError):  # no path, no text
            continue
        yield from ((inner, path.parent) for inner in [content.strip(), *structures(content, strict)] if inner)


def structures(text: str, strict: bool) -> list[Any]:
    """The mappings and lists that a text stands for."""
    found, failed = [], 0
    for load in (json.loads, yaml.safe_load):
        try:
            found.append(load(text))
        except (ValueError, RecursionError, yaml.YAMLError):
            failed += 1
    if strict and failed == 2 and any(sign in text for sign in ("{", "class_path", "!!")):
        raise GANError(f"a text, {text[:60]!r}, looks like settings and cannot be read")
    return [inner for inner in found if not isinstance(inner, str | int | float | None)]


def is_dotted(text: str) -> bool:
    """Whether a text could be the path of something to import."""
    return "." in text and all(part.isidentifier() for part in text.split("."))


def check_listed(name: Any, is_class: bool, trusted: tuple[str, ...], source: str) -> None:
    """Raises a ValueError unless `name` leads into a listed or a trusted package. Imports nothing.

    A text that is no class path passes where importing it would find nothing: then it is only text.
    """
    if not isinstance(name, str) or not is_dotted(name):
        raise GANError(f"{source} holds {str(name)[:60]!r} where the path of a class belongs")
    if not within(name, (*LISTED, *trusted)) and (is_class or can_import(name)):
        package = name.partition(".")[0]
        if name in trusted:
            raise GANError(f"--trust takes packages, and {name} is a class: give --trust {name.rpartition('.')[0]}")
        raise GANError(f'{source} holds {name}; give --trust {package} to import it (trust="{package}" in Python)')


def check_class(name: str, is_class: bool, base: str | None, trusted: tuple[str, ...], source: str) -> None:
    """Raises a ValueError unless `name`, in one of those packages, is a class of its own and of the right base.

    What is no class path may be anything in a trusted package.
    """
    if not within(name, (*LISTED, *trusted)):
        return  # a text
    says = f"{source} holds {name}"
    found = resolve(name, says)
    owner = str(getattr(found, "__module__", None))
    if not within(f"{owner}.", (*LISTED, *trusted)):  # a name leads through a module to what it has imported, too
        raise GANError(f"{says}, which is not its own: it belongs to {owner}")
    if not isinstance(found, type) and (is_class or not within(name, trusted)):
        raise GANError(f"{says}, which is not a class")
    if base is not None and not issubclass(found, resolve(base, says)):
        raise GANError(f"{says}, which is not a {base.rpartition('.')[2]}")


def resolve(name: str, says: str) -> Any:
    """What a name stands for, in a package that may be imported."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise
            continue
        try:
            for part in parts[end:]:
                found = getattr(found, part)
        except AttributeError:
            break
        return found
    raise GANError(f"{says}, and there is no such class here")


def within(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted name leads into one of the packages or modules."""
    return any(name.startswith(f"{prefix}.") for prefix in prefixes)


def packages(trust: Trust) -> tuple[str, ...]:
    """The packages that `trust` names."""
    given = trust.split(",") if isinstance(trust, str) else list(trust or ())
    found = tuple(name.strip().removesuffix(".") for name in given)
    for name in found:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            raise GANError(f"--trust must be the name of a package, such as my_package, got {name!r}")
    return found


def can_import(name: str) -> bool:
    """Whether importing a dotted name could run code: looks for files, and imports none of them."""
    first, *rest = name.split(".")
    try:
        spec = find_spec(first)
        for part in rest:
            if spec is None or spec.origin is not None or spec.submodule_search_locations is None:
                break
            spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))  # a folder without code in it
    except (ImportError, ValueError):  # a module that was made without a spec
        return True
    return spec is not None and spec.origin is not None


def named_in(settings: Any) -> set[str]:
    """The packages, outside the list, of the classes that settings of one's own name.

    Of torch, Lightning and Python itself, only the module is: they have much that runs code.
    """
    found = {
        name
        for _, name, is_class in names(settings, strict=False)
        if isinstance(name, str) and is_dotted(name) and (is_class or can_import(name)) and not within(name, LISTED)
    }
    large = {"torch", "lightning", "pytorch_lightning", "jsonargparse", *sys.stdlib_module_names}
    return {name.rpartition(".")[0] if (top := name.partition(".")[0]) in large else top for name in found}


@contextmanager
def imports_of(trust: Trust) -> Iterator[None]:
    """Lets jsonargparse import nothing for a value but what is listed or trusted, however the value is written.

    The names above are looked at to say so in a line, before anything is done. This holds where they are imported.
    """
    from jsonargparse._common import parsing_settings  # private: what `set_parsing_settings` adds to cannot be undone

    before = dict(parsing_settings)
    allowed = [*LISTED, *packages(trust)]
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
    try:
        yield
    finally:
        parsing_settings.update(before)
