"""The extractor that ships: how good it is, and that it stays as it is."""

import hashlib
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gan.data import MNISTDataModule
from gan.metrics import CNNFeatures, features, fingerprint, load_features, save_features
from gan.train_features import features_of, whole


@pytest.fixture(scope="module")
def extractor() -> CNNFeatures:
    return load_features("mnist_cnn")


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    return whole(MNISTDataModule(), train=False)


@pytest.fixture(scope="module")
def real(extractor, digits) -> torch.Tensor:
    """The features of the 10,000 test images, float32 (10000, 64)."""
    return features_of(extractor, digits[0])


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A copy of the shipped files, in the place of the real ones."""
    for path in features.FILES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(features, "FILES", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", features.SHA256)
def test_shipped(name):
    path = features.FILES / f"{name}.safetensors"
    assert path.stat().st_size < 1_000_000
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == features.SHA256[name]
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert digest in card
    assert f"Fingerprint: {fingerprint(load_features(name))}" in card


def test_no_file_is_forgotten():
    assert {path.stem for path in features.FILES.iterdir()} == set(features.SHA256)


def test_accuracy(extractor, real, digits):
    logits = extractor.classify(real)
    assert logits.shape == (10_000, 10)
    accuracy = (logits.argmax(1) == digits[1]).float().mean().item()
    assert accuracy >= 0.995
    card = (features.FILES / "mnist_cnn.md").read_text(encoding="utf-8")
    assert re.search(r"test images: (\S+)%", card)[1] == f"{100 * accuracy:.2f}"


def test_features_are_bounded_alive_and_independent(real):
    assert real.shape == (10_000, 64)
    assert real.dtype == torch.float32
    assert real.abs().max() <= 1
    assert real.std(dim=0).min() > 0.1
    assert torch.linalg.matrix_rank(real.double().T.cov(), hermitian=True) == 64


def test_features_are_bounded_far_from_the_data(extractor):
    images = 1000 * torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert extractor(images).abs().max() <= 1


def test_an_image_does_not_depend_on_its_batch(extractor, digits):
    images = digits[0][:64]
    torch.testing.assert_close(extractor(images)[:1], extractor(images[:1]), rtol=0, atol=1e-5)


def test_locked(extractor, digits):
    parent = nn.Sequential(extractor).train()  # what a trainer does to whatever it finds
    assert parent.training
    assert extractor.train() is extractor
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert not extractor(digits[0][:2]).requires_grad


def test_gradients_reach_the_images(extractor):
    images = torch.zeros(2, 1, 28, 28, requires_grad=True)
    extractor(images).sum().backward()
    assert images.grad.abs().sum() > 0


def test_autocast_changes_nothing(extractor, digits):
    images = digits[0][:8]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(images), extractor(images))
        inside = extractor(images)
    assert torch.equal(inside, extractor(images))


def test_other_shapes_and_its_file(tmp_path, monkeypatch):
    torch.manual_seed(0)
    path = tmp_path / "flowers.safetensors"
    one = CNNFeatures(image_shape=(3, 64, 48), num_classes=47, dim=24)
    save_features(one, path)
    two = load_features(path)
    images = torch.rand(5, 3, 64, 48) * 2 - 1
    assert two(images).shape == (5, 24)
    assert two.classify(two(images)).shape == (5, 47)
    assert torch.equal(one(images), two(images))
    assert not any(parameter.requires_grad for parameter in two.parameters())
    monkeypatch.setenv("DISK", str(tmp_path))
    assert load_features("$DISK/flowers.safetensors").dim == 24
    with pytest.raises(ValueError, match="extractor hf://owner/flowers is a URL"):
        load_features("hf://owner/flowers")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_shape": (28, 28)}, "image_shape must be"),
        ({"image_shape": (1, 8, 28)}, "12 at least"),
        ({"num_classes": 1}, "num_classes must be >= 2"),
        ({"dim": 0}, "dim >= 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        CNNFeatures(**settings)


def test_wrong_images(extractor):
    with pytest.raises(ValueError, match=r"\(N, \*\(1, 28, 28\)\), got \(2, 3, 28, 28\)"):
        extractor(torch.zeros(2, 3, 28, 28))
    with pytest.raises(ValueError, match=r"got torch.uint8"):
        extractor(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))


def test_nothing_stands_in_for_a_missing_file(files):
    with pytest.raises(ValueError, match="neither one of mnist_cnn"):
        load_features("inception")
    with pytest.raises(ValueError, match="neither one of mnist_cnn"):
        load_features(files / "none.safetensors")
    with pytest.raises(ValueError, match="neither one of mnist_cnn"):
        load_features(files)  # a folder
    (files / "mnist_cnn.safetensors").unlink()
    with pytest.raises(ValueError, match="it is missing"):
        load_features("mnist_cnn")


def test_flipped_bit_of_a_shipped_file(files):
    path = files / "mnist_cnn.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    load_features(path)  # by its path it is a valid file, and only its SHA-256 tells
    with pytest.raises(ValueError, match="SHA-256 differs"):
        load_features("mnist_cnn")


def test_foreign_files(files):
    shipped = files / "mnist_cnn.safetensors"
    path = files / "other.safetensors"

    path.write_bytes(shipped.read_bytes()[:-4])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_features(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_features(path)
    path.write_bytes(pickle.dumps(load_file(shipped)))
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_features(path)

    weights = load_file(shipped)
    save_file(weights, path)
    with pytest.raises(ValueError, match="holds no extractor of this project"):
        load_features(path)
    for arguments in ('{"width": 3}', "{", '{"dim": 32}', "[]"):
        save_file(weights, path, metadata={features.KEY: arguments})
        with pytest.raises(ValueError, match="is not what this version"):
            load_features(path)
    weights["head.bias"][3] = float("nan")
    save_file(weights, path, metadata={features.KEY: "{}"})
    with pytest.raises(ValueError, match="not finite"):
        load_features(path)


@pytest.mark.parametrize(
    ("accuracy", "images", "classes", "guesses"),
    [
        ("10.00", "10,000", 10, True),
        ("11.50", "10,000", 10, True),
        ("13.00", "10,000", 10, False),
        ("15.00", "100", 10, True),  # of a hundred, a guess may be right about that many
        ("51.20", "1,906", 2, True),
        ("75.00", "1,906", 2, False),
        ("1.10", "2,000", 100, True),
        ("9.00", "2,000", 100, False),
        ("4.00", "500", 9, True),  # worse than a guess
    ],
)
def test_features_are_doubted_where_their_card_says_that_they_guess(tmp_path, accuracy, images, classes, guesses):
    card = f"# flowers\n\n- Seed: 0\n- Accuracy on the {images} test images: {accuracy}%\n- Features: 64\n"
    (tmp_path / "flowers.md").write_text(card, encoding="utf-8")
    doubt = features.doubt(tmp_path / "flowers.safetensors", classes)
    assert (doubt is not None) == guesses
    if guesses:
        assert f"{float(accuracy):.1f}%" in doubt
        assert f"a guess about {1 / classes:.1%}" in doubt


@pytest.mark.parametrize("path", ["~/flowers.safetensors", "$HOME/flowers.safetensors"])
def test_a_card_is_found_where_its_features_are(tmp_path, monkeypatch, path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "flowers.md").write_text("- Accuracy on the 900 test images: 10.00%\n", encoding="utf-8")
    assert features.doubt(path, 10) is not None


def test_features_without_a_card_are_not_doubted(tmp_path):
    assert features.doubt(tmp_path / "flowers.safetensors", 10) is None
    (tmp_path / "flowers.md").write_bytes(b"\xff\xfe of something else")
    assert features.doubt(tmp_path / "flowers.safetensors", 10) is None
    (tmp_path / "flowers.md").write_text("of flowers", encoding="utf-8")
    assert features.doubt(tmp_path / "flowers.safetensors", 10) is None
    assert [features.doubt(name, 10) for name in features.SHA256] == [None, None]


def test_fingerprint(extractor):
    class Other(CNNFeatures):
        pass

    first = fingerprint(extractor)
    assert re.fullmatch("[0-9a-f]{12}", first)
    same = CNNFeatures()
    same.load_state_dict(extractor.state_dict())
    assert fingerprint(same.to(memory_format=torch.contiguous_format)) == first
    other = Other()
    other.load_state_dict(extractor.state_dict())
    assert fingerprint(other) != first
    with torch.no_grad():
        same.head.bias[0] = torch.nextafter(same.head.bias[0], torch.tensor(9.0))
    assert fingerprint(same) != first
    assert fingerprint(nn.Identity()) != fingerprint(nn.Flatten())
    wide, tall = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    tall.load_state_dict({"weight": wide.weight.view(2, 3)})
    assert fingerprint(wide) != fingerprint(tall)
    assert fingerprint(nn.BatchNorm1d(2)) == fingerprint(nn.BatchNorm1d(2))  # a buffer without dimensions
