"""What a mistyped name may have meant: the parsers of the commands end their complaints with it."""

import inspect
import re
import sys
from collections.abc import Iterator
from pydoc import locate
from typing import Any

from jsonargparse import ArgumentParser

from gan.errors import or_meant
from gan.trust import BASES, PACKAGE

MOST = 12  # classes that fit into a line


class Suggesting:
    """A parser of jsonargparse whose complaints end with the known name that is most like a mistaken one."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Complains.

        Raises:
            ArgumentError: If called.
        """
        hint = "" if "did you mean" in message else suggestion(message, self)  # one within this has given it
        super().error(plainly(message) + hint, ex)  # pyright: ignore[reportAttributeAccessIssue] # of the parser


class Parser(Suggesting, ArgumentParser):
    """The parser of a command of our own; of an option that is missing it says what to give."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        if found := re.match(r"the following arguments are required: ([\w, ]+)$", message):
            options = {action.dest: action.help or "" for action in self._actions}
            names = [name for name in found[1].split(", ") if name in options]
            message = "; ".join(f"--{name} is missing: give {gist(options[name])}" for name in names) or message
        super().error(message, ex)


def gist(text: str) -> str:
    """What a help text begins with, up to its first full stop or semicolon, for the midst of a sentence."""
    first = re.split(r"[.;](?: |$)", text)[0]
    return first if first[1:2].isupper() else first[:1].lower() + first[1:]


PROBLEM = r"Problem with given class_path '([^']+)':\s+(.*?)(?=\n {0,4}- |\n *Given value|\Z)"
OF_CALLABLE = r"expects a function or a callable class: (.*?)\.? Got value: Namespace\(class_path='([^']+)'"
VALUE = r"(?:(?:Given|Got) value:|Import path|path string:) (\S+)$|(?:path|class, but) (\S+) (?:does not|is abstract)"
CLASS = r"<class '([\w.]+)'>"
SEVERAL = r"Multiple subclasses with name (\w+)\..*?ambiguity: ([\w., ]*\w)"
KIND = r"Expected an? (?:<class '([\w.]+)'>|typing.Literal\[(.*?)\])"
DERIVE = "is no {base}: give a class that derives from it"
REASONS = {  # of jsonargparse's, which stand in a list of all that a value might have been
    r"Import path(?: \S+)? does not correspond to a subclass of|to be a (?:subclass of|function that returns)": DERIVE,
    r"Expected an instantiatable class, but (?:\S+ )?is abstract": "is abstract: give a class that derives from it",
    r"Expected a dot import path string": "is no class known by that name: give its path, as in package.module.Class",
}


def plainly(message: str) -> str:
    """A complaint of jsonargparse about one value in a few words, where it lists all that the value might have been."""
    key = re.match(r'Parser key "([\w.]+)":', message)
    if not key:
        return message
    if problem := re.search(PROBLEM, message, re.DOTALL):
        return f"{key[1]}: {problem[1]}: {plainly(problem[2])}"
    if several := re.search(SEVERAL, message):
        paths = " or ".join(several[2].split(", "))
        return f"{key[1]}={several[1]} is the name of more than one class: give a path, {paths}"
    if problem := re.search(OF_CALLABLE, message, re.DOTALL):
        return f"{key[1]}: {problem[2]}: {of_argument(problem[1])}"
    found = re.search(VALUE, message)
    value = found and (found[1] or found[2])
    wanted = [kind or f"one of {names}" for kind, names in re.findall(KIND, message) if kind != "NoneType"]
    inner = re.search(r"a subclass of (\w+)", message)  # which an argument of a class within takes
    base = BASES.get(key[1]) or (inner[1] if inner else "" if not wanted else None)
    for words, reason in REASONS.items():
        if value and base is not None and re.search(words, message):
            return f"{key[1]}={value} {reason.format(base=base)}"
    return f'"{key[1]}" must be {" or ".join(wanted)}, got {value}' if value and wanted else message


def of_argument(message: str) -> str:
    """A complaint about an argument of an optimizer or a schedule, within that about the whole, in a few words."""
    if re.search(r"^lr: .*Option 'start'|^Parser key \"lr\":.*'start'", message, re.DOTALL):
        return "a rate takes no schedule here: it follows model.generator_scheduler or model.discriminator_scheduler"
    found = re.match(r'Parser key "(\w+)":\s+Expected (.*?)\. Got value: (.*)', message, re.DOTALL)
    if not found:
        return message
    wanted = re.sub(CLASS, lambda kind: kind[1], found[2])
    return f'"{found[1]}" must be {wanted}, got {found[3]}'


def suggestion(message: str, parser: Any) -> str:
    """`; did you mean X?` for the name that a complaint of a parser is about; nothing if none that it knows is like it.

    Args:
        message: The complaint.
        parser: Which says what settings there are.
    """
    if "unrecognized arguments: --ckpt_path" in message:  # which Lightning's fit takes, and ours does not
        return "; did you mean --resume?"
    if found := re.search(r"unrecognized arguments: .*?--([\w.]+)", message):
        return like_setting(found[1], parser, "--")
    if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message):
        return like_setting(f"{found[1]}.{found[2]}", parser)
    if found := re.search(r"Option '([\w.]+)' is not accepted", message):
        key = re.match(r'Parser key "([\w.]+)"', message)
        hint = like_setting(found[1], parser)
        refused = f"; did you mean {key[1]}.{found[1]}?" if key else None  # which the defaults' class takes
        return takers(found[1], message) if hint in ("", refused) else hint
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return or_meant(found[2], vars(sys.modules[found[1]])) if found[1] in sys.modules else ""
    if found := re.search(r"dot import path string: (\w+)", message):
        base = BASES.get("".join(re.findall(r'Parser key "([\w.]+)"', message)[:1]))
        if base is None and "<class 'float'>" in message:
            return ""  # a number, which may be a tensor too
        kinds = subclasses(locate(base)) if base else ours()
        hint = or_meant(found[1], [kind.__name__ for kind in kinds if not kind.__name__.startswith("_")])
        known = [kind.__name__ for kind in shipped(base)] if base and not base.startswith("torch.") else []
        return hint or (f"; known are {', '.join(known)}" if 0 < len(known) <= MOST else "")
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


def takers(name: str, message: str) -> str:
    """`; X takes it: --data X` with the classes that take a setting which another one, in their place, does not."""
    key = re.match(r'Parser key "([\w.]+)"', message)
    base = BASES.get(key[1]) if key else None
    names = [kind.__name__ for kind in shipped(base) if name in inspect.signature(kind).parameters] if base else []
    verb = "takes" if len(names) == 1 else "take"
    return f"; {' and '.join(names)} {verb} it: --{key[1]} {names[0]}" if key and 0 < len(names) <= 3 else ""


def shipped(base: str) -> list[type]:
    """The classes of this package, public and not abstract, that derive from one, each once."""
    ours = {kind for kind in subclasses(locate(base)) if kind.__module__.startswith(f"{PACKAGE}.")}
    kinds = {kind for kind in ours if not kind.__module__.startswith(f"{PACKAGE}.lab.")}  # which are to fail
    public = [kind for kind in kinds if not kind.__name__.startswith("_") and not inspect.isabstract(kind)]
    return sorted(public, key=lambda kind: kind.__name__)


def ours() -> list[type]:
    """The classes of this package, as far as it is loaded."""
    modules = [module for name, module in sys.modules.items() if name.startswith(f"{PACKAGE}.")]
    return [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]


def subclasses(kind: Any) -> Iterator[type]:
    """A class, and all that derive from it."""
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)
