"""What a mistyped name may have meant: the parsers of the commands end their complaints with it."""

import re
import sys
from collections.abc import Iterator
from pydoc import locate
from typing import Any

from jsonargparse import ArgumentParser

from gan.errors import or_meant
from gan.trust import BASES, PACKAGE


class Suggesting:
    """A parser of jsonargparse whose complaints end with the known name that is most like a mistaken one."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Complains.

        Raises:
            ArgumentError: If called.
        """
        hint = "" if "did you mean" in message else suggestion(message, self)  # one within this has given it
        super().error(message + hint, ex)  # pyright: ignore[reportAttributeAccessIssue] # of the parser


class Parser(Suggesting, ArgumentParser):
    """The parser of a command of our own."""


def suggestion(message: str, parser: Any) -> str:
    """`; did you mean X?` for the name that a complaint of a parser is about; nothing if none that it knows is like it.

    Args:
        message: The complaint.
        parser: Which says what settings there are.
    """
    if found := re.search(r"unrecognized arguments: .*?--([\w.]+)", message):
        return like_setting(found[1], parser, "--")
    if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        return like_setting(f"{found[1]}.{found[2]}", parser)
    if found := re.search(r"Option '([\w.]+)' is not accepted", message):
        return like_setting(found[1], parser)
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return or_meant(found[2], vars(sys.modules[found[1]])) if found[1] in sys.modules else ""
    if found := re.search(r"dot import path string: (\w+)", message):
        base = BASES.get("".join(re.findall(r'Parser key "([\w.]+)"', message)[:1]))
        kinds = [*ours(), *(subclasses(locate(base)) if base else ())]
        return or_meant(found[1], [kind.__name__ for kind in kinds if not kind.__name__.startswith("_")])
    if found := re.search(r"(?:Got|Given) value: (\S+)$", message):
        literals = " ".join(re.findall(r"Literal\[(.*?)\]", message))
        return or_meant(found[1], re.findall(r"'(.*?)'", literals))
    return ""


def like_setting(name: str, parser: Any, dashes: str = "") -> str:
    """`; did you mean X?` with the setting of a parser that is most like a name, or has it as its last part."""
    keys = parser.get_defaults().keys()
    known = [key.replace(".init_args.", ".").removesuffix(".class_path") for key in keys]
    last = [key for key in known if key.rpartition(".")[2] == name]
    hint = or_meant(dashes + name, [dashes + key for key in known])
    return f"; did you mean {dashes}{last[0]}?" if last and not hint else hint


def ours() -> list[type]:
    """The classes of this package, as far as it is loaded."""
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{PACKAGE}.")]
    return [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]


def subclasses(kind: Any) -> Iterator[type]:
    """A class, and all that derive from it."""
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)
