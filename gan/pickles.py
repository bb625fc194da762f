"""What a pickle may ask for: containers, numbers and tensors, and no more memory than the file has the data for."""

import io
import math
import pickle
import zipfile
from collections import Counter, OrderedDict
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
