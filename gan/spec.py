"""Objects as plain data, so that a checkpoint can rebuild them without unpickling code.

The form is jsonargparse's, the one that YAML configs and Lightning's own checkpoints use:
`{"class_path": "package.Class", "init_args": {...}}`.
"""

import inspect
import warnings
from functools import partial
from typing import Any

from jsonargparse import ArgumentParser
from lightning import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from torch import nn

from gan.losses import Loss
from gan.networks import Network
from gan.penalties import Penalty


def save_hparams(module: LightningModule, arguments: dict[str, Any]) -> None:
    """Stores a module's constructor arguments as plain data, in the form that the command line stores them in.

    Args:
        module: Under construction.
        arguments: `dict(locals())` of its constructor.
    """
    if given_by_cli():
        module.save_hyperparameters(frame=inspect.currentframe().f_back)
        for network in ("generator", "discriminator"):
            drop_unknown(module.hparams[network], arguments[network])
        return
    hparams: dict[str, Any] = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
    for name, value in arguments.items():
        if name in ("self", "__class__"):
            continue
        try:
            hparams[name] = plain(value)
        except TypeError as error:
            warnings.warn(
                f"a checkpoint cannot rebuild {name}, since {error}: load it with "
                f"GAN.load_from_checkpoint(path, {name}=...)",
                stacklevel=3,
            )
    module.save_hyperparameters(hparams)


def given_by_cli() -> bool:
    """Whether the object under construction comes from a config, which `save_hyperparameters` then stores itself."""
    return _given_hyperparameters.get() is not None  # private, but there is no public way to ask


def drop_unknown(spec: dict[str, Any], network: nn.Module) -> None:
    """Takes `image_shape` out of the spec of a network that has no such argument.

    The command line fills it in where it is wanted, and notes it down everywhere.
    """
    known = ArgumentParser(exit_on_error=False).add_class_arguments(type(network), fail_untyped=False)
    if "image_shape" not in known:
        spec.get("init_args", {}).pop("image_shape", None)


def plain(value: Any) -> Any:
    """Returns `value` as data made of dict, list, str, numbers and None.

    Networks must derive from `gan.networks.Network`; optimizers and schedulers must be a class or a
    `functools.partial` of one.

    Raises:
        TypeError: if there is no plain form.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case Network():
            return value.spec
        case partial(func=type() as cls, args=()) | partial(args=(*_, type() as cls)):
            # The second is jsonargparse's, which puts functions of its own before the class.
            return {"class_path": _path(cls), "init_args": plain(value.keywords)}
        case type():
            return {"class_path": _path(value)}
        case Loss() | Penalty():  # these keep their arguments as attributes of the same names
            names = inspect.signature(type(value)).parameters
            for name in names:
                if not hasattr(value, name):
                    raise TypeError(f"{type(value).__qualname__} has no attribute {name}, as its argument is called")
            return {
                "class_path": _path(type(value)),
                "init_args": {name: plain(getattr(value, name)) for name in names},
            }
        case nn.Module():
            raise TypeError(f"{type(value).__qualname__} is not a gan.networks.Network")
    raise TypeError(f"{value!r} is neither a class nor a functools.partial of a class")


def _path(cls: type) -> str:
    if "<locals>" in cls.__qualname__ or cls.__module__ == "__main__":
        raise TypeError(f"{cls.__qualname__} is not defined at the top of an importable module")
    return f"{cls.__module__}.{cls.__qualname__}"
