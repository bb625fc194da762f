"""The run that a prescription is for: its settings, and what there is to know of its networks and its data."""

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import nn

from gan.spec import uncompiled

PACKAGE = __name__.partition(".")[0]
Spec = dict[str, Any]  # {"class_path": ..., "init_args": {...}}
REPAIRS = ("Logit", "Tanh", "Normalized", "Unmixed")
PENALTIES, TWICE = "penalties", "second derivatives"  # what not every run can have


def most(value: Any) -> Any:
    """A number of a setting; of one that follows a schedule, the larger of its ends."""
    return max(value["start"], value["end"]) if isinstance(value, dict) and {"start", "end"} <= value.keys() else value


@dataclass(frozen=True)
class Part:
    """A network, or a data module, as the run has it.

    Attributes:
        spec: How the run's config makes it.
        takes: The arguments of its class, each with the values that it may have, () where these are not listed.
        place: Its class, and the file and the line where that stands, as `Mine (nets.py, line 3)`.
        layers: The classes of a network's modules.
        ours: Whether its class is one of this package.
        base: The data module of this package that one's own derives from and that could be in its place; "" for none.
        defaults: What a data module's arguments are if not given, and of one's own those of `base`.
        told: What a network is told of an image: "classes", "images", or "" for nothing; or that it tells the class
            itself, "classifies".
        repairs: Those of `gan.networks.repair` that can be around it, and would do something; what its end is, these
            see for themselves.
        unknown: Whether its arguments are not known: made in Python, and not kept as attributes of their names.
    """

    spec: Spec
    takes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    place: str = ""
    layers: frozenset[str] = frozenset()
    ours: bool = False
    base: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""
    repairs: frozenset[str] = frozenset(REPAIRS)
    unknown: bool = False

    @property
    def name(self) -> str:
        """The name of its class."""
        return self.spec["class_path"].rpartition(".")[2]

    @property
    def arguments(self) -> dict[str, Any]:
        """What its class is given."""
        return self.spec.get("init_args") or {}

    @property
    def mixes(self) -> bool:
        """Whether it has a batch norm."""
        return any("BatchNorm" in layer for layer in self.layers)

    @property
    def normalizes(self) -> bool:
        """Whether it has a normalisation, or is within one."""
        return any("Norm" in layer for layer in self.layers)

    @property
    def given(self) -> dict[str, Any]:
        """Of these, what is not said by leaving it out."""
        left_out = object()
        return {name: value for name, value in self.arguments.items() if self.defaults.get(name, left_out) != value}

    def can_be(self, name: str, value: Any) -> bool:
        """Whether one of its settings can be given a value, and has another one."""
        choices = self.takes.get(name, ())
        return value in choices and self.arguments.get(name) != value


@dataclass(frozen=True)
class Patient:
    """A run.

    Attributes:
        config: Its settings by section: "model", "data", "trainer".
        parts: Its "generator", its "discriminator" and, where there is a data module, its "data".
        batches: Training batches that it is to have.
        batch_size: Real images in one of them; 0 before the first.
        image_shape: Channels, height and width of an image.
        latent_dim: Size of a latent vector.
        refuses: What it would refuse when it starts, though the command takes it: all penalties, or those of them that
            need the gradient of a gradient, or an augmentation by its name.
    """

    config: Mapping[str, Any]
    parts: Mapping[str, Part]
    batches: int
    batch_size: int
    image_shape: tuple[int, int, int] | None = None
    latent_dim: int = 100
    refuses: frozenset[str] = frozenset()

    @property
    def model(self) -> Mapping[str, Any]:
        """The settings of the model."""
        return self.config["model"]

    def named(self, setting: str) -> str:
        """The name of the class that a setting of the model has; "" for none."""
        value = self.model.get(setting)
        return value["class_path"].rpartition(".")[2] if isinstance(value, dict) else ""


def part(thing: Any, spec: Spec | None, shapes: Mapping[str, Any], told: str = "") -> Part:
    """What there is to know of a network or a data module.

    Args:
        thing: It.
        spec: How the config makes it; None where it was made in Python, in a way that has no plain form.
        shapes: What the command line adds to a network's arguments, from the data.
        told: What it is told of an image.
    """
    thing = uncompiled(thing) if isinstance(thing, nn.Module) else thing
    # Where it is sharded, its class is one that torch has made of it.
    kind = next(each for each in type(thing).__mro__ if not each.__module__.startswith("torch.distributed."))
    takes = arguments_of(kind)
    path = f"{kind.__module__}.{kind.__qualname__}"
    arguments = dict((spec or {}).get("init_args") or {})
    arguments |= {name: shapes[name] for name in sorted(shapes.keys() & takes.keys()) if shapes[name] is not None}
    known = {"takes": takes, "place": place_of(kind), "ours": is_ours(kind), "told": told}
    known["unknown"] = spec is None and bool(takes.keys() - arguments.keys())
    if isinstance(thing, nn.Module):
        known["layers"] = frozenset(type(module).__name__ for module in thing.modules())
    else:
        base = base_of(kind)
        known["base"] = "" if base is None else f"{base.__module__.rpartition('.')[0]}.{base.__name__}"
        parameters = inspect.signature(base or kind).parameters.values()
        known["defaults"] = {each.name: each.default for each in parameters if each.default is not each.empty}
    return Part({"class_path": path, "init_args": arguments}, **known)


def is_ours(kind: type) -> bool:
    """Whether a class is of this package, and not of its experiments, which are as users write them."""
    package, _, rest = kind.__module__.partition(".")
    return package == PACKAGE and rest.partition(".")[0] != "lab"


def base_of(kind: type) -> type | None:
    """The class of this package that another one derives from and that could be in its place; None for none."""
    if is_ours(kind):
        return None
    for base in kind.__mro__[1:]:
        room = base.__module__.rpartition(".")[0]
        if (
            is_ours(base)
            and not any(is_ours(each) for each in base.__subclasses__())  # which is there to derive others from
            and getattr(sys.modules.get(room), base.__name__, None) is base
        ):
            return base
    return None


def arguments_of(kind: type) -> dict[str, tuple[Any, ...]]:
    """The arguments of a class by name, each with the values that it may have, () where these are not listed.

    Where `__init__` takes any by name (`**kwargs`), those of the class that it derives from are among them.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for base in kind.__mro__:
        make = vars(base).get("__init__")
        if make is None:
            continue
        try:
            parameters = list(inspect.signature(make).parameters.values())[1:]  # without self
        except (TypeError, ValueError):  # not made in Python
            break
        hints = hints_of(make)
        named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        found = {each.name: listed(hints.get(each.name)) for each in named} | found
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return found


def hints_of(make: Any) -> dict[str, Any]:
    """The types of a function's arguments; none where one of them cannot be found."""
    try:
        return get_type_hints(make)
    except Exception:  # of a text that is evaluated: a name that only type checkers import, or anything else
        return {}


def listed(hint: Any) -> tuple[Any, ...]:
    """The values that a type lists."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(value for inner in get_args(hint) for value in listed(inner))


def place_of(kind: type) -> str:
    """A class, and the file and the line where it stands."""
    try:
        path = Path(inspect.getsourcefile(kind) or "")
        line = inspect.getsourcelines(kind)[1]
    except (OSError, TypeError):
        return kind.__qualname__
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{kind.__qualname__} ({shown}, line {line})"
