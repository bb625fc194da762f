"""Data sets by name, from small files in the layout of the real ones."""

import gzip
import hashlib
import pickle
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from gan.data import TorchvisionDataModule

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
PATTERN = np.arange(28 * 28).reshape(28, 28) % 251  # the same neither mirrored nor transposed


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist_like(folder: Path, image: np.ndarray, classes: int, test: str, prefix: str = "") -> None:
    """IDX files of 60 training images and 50 test images."""
    for name, n in (("train", 60), (test, 50)):
        write_idx(folder / f"{prefix}{name}-images-idx3-ubyte", np.stack([image] * n))
        write_idx(folder / f"{prefix}{name}-labels-idx1-ubyte", np.arange(n) % classes)


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles of 12 images each, with their MD5 in place of those that torchvision checks."""
    folder.mkdir()
    colours = np.stack([np.arange(1024), np.arange(1024) + 7, np.arange(1024) + 100]) % 251  # rows in each colour
    batch = {
        "data": np.stack([colours.reshape(-1)] * 12).astype(np.uint8),
        "labels": [i % 10 for i in range(12)],
    }
    md5 = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        content = pickle.dumps({"label_names": list("abcdefghij")} if name == "batches.meta" else batch)
        (folder / name).write_bytes(content)
        md5[name] = hashlib.md5(content).hexdigest()
    cifar = datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setitem(cifar.meta, "md5", md5["batches.meta"])


@pytest.mark.parametrize("name", ["FashionMNIST", "KMNIST"])
def test_mnist_like(name, tmp_path):
    write_mnist_like(tmp_path / name / "raw", PATTERN, 10, test="t10k")
    data = TorchvisionDataModule(name, str(tmp_path), batch_size=8, validation_size=4)
    data.setup()
    [(images, labels)] = data.test_dataloader()
    assert images.shape == (50, *data.image_shape)
    assert labels.tolist() == [i % data.num_classes for i in range(50)]
    assert torch.equal(((images[0, 0] + 1) * 127.5).round().int(), torch.from_numpy(PATTERN).int())
    assert len(data.train_dataloader()) == 7


def test_emnist_is_turned_upright(tmp_path):
    write_mnist_like(tmp_path / "EMNIST/raw", PATTERN.T, 47, test="test", prefix="emnist-balanced-")
    data = TorchvisionDataModule("EMNIST", str(tmp_path), batch_size=8, validation_size=4)
    images, labels = data.load(train=True)
    assert images.shape == (60, *data.image_shape)
    assert labels.max() == data.num_classes - 1 == 46
    assert torch.equal(images[0, 0], torch.from_numpy(PATTERN).to(torch.uint8))
    data.setup()


def test_cifar10_has_its_channels_first(tmp_path, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    data = TorchvisionDataModule("CIFAR10", str(tmp_path), batch_size=8, validation_size=4)
    images, labels = data.load(train=True)
    assert images.shape == (60, *data.image_shape)
    assert labels.bincount(minlength=data.num_classes).min() > 0
    assert images[5, :, 2, 3].tolist() == [2 * 32 + 3, 2 * 32 + 3 + 7, 2 * 32 + 3 + 100]
    data.setup()


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [
        ("FashionMNIST", "FashionMNIST/raw", "t10k-labels-idx1-ubyte"),
        ("KMNIST", "KMNIST/raw", "t10k-labels-idx1-ubyte"),
        ("EMNIST", "EMNIST/raw", "emnist-balanced-test-labels-idx1-ubyte"),
        ("CIFAR10", "cifar-10-batches-py", "batches.meta"),
    ],
)
def test_missing_files_are_named_with_the_way_out(name, folder, file, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=rf"{tmp_path / folder}, unpacked: .*{file}.* `download: true`"):
        TorchvisionDataModule(name, str(tmp_path)).setup("fit")

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(ValueError, match=rf"(?s){name} could not be downloaded.*{file}.*no network here"):
        TorchvisionDataModule(name, str(tmp_path), download=True).prepare_data()


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: pytest.fail("went to the network"))
    TorchvisionDataModule("KMNIST", str(tmp_path)).prepare_data()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03\0\0", b"<html>404</html>", None])
def test_unreadable_file_is_a_plain_error(content, tmp_path):
    folder = tmp_path / "FashionMNIST/raw"
    write_mnist_like(folder, PATTERN, 10, test="t10k")
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with pytest.raises(ValueError, match=r"FashionMNIST could not be read.*train-images-idx3-ubyte"):
        TorchvisionDataModule("FashionMNIST", str(tmp_path)).setup("fit")


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="FashionMNIST, KMNIST, EMNIST, CIFAR10, got 'fashion'"):
        TorchvisionDataModule("fashion")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_real_fashion_mnist(tmp_path):
    folder = tmp_path / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    for packed in DEBIAN.glob("*.gz"):
        (folder / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    data = TorchvisionDataModule("FashionMNIST", str(tmp_path))
    data.setup()
    assert len(data.train_dataloader().images) == 55000
    assert data.test_dataloader().labels.bincount().tolist() == [1000] * 10
    assert data.test_dataloader().labels[:5].tolist() == [9, 2, 1, 1, 6]


def test_a_folder_of_data_is_one_place(tmp_path, monkeypatch):
    """As it is written in a config, where no shell spells it out."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    for folder, path in {"~/sets": tmp_path / "sets", "$DISK/sets": tmp_path / "disk" / "sets"}.items():
        assert TorchvisionDataModule("KMNIST", folder).data_dir == str(path)
    with pytest.raises(ValueError, match="data_dir gs://bucket/sets is a URL"):
        TorchvisionDataModule("KMNIST", "gs://bucket/sets")
