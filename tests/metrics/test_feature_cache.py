"""Features of real images: measured once, told apart, and measured again where what is kept is of no use."""

import warnings

import pytest
import torch
from commands import Pooled
from conftest import SmallDisk, mnist
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gan.config import is_own, remember_own
from gan.metrics.feature_cache import extract, images_at, real_features
from gan.paths import cache_folder


def floats(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_cache_is_measured_again(halves, cache, damage):
    loader = halves.test_dataloader()
    features, order = real_features(loader, Pooled(), 1000)
    torch.testing.assert_close(features, extract(Pooled(), loader.images[order]), rtol=0, atol=1e-6)
    (kept,) = cache.iterdir()
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content if damage is None else damage)
    with pytest.warns(UserWarning, match="damaged: the features of the real images are measured again"):
        again, _ = real_features(loader, Pooled(), 1000)
    assert torch.equal(again, features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(real_features(loader, Pooled(), 1000)[0], features)


def test_what_is_kept_is_told_apart(halves, cache):
    loaders = halves.test_dataloader(), halves.train_dataloader()
    real_features(loaders[0], Pooled(), 1000)
    for number, (loader, extractor, limit) in enumerate(
        [(loaders[1], Pooled(), 1000), (loaders[0], Pooled(2.0), 1000), (loaders[0], Pooled(), 100)], start=2
    ):
        real_features(loader, extractor, limit)
        assert len(list(cache.iterdir())) == number


def test_features_by_other_code_are_measured_again(halves):
    for power in (1, 2):  # which no weight tells
        features, order = real_features(halves.test_dataloader(), Pooled(power=power), 1000)
        expected = extract(Pooled(power=power), halves.test_dataloader().images[order])
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)


def test_a_cache_that_cannot_be_written_is_a_warning(halves, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="set the environment variable GAN_CACHE"):
        features, _ = real_features(halves.test_dataloader(), Pooled(), 1000)
    assert len(features) == 256


def test_a_user_without_a_home_has_no_cache(halves, monkeypatch):
    """As in a container that runs by a number that no passwd entry knows."""
    for name in ("GAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", dict[int, None]().__getitem__)
    assert cache_folder() is None
    with pytest.warns(UserWarning, match="this user has no home. .* set the environment variable GAN_CACHE"):
        features, _ = real_features(halves.test_dataloader(), Pooled(), 1000)
    assert len(features) == 256
    remember_own({})
    assert not is_own({})


def test_a_cache_that_does_not_fit_leaves_nothing_behind(halves, cache):
    with SmallDisk(1000), pytest.warns(UserWarning, match="cannot keep the features.*File too large"):
        real_features(halves.test_dataloader(), Pooled(), 1000)
    assert list(cache.iterdir()) == []
    real_features(halves.test_dataloader(), Pooled(), 1000)
    assert [path.suffix for path in cache.iterdir()] == [".pt"]


def test_a_loader_of_ones_own(halves):
    """Any DataLoader, shuffled as it may be, over a data set with indices."""
    images, labels = mnist()[0][256:], mnist()[1][256:]
    own = DataLoader(TensorDataset(floats(images), labels), batch_size=7, shuffle=True)
    theirs, order = real_features(own, Pooled(), 1000)
    ours, same = real_features(halves.test_dataloader(), Pooled(), 1000)
    assert torch.equal(order, same)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)
    (picked,) = images_at(own, [torch.tensor([5, 3])])
    assert torch.equal(picked, images[[5, 3]])


def test_real_images_without_numbers_are_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from floats(mnist()[0])

    with pytest.raises(ValueError, match="FIDTracker needs real images by their index"):
        real_features(DataLoader(Stream()), Pooled(), 1000)
