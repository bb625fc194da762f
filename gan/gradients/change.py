"""A change to the settings of a run, and the words that make it on the command line."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass(frozen=True)
class Change:
    """Some settings, and what they do.

    Attributes:
        settings: Values by the settings' names, as the command line has them: numbers, texts, lists, None, or a class
            as `{"class_path": ..., "init_args": {...}}`. A name that ends in + adds what its value lists. None at all
            where something else than a setting is to be changed.
        text: What they do, and why.
        needed: Whether nothing else can help without.
        brief: What they are, in a word or two, among others; the text if not given.
        by_hand: What does the same in one's own code, to be told where the command does not take the settings.
        wrappers: Those that would do it, where that is to be done by hand: what one does is told once.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    needed: bool = False
    brief: str = ""
    by_hand: str = ""
    wrappers: frozenset[str] = frozenset()

    def __and__(self, other: "Change") -> "Change":
        """Both changes. Where they set the same, this one; of two repairs of a network, the second around the first."""
        settings = dict(self.settings)
        for name, value in other.settings.items():
            if name.endswith("+"):
                settings[name] = [*settings.get(name, ()), *(one for one in value if one not in settings.get(name, ()))]
            elif wraps(value) and wraps(settings.get(name)):
                settings[name] = around(value, settings[name])
            elif not covered(name, self.settings):
                settings[name] = value
        if settings == self.settings and (other.settings or (other.wrappers and other.wrappers <= self.wrappers)):
            return self
        text = "; ".join(text for text in (self.text, other.text) if text)
        briefs = (each.brief or each.text for each in (self, other))
        brief = ", ".join(brief for brief in briefs if brief) if self.brief or other.brief else ""
        needed, wrappers = self.needed or other.needed, self.wrappers | other.wrappers
        return Change(settings, text, needed, brief, wrappers=wrappers)


NO_CHANGE = Change()
REPAIR = "gan.networks.repair."
OUTERMOST = f"{REPAIR}Normalized"
FEW = 3  # arguments that are shown in brief


def wraps(value: Any) -> bool:
    """Whether a value is a network within one of the repairs."""
    return isinstance(value, dict) and value["class_path"].startswith(REPAIR)


def around(wrapper: dict[str, Any], network: dict[str, Any]) -> dict[str, Any]:
    """A network with a repair more, unless it has that one already; what the data tells is told to the outermost."""
    found: list[str] = []  # the innermost first
    for chain in (wrapper, network):
        inner: Any = chain
        of_chain = []
        while wraps(inner):
            of_chain.insert(0, inner["class_path"])
            inner = inner["init_args"]["network"]
        found = [*of_chain, *found]
    for path in sorted(dict.fromkeys(found), key=lambda path: path == OUTERMOST):
        inner = class_of(path, network=inner)
    return inner


def covered(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting, one that it is a part of, or a part of it, is among some."""
    return any(f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.") for other in settings)


def words(settings: Mapping[str, Any]) -> Iterator[str]:
    """The words of a command that make some settings."""
    for name, value in settings.items():
        yield f"--{name}"
        yield word(value)


def word(value: Any) -> str:
    """A value as a word of a command."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return value
        case float():
            short = f"{value:g}"
            return short if float(short) == value else repr(value)
        case int():
            return str(value)
    return yaml.safe_dump(plain(value), default_flow_style=True, sort_keys=False, width=10**6).strip()


def brief(value: Any) -> str:
    """A value in few words, for a table: of a class its name, with its arguments, if few; of a repair what it holds."""
    match value:
        case {"class_path": str(path)}:
            name, arguments = path.rpartition(".")[2], value.get("init_args") or {}
            if wraps(value) and isinstance(network := arguments.get("network"), dict):
                return f"{name}({brief(network) if wraps(network) else network['class_path'].rpartition('.')[2]})"
            few = [f"{key}={brief(each)}" for key, each in arguments.items()] if len(arguments) <= FEW else []
            return name + (f"({', '.join(few)})" if few else "")
        case list():
            return f"[{', '.join(map(brief, value))}]"
    return word(value)


def plain(value: Any) -> Any:
    """A value of dicts, lists and what YAML has in words."""
    match value:
        case dict():
            return {key: plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
    return value


def class_of(path: str, **arguments: Any) -> dict[str, Any]:
    """A class and its arguments, as a config has them."""
    return {"class_path": path, "init_args": arguments} if arguments else {"class_path": path}
