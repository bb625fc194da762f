"""What a file may ask for: classes of a closed list and of packages that the user trusts, and the memory that it fills.

Checkpoints, and the configs beside them, are plain data, and still say which classes rebuild a run: whoever imports
and calls what a name says runs what the writer of the file chose. So every name is looked at before anything is
imported, and the line that refuses one says how to let it pass. And plain data may ask for more than it holds.
"""

import importlib
import io
import math
import pickle
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import IO, Any, ClassVar

import torch
import yaml

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
    "model.generator_optimizer": "torch.optim.Optimizer",
    "model.discriminator_optimizer": "torch.optim.Optimizer",
    "model.generator_scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "model.discriminator_scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "data": "lightning.LightningDataModule",
    "trainer.callbacks": "lightning.Callback",
    "trainer.logger": "lightning.pytorch.loggers.Logger",
}
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
MOST = 100_000  # settings, of which a run has hundreds
INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"

EXPANDED = 2**26  # bytes that the tensors of a checkpoint may have beyond those that are stored
STORED = {  # what the name of a storage says of its numbers
    f"{name}Storage": dtype
    for name, dtype in {
        "BFloat16": torch.bfloat16,
        "Bool": torch.bool,
        "Byte": torch.uint8,
        "Char": torch.int8,
        "ComplexDouble": torch.complex128,
        "ComplexFloat": torch.complex64,
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "Int": torch.int32,
        "Long": torch.int64,
        "Short": torch.int16,
    }.items()
}

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
        raise ValueError(f"{source} is not as this project writes it: its {what} would be read in another way")
    if "hparams_file" in given:
        raise ValueError("hparams_file would take the place of what is in the checkpoint: give settings by their names")
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
            raise ValueError(f"{source} gives {section} as {settings[section]!r}, and must spell it out")
    found = list(names(settings, folder))
    for _, name, is_class in found:  # all of them, before the first is imported
        check_listed(name, is_class, trusted, source)
    for place, name, is_class in found:
        check_class(name, is_class, BASES.get(place), trusted, source)


def names(value: Any, folder: Path = Path()) -> Iterator[tuple[str, Any, bool]]:
    """All that settings may have imported: the place in dotted form, the name, and whether it stands as a class path.

    A text counts where a parser could take it for a name, for YAML that has one, or for the path of such a file, in
    `folder` too. Items of a list are at its place.

    Raises:
        ValueError: If there is no end to the settings.
    """
    left = [("", value)]
    for _ in range(MOST):
        if not left:
            return
        place, value = left.pop()
        match value:
            case Mapping():
                if "class_path" in value:
                    yield place, value["class_path"], True
                left += [(f"{place}.{key}" if place else str(key), item) for key, item in value.items()]
            case list() | tuple():
                left += [(place, item) for item in value]
            case str() if place.endswith(".class_path"):
                pass
            case str():
                if place in BASES or DOTTED.fullmatch(value.strip()):
                    yield place, value.strip(), place in BASES
                left += [(place, inner) for inner in hidden(value, folder)]
    raise ValueError("the settings are nested without end")


def hidden(text: str, folder: Path) -> Iterator[Any]:
    """What a parser that takes text for YAML, or for the path of such a file, would make of it."""
    with suppress(ValueError, yaml.YAMLError):
        inner = yaml.safe_load(text)
        if isinstance(inner, Mapping | list):
            yield inner
    for path in {Path(text), folder / text}:
        with suppress(OSError, ValueError, yaml.YAMLError):  # no path, no text, no YAML
            if path.is_file() and b"\0" not in path.open("rb").read(4096):
                yield yaml.safe_load(path.read_text())


def check_listed(name: Any, is_class: bool, trusted: tuple[str, ...], source: str) -> None:
    """Raises a ValueError unless `name` leads into a listed or a trusted package. Imports nothing.

    A text that is no class path passes where importing it would find nothing: then it is only text.
    """
    if not isinstance(name, str) or not DOTTED.fullmatch(name):
        raise ValueError(f"{source} holds {str(name)[:60]!r} where the path of a class belongs")
    if not within(name, (*LISTED, *trusted)) and (is_class or can_import(name)):
        package = name.partition(".")[0]
        raise ValueError(f'{source} holds {name}; give --trust {package} to import it (trust="{package}" in Python)')


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
        raise ValueError(f"{says}, which is not its own: it belongs to {owner}")
    if not isinstance(found, type) and (is_class or not within(name, trusted)):
        raise ValueError(f"{says}, which is not a class")
    if base is not None and not issubclass(found, resolve(base, says)):
        raise ValueError(f"{says}, which is not a {base.rpartition('.')[2]}")


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
    raise ValueError(f"{says}, and there is no such class here")


def within(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted name leads into one of the packages or modules."""
    return any(name.startswith(f"{prefix}.") for prefix in prefixes)


def packages(trust: Trust) -> tuple[str, ...]:
    """The packages that `trust` names."""
    given = trust.split(",") if isinstance(trust, str) else list(trust or ())
    found = tuple(name.strip().removesuffix(".") for name in given)
    for name in found:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            raise ValueError(f"--trust takes the name of a package, such as my_package, got {name!r}")
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
    """The packages, outside the list, of the classes that settings name."""
    found = {name for _, name, is_class in names(settings) if isinstance(name, str) and (is_class or can_import(name))}
    return {name.partition(".")[0] for name in found if "." in name and not within(name, LISTED)}


# ---------------------------------------------------------------------- pickles


class Misfit(ValueError):
    """What a pickle describes is not in the file."""


def check_pickle(path: Path | IO[bytes]) -> None:
    """Reads the structure of a checkpoint with stand-ins for all that it would have made.

    Torch lets a file call what takes a number and asks for as much memory, such as `bytearray` or a storage, and
    describe tensors larger than what is stored.

    Raises:
        UnpicklingError: If it asks for anything but containers, numbers and tensors.
        Misfit: If it describes a tensor or a storage that is not in the file.
    """
    with zipfile.ZipFile(path) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = record.removesuffix("data.pkl")
        sizes = {part.filename.removeprefix(folder): part.file_size for part in archive.infolist()}
        Structure(io.BytesIO(archive.read(record)), sizes).load()


class Structure(pickle._Unpickler):  # the one in Python: the one in C makes room for as many objects as a file says
    """Goes through a pickle, makes containers only, and lets tensors be described that the archive has the data of.

    Args:
        file: The pickle.
        sizes: Bytes of the records of the archive, by name.
    """

    CALLED: ClassVar = {
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "Counter"): Counter,
        ("__builtin__", "set"): set,  # as protocol 2 calls it
        ("__builtin__", "complex"): complex,
        ("torch", "Size"): tuple,
        ("torch", "device"): lambda *name: name,
        ("torch._utils", "_rebuild_parameter"): lambda data, *settings: data,
    }

    def __init__(self, file: io.BytesIO, sizes: dict[str, int]):
        super().__init__(file)
        self.sizes = sizes
        self.room = EXPANDED

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for what a pickle names.

        Raises:
            UnpicklingError: If it is nothing that plain data needs.
        """
        match module, name:
            case _ if (module, name) in self.CALLED:
                return self.CALLED[module, name]
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor_v3":
                return self.tensor
            case "_codecs", "encode":
                return latin1
            case ("torch", _) if name in STORED:
                return STORED[name]  # to be named, not to be called
            case "torch.storage", "UntypedStorage":
                return torch.uint8
            case ("torch", _) if isinstance(getattr(torch, name, None), torch.dtype):
                return getattr(torch, name)
        raise UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[int, torch.dtype]:
        """A storage: its size in bytes, and the type of its numbers.

        Raises:
            Misfit: If the archive has none of that size.
        """
        kind, dtype, key, _, numel = pid
        stored = self.sizes.get(f"data/{key}")
        of_a_kind = kind == "storage" and isinstance(dtype, torch.dtype)
        if not of_a_kind or stored is None or stored != numel * dtype.itemsize:
            raise Misfit("a storage of another size than is in the file")
        return stored, dtype

    def tensor(self, storage: Any, offset: int, size: tuple, stride: tuple, grad: bool, hooks: Any, *more: Any) -> None:
        """Looks whether a tensor lies within its storage, and how much memory it would fill.

        Raises:
            Misfit: If it does not, or all together would fill too much.
        """
        stored, dtype = storage
        itemsize = (more[0] if more and isinstance(more[0], torch.dtype) else dtype).itemsize
        if 0 not in size:
            reach = offset + 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
            self.room -= max(0, math.prod(size) * itemsize - stored)  # a stride of 0 gives one value many times
            if min((offset, *size, *stride)) < 0 or reach * itemsize > stored or self.room < 0:
                raise Misfit("a tensor larger than what is in the file")


def latin1(text: str, encoding: str) -> bytes:
    """How a pickle holds bytes. Other encodings make more of less."""
    if encoding != "latin1":
        raise UnpicklingError(f"_codecs.encode to {encoding}")
    return text.encode(encoding)
