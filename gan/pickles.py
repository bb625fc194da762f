"""What a pickle may ask for: containers, numbers and tensors, and no more memory than the file has the data for."""

import io
import math
import pickle
import zipfile
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, ClassVar

import torch

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
        names = archive.namelist()
        folder = names[0].partition("/")[0] + "/"
        record = f"{folder}data.pkl"
        # Torch's reader takes names for equal that differ in case, and Python's does not.
        distinct = len({name.lower() for name in names}) == len(names)
        if not distinct or [name for name in names if name.lower().endswith("/data.pkl")] != [record]:
            raise Misfit("parts under names that can be mistaken for each other")
        sizes = {part.filename.removeprefix(folder): part.file_size for part in archive.infolist()}
        Structure(io.BytesIO(archive.read(record)), sizes).load()


class Structure(pickle._Unpickler):  # the one in Python: the one in C makes room for as many objects as a file says
    """Goes through a pickle, makes containers only, and lets tensors be described that the archive has the data of.

    Args:
        file: The pickle.
        sizes: Bytes of the records of the archive, by name.
    """

    MADE: ClassVar = {
        ("collections", "OrderedDict"): dict,
        ("collections", "Counter"): dict,
        ("__builtin__", "set"): list,  # as protocol 2 calls it
        ("torch", "Size"): list,
        ("torch", "device"): list,
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
            case _ if (module, name) in self.MADE:
                return partial(self.make, self.MADE[module, name])
            case "__builtin__", "complex":
                return lambda real, imaginary: None
            case "torch._utils", "_rebuild_parameter":
                return lambda data, *settings: None
            case "torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor_v3":
                return self.tensor
            case "_codecs", "encode":
                return self.latin1
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

    def fill(self, size: int) -> None:
        """Takes room for `size` bytes that the file does not hold: the same part of it can be used many times.

        Raises:
            Misfit: If there is none left.
        """
        self.room -= size
        if self.room < 0:
            raise Misfit("more than is in the file")

    def make(self, kind: type, *items: Any) -> Any:
        """A container of a kind, as good as what the pickle would have made."""
        self.fill(sum(64 * len(part) for part in items if hasattr(part, "__len__")))
        return Built() if kind is dict else []

    def latin1(self, text: str, encoding: str) -> None:
        """How a pickle holds bytes. Other encodings make more of less.

        Raises:
            UnpicklingError: If it is another one.
        """
        if encoding != "latin1":
            raise UnpicklingError(f"_codecs.encode to {encoding}")
        self.fill(len(text))

    def build(self) -> None:
        """Drops the attributes that a state dict has; nothing else has any.

        Raises:
            UnpicklingError: If they are of something else.
        """
        stack: list[Any] = self.stack  # pyright: ignore[reportAttributeAccessIssue] # not in the stubs
        stack.pop()
        if type(stack[-1]) is not Built:
            raise UnpicklingError("attributes")

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: build}

    def tensor(self, storage: Any, offset: int, size: tuple, stride: tuple, grad: bool, hooks: Any, *more: Any) -> None:
        """Looks whether a tensor lies within its storage, and how much memory it would fill.

        Raises:
            Misfit: If it does not, or all together would fill too much.
        """
        stored, dtype = storage
        itemsize = (more[0] if more and isinstance(more[0], torch.dtype) else dtype).itemsize
        if 0 not in size:
            reach = offset + 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
            if min((offset, *size, *stride)) < 0 or reach * itemsize > stored:
                raise Misfit("a tensor larger than what is in the file")
            self.fill(max(0, math.prod(size) * itemsize - stored))  # a stride of 0 gives one value many times


class Built(dict):
    """Stands for an OrderedDict."""
