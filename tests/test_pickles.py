"""A small file that asks for much memory is refused, and what users keep in a checkpoint is not."""

import os
import pickle
import struct
import zipfile
from collections import Counter
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from commands import fit, load

from gan import GAN
from gan.checkpoints import check_checkpoint
from gan.pickles import Misfit, check_pickle


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return fit(tmp_path_factory.mktemp("pickles") / "run")


TYPES = ("bfloat16", "uint16", "float8_e4m3fn", "bool", "complex64")


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def encode(*args):
    import _codecs

    return Call(_codecs.encode, *args)


GREEDY = {
    "bytearray": lambda: Call(bytearray, 8 << 30),
    "storage": lambda: Call(torch.FloatStorage, 1 << 31),
    "tensor": lambda: Call(torch.Tensor, 1 << 31),
    "text": lambda: encode("a", "hex"),
    "expanded": lambda: torch.zeros(1).expand(1 << 31),
    "meta": lambda: torch.empty(1 << 40, device="meta"),
    "many": lambda: [torch.zeros(1).expand(1 << 23) for _ in range(8)],
    "sparse": lambda: torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (1 << 40,)),
}


@pytest.mark.parametrize("greedy", GREEDY.values(), ids=GREEDY)
def test_small_file_that_asks_for_much_memory(greedy, checkpoint, tmp_path):
    content = load(checkpoint)
    path = tmp_path / "x.ckpt"
    torch.save(content | {"callbacks": {"x": greedy()}}, path)
    assert os.path.getsize(path) < 2 * checkpoint.stat().st_size
    with pytest.raises(ValueError, match=r"x\.ckpt is"):
        check_checkpoint(path)
    with pytest.raises(ValueError, match=r"x\.ckpt is"):
        GAN.load_from_checkpoint(path)


def test_what_users_keep_in_a_checkpoint_is_no_greed(checkpoint, tmp_path):
    content = load(checkpoint)
    kept = {
        "set": {1, 2},
        "bytes": b"\x00\xff",
        "complex": 1j,
        "dtype": torch.float32,
        "size": torch.Size([2]),
        "device": torch.device("cpu"),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "expanded": torch.ones(1).expand(64, 3),
        "view": torch.arange(16.0).view(4, 4).t()[1:, ::2],
        "empty": torch.zeros(0, 3),
        "types": [torch.zeros(2, dtype=getattr(torch, name)) for name in TYPES],
    }
    torch.save(content | {"callbacks": {"kept": kept}}, tmp_path / "x.ckpt")
    read = check_checkpoint(tmp_path / "x.ckpt")["callbacks"]["kept"]
    assert read.keys() == kept.keys()
    assert read["bytes"] == kept["bytes"]


TEXT = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000


@pytest.mark.parametrize(
    "calls",
    [
        (b"c_codecs\nencode\nq\x02", b"h\x02h\x01X\x06\0\0\0latin1\x86R"),
        (b"ctorch\nSize\nq\x02", b"h\x02h\x01\x85R"),
        (b"c__builtin__\nset\nq\x02", b"h\x02h\x01\x85R"),
    ],
    ids=["bytes", "size", "set"],
)
def test_the_same_part_used_many_times(calls, tmp_path):
    """A text of 1 MB, and 200 objects made of it."""
    name, call = calls
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02](" + TEXT + b"q\x01" + name + 200 * call + b"e.")
    with pytest.raises(Misfit, match="more than is in the file"):
        check_pickle(tmp_path / "x.ckpt")


def test_record_that_torch_finds_under_another_name(tmp_path):
    """Its reader takes DATA.PKL for data.pkl."""
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("archive/DATA.PKL", pickle.dumps({}, protocol=2))
        archive.writestr("archive/zz/data.pkl", pickle.dumps({}, protocol=2))
    with pytest.raises(Misfit, match="mistaken"):
        check_pickle(tmp_path / "x.ckpt")


def test_reading_changes_nothing_in_the_process(tmp_path):
    """A pickle may set attributes, of a class too."""
    hack = b"ccollections\nCounter\nN}X\x0b\0\0\0most_commonX\x06\0\0\0hackeds\x86b."
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + hack)
    with pytest.raises(UnpicklingError, match="attributes"):
        check_pickle(tmp_path / "x.ckpt")
    assert callable(Counter.most_common)
