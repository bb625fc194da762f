"""The embedded MNIST."""

import gzip
import shutil
import warnings

import pytest

from gan.data import MNISTDataModule, mnist


def test_it_is_mnist_upright():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = MNISTDataModule(validation_size=0)
        images, labels = data.load(train=True)
    assert images.shape == (60000, *data.image_shape)
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert images.float().mean().item() == pytest.approx(33.318, abs=0.001)
    one = images[labels == 1, 0].float().mean(0)  # rows, columns
    assert one.mean(1).gt(5).sum() > one.mean(0).gt(5).sum(), "a one is taller than it is wide"


def test_test_set_is_another_ten_thousand():
    data = MNISTDataModule()
    data.setup("test")
    sizes = [len(labels) for _, labels in data.test_dataloader()]
    assert sizes == [500] * 20


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered", "scrambled", "other", "not gzip"])
def test_damaged_file_is_named_with_the_way_out(damage, tmp_path, monkeypatch):
    shutil.copytree(mnist.FILES, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("train*"))
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    good = path.read_bytes()
    content = gzip.decompress(good)
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(good[:-100])
        case "altered":
            path.write_bytes(good[:2000] + bytes([good[2000] ^ 1]) + good[2001:])
        case "scrambled":
            path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 100)
        case "other":
            path.write_bytes(gzip.compress(content[:-1] + bytes([content[-1] ^ 1])))
        case "not gzip":
            path.write_bytes(content)
    monkeypatch.setattr(mnist, "FILES", tmp_path)
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz cannot be used.*Reinstall.*git checkout"):
        MNISTDataModule().setup("test")
