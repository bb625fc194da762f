"""Objects as plain data, so that a checkpoint can rebuild them without unpickling code.

The form is jsonargparse's, the one that YAML configs and Lightning's own checkpoints use:
`{"class_path": "package.Class", "init_args": {...}}`.
"""

import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

if TYPE_CHECKING:
    from lightning import LightningModule

# Arguments of networks that the data module states.
FROM_DATA = ("image_shape", "num_classes", "condition_shape", "sample_shape", "characters")


class Described:
    """Says how it was built, if it keeps its arguments as attributes of the same names."""

    @property
    def spec(self) -> dict[str, Any]:
        """`{"class_path": ..., "init_args": {...}}` as plain data.

        Raises:
            TypeError: If an argument is not kept or has no plain form, or the class is not at the top of an importable
                module.
        """
        names = inspect.signature(type(self)).parameters
        for name in names:
            if not hasattr(self, name):
                raise TypeError(f"{type(self).__qualname__} has no attribute {name}, as its argument is called")
        arguments = {name: described(getattr(self, name)) for name in names}
        return {"class_path": class_path(type(self)), "init_args": arguments}


def described(value: Any) -> Any:
    """Returns `value` as data made of dict, list, tuple, str, numbers and None.

    Classes and `functools.partial`s of them, as optimizers and schedulers are given, and whatever has a `spec`, as
    networks, losses and penalties of this package have, become that.

    Raises:
        TypeError: If there is no plain form.
    """
    return plain(value, of_object)


def of_object(value: Any) -> dict[str, Any]:
    """The spec of what is no plain data."""
    match value:
        case partial(func=type() as cls, args=()) | partial(args=(*_, type() as cls)):
            # The second is jsonargparse's, which puts functions of its own before the class.
            return {"class_path": class_path(cls), "init_args": described(value.keywords)}
        case type():
            return {"class_path": class_path(value)}
        case _ if isinstance(getattr(type(value), "spec", None), property):
            return value.spec
        case nn.Module():
            return of_module(value)
    raise TypeError(f"{value!r} is neither a class nor a functools.partial of a class")


# What every module has, and what `torch.compile` leaves on it.
NOT_SETTINGS = {*vars(nn.Module()), "_is_torch_compile", "_compile_kwargs"}


def without_parser(make: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A factory that a config names, without the parser that read it, which can be neither copied nor pickled."""
    match make:
        case partial(args=(*_, type() as cls)):
            return partial(cls, **make.keywords)
    return make


def of_module(network: nn.Module) -> dict[str, Any]:
    """The spec of any module that its class makes again from what it keeps: arguments as attributes of their names.

    Of an argument that is not kept, it is tried whether its default makes the same module.

    Raises:
        TypeError: If it does not, with the reason.
    """
    network = uncompiled(network)
    if isinstance(getattr(type(network), "spec", None), property):
        return described(network)
    cls, init_args, guessed = type(network), {}, False
    names = {} if cls.__init__ is nn.Module.__init__ else inspect.signature(cls).parameters
    for parameter in names.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{cls.__qualname__} takes *{parameter.name}")
        if not hasattr(network, parameter.name) and parameter.default is parameter.empty:
            raise TypeError(f"{cls.__qualname__} has no attribute {parameter.name}, as its argument is called")
        guessed = guessed or not hasattr(network, parameter.name)
        init_args[parameter.name] = plain(getattr(network, parameter.name, parameter.default))
    spec = {"class_path": class_path(cls), "init_args": init_args}
    with torch.random.fork_rng(devices=[]):
        again = cls(**init_args)
    if anatomy(again, guessed) != anatomy(network, guessed):
        raise TypeError(f"{cls.__qualname__} makes another network of {init_args}")
    return spec


def anatomy(network: nn.Module, strict: bool) -> list[Any]:
    """What makes two modules the same but for their weights: their parts, with their settings and shapes.

    Args:
        network: Either of the two.
        strict: Whether a setting that cannot be compared makes them differ.
    """
    parts, state = [], network.state_dict()
    for name, module in network.named_modules():
        settings = {}
        for key in vars(module).keys() - NOT_SETTINGS:
            value = vars(module)[key]
            try:
                settings[key] = value if callable(value) else plain(value)
            except TypeError:
                settings[key] = object() if strict else None
        parts.append((name, type(module), settings, module.extra_repr()))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    kept_out = {key: value.tolist() for key, value in network.named_buffers() if key not in state}
    return [*parts, shapes, kept_out]


def uncompiled(network: nn.Module) -> nn.Module:
    """The module that `torch.compile` has wrapped, if it has."""
    return getattr(network, "_orig_mod", network)  # torch's name for it, in state dicts too


def is_compiled(network: nn.Module) -> bool:
    """Whether `torch.compile` has wrapped it, or `network.compile()` has been called."""
    return uncompiled(network) is not network or network._compiled_call_impl is not None  # private


def class_name(network: nn.Module) -> str:
    """What people call a network: its class, or the one that `torch.compile` has wrapped or FSDP2 made shards of."""
    return next(kind for kind in type(uncompiled(network)).__mro__ if not issubclass(kind, FSDPModule)).__name__


def no_compiler(error: BaseException) -> str | None:
    """Why `torch.compile` could do nothing on this machine, and the way out; None of any other error."""
    inner = getattr(error, "inner_exception", error)  # torch's name for what has stopped its backend
    if "torch._inductor.exc" not in sys.modules:  # then it is none of its errors
        return None
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler, TritonMissing

    way = "or leave torch.compile out"
    if isinstance(inner, InvalidCxxCompiler):
        return f"torch.compile finds no C++ compiler: install one, such as g++, or name yours in CXX; {way}"
    if isinstance(inner, TritonMissing):
        return f"torch.compile on a GPU needs Triton, which is not installed: install it, {way}"
    if isinstance(inner, CppCompileError):
        lines = [line for line in inner.output.splitlines() if line.strip()]
        said = next((line for line in lines if "error" in line), lines[-1] if lines else "without a word")
        return (
            f"torch.compile's C++ compiler {inner.cmd[0]} fails ({said.strip()}): repair it, name another in CXX, {way}"
        )
    return None


def no_object(value: Any) -> NoReturn:
    """Refuses what is no plain data."""
    raise TypeError(f"holds a {type(value).__name__}, which is not plain data")


def plain(value: Any, otherwise: Callable[[Any], Any] = no_object) -> Any:
    """A copy of plain data; what is not (a NumPy float is none either) becomes what `otherwise` makes of it."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        return {plain(key): plain(item, otherwise) for key, item in value.items()}
    if type(value) is list:
        return [plain(item, otherwise) for item in value]
    if type(value) in (tuple, torch.Size):
        return tuple(plain(item, otherwise) for item in value)
    return otherwise(value)


def class_path(cls: type) -> str:
    """The dotted name by which a class can be imported.

    Raises:
        TypeError: If there is none.
    """
    if "." in cls.__qualname__ or cls.__module__ == "__main__":
        raise TypeError(f"{cls.__qualname__} is not defined at the top of an importable module")
    return f"{cls.__module__}.{cls.__qualname__}"


def of_call(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | str:
    """The spec of `cls(*args, **kwargs)`, defaults filled in, or the reason why it has none."""
    try:
        path = class_path(cls)
        bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
    except TypeError as error:  # of wrong arguments too, or of none, as deepcopy and pickle come with
        return str(error)
    bound.apply_defaults()  # a default that changes in a later version must not change an old checkpoint
    init_args = {}
    for parameter in list(bound.signature.parameters.values())[1:]:
        value = bound.arguments[parameter.name]
        try:
            match parameter.kind:
                case parameter.POSITIONAL_OR_KEYWORD | parameter.KEYWORD_ONLY:
                    init_args[parameter.name] = plain(value)
                case parameter.VAR_KEYWORD:
                    init_args |= plain(value)
                case _ if value != ():
                    raise TypeError("cannot be passed by name")
        except TypeError as error:
            return f"the argument {parameter.name} of {cls.__qualname__} {error}"
    return {"class_path": path, "init_args": init_args}


# ---------------------------------------------------------------------- the arguments of a module


def save_hparams(module: "LightningModule", arguments: dict[str, Any]) -> None:
    """Stores a module's constructor arguments as plain data, in the form that the command line stores them in.

    Args:
        module: Under construction.
        arguments: `dict(locals())` of its constructor.
    """
    if given_by_cli():
        here = inspect.currentframe()
        module.save_hyperparameters(frame=here and here.f_back)
        for network in ("generator", "discriminator"):
            drop_unknown(module.hparams[network], arguments[network])
        return
    hparams: dict[str, Any] = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
    for name, value in arguments.items():
        if name in ("self", "__class__"):
            continue
        with suppress(TypeError):  # who loads the checkpoint is told what is missing
            hparams[name] = described(value)
    module.save_hyperparameters(hparams)


def given_by_cli() -> bool:
    """Whether the object under construction comes from a config, which `save_hyperparameters` then stores itself."""
    from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters

    return _given_hyperparameters.get() is not None  # private, but there is no public way to ask


def drop_unknown(spec: dict[str, Any], network: nn.Module) -> None:
    """Takes what the data has told out of the spec of a network that has no such argument.

    The command line fills it in where it is wanted, and notes it down everywhere.
    """
    from jsonargparse import ArgumentParser

    known = ArgumentParser(exit_on_error=False).add_class_arguments(type(network), fail_untyped=False)
    for name in FROM_DATA:
        if name not in known:
            spec.get("init_args", {}).pop(name, None)
