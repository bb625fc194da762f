"""Inception with random weights, against torch-fidelity's, which gives the layout of the file too."""

import os
import warnings
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.models import inception_v3

from gan.metrics.inception import Inception, _resize

NAME = "pt_inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Random weights with the keys and shapes that torch-fidelity expects, such that signals keep their size."""
    nothing = tmp_path_factory.mktemp("nothing") / "nothing.pth"
    torch.save({}, nothing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        layout = FeatureExtractorInceptionV3("layout", ["2048"], str(nothing)).state_dict()
    rng = torch.Generator().manual_seed(0)
    for key, value in layout.items():
        if key.endswith(("conv.weight", "fc.weight")):
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=rng)
        elif key.endswith(("running_var", "bn.weight")):
            value.uniform_(0.5, 1.5, generator=rng)
        elif key.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2, generator=rng)
    return layout


@pytest.fixture(scope="module")
def file(state, tmp_path_factory) -> str:
    """In torch's format of before 2020, that of the original."""
    path = tmp_path_factory.mktemp("weights") / NAME
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return str(path)


@pytest.fixture(scope="module")
def inception(file) -> Inception:
    return load(file)


def load(file) -> Inception:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*SHA-256")
        return Inception(str(file))


def uint8(*shape: int) -> torch.Tensor:
    """Images with as much in the large as in the small, each with a brightness of its own."""
    rng = torch.Generator().manual_seed(1)
    rough = nn.functional.interpolate(torch.rand(*shape[:2], 3, 3, generator=rng), size=shape[2:], mode="bicubic")
    images = 0.2 * torch.rand(shape, generator=rng) + rough * torch.linspace(0.3, 1.1, len(rough)).view(-1, 1, 1, 1)
    return (255 * images).clamp(0, 255).to(torch.uint8)


def normalised(images: torch.Tensor) -> torch.Tensor:
    return images / 127.5 - 1


# ---------------------------------------------------------------------- the network


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 40, 32)])
def test_features_and_logits_are_those_of_torch_fidelity(inception, file, shape):
    images = uint8(*shape)
    oracle = FeatureExtractorInceptionV3("oracle", ["2048", "logits_unbiased"], file)
    expected, logits = oracle(images.expand(-1, 3, -1, -1))

    features = inception(normalised(images))

    assert features.shape == (shape[0], 2048)
    assert features.dtype == torch.float32
    # The comparison means something: most features live, and the images differ by far more than the tolerance.
    assert (expected > 0).any(0).float().mean() > 0.8
    assert (expected[0] - expected[1]).norm() > 0.1 * expected[0].norm()
    assert (features - expected).norm() < 1e-5 * expected.norm()
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))
    torch.testing.assert_close(inception.classify(features), logits, rtol=1e-4, atol=1e-5 * float(logits.max()))


def test_values_are_rounded_to_grey_levels_and_clamped(inception):
    images = normalised(torch.tensor([0, 1, 127, 254, 255, 3, 77, 200, 255], dtype=torch.uint8).view(1, 1, 3, 3))
    off = images + torch.tensor([-9, -0.4, 0.4, 0.4, 9, -0.4, -0.4, 0.4, 0.3]).view(1, 1, 3, 3) / 127.5
    assert torch.equal(inception(off), inception(images))


@pytest.mark.parametrize("size", [(28, 28), (32, 20), (1, 1), (299, 299), (512, 301)])
def test_resize_is_that_of_tensorflow_1(size):
    images = uint8(2, 3, *size).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    assert torch.equal(_resize(images), expected)


def test_autocast_does_not_change_it(inception):
    images = normalised(uint8(1, 1, 8, 8))
    expected = inception(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(inception(images), expected)


def test_stays_frozen_in_evaluation_mode(inception, state):
    model = nn.Sequential(inception)
    model.train()
    inception(normalised(uint8(1, 1, 8, 8)))
    assert not any(module.training for module in inception.modules())
    assert not any(parameter.requires_grad for parameter in inception.parameters())
    weights = inception.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in state.items())  # running statistics included


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 2, 8, 8),
        torch.zeros(1, 8, 8),
        torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
    ],
    ids=["2 channels", "no batch", "uint8"],
)
def test_other_images_are_refused(inception, images):
    with pytest.raises(ValueError, match=r"takes float images \(N, C, H, W\) in \[-1, 1\]"):
        inception(images)


# ---------------------------------------------------------------------- its file


def test_loads_all_of_the_file_and_draws_no_random_number(state, tmp_path):
    torch.save(state, tmp_path / NAME)  # a zip archive, as torch writes it today
    before = torch.get_rng_state()
    loaded = load(tmp_path / NAME).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_weights_in_half_precision_are_widened(state, tmp_path):
    torch.save(
        {key: value.half() if value.is_floating_point() else value for key, value in state.items()}, tmp_path / NAME
    )
    assert {parameter.dtype for parameter in load(tmp_path / NAME).parameters()} == {torch.float32}


def test_says_that_weights_are_not_the_published_ones(file):
    with pytest.warns(UserWarning, match=r"has SHA-256 .* 6726825d.* compare with no paper's") as caught:
        Inception(file)
    assert caught[0].filename == __file__


def test_the_published_weights_load_without_a_warning(file, monkeypatch):
    monkeypatch.setattr("gan.metrics.inception.SHA256", sha256(Path(file).read_bytes()).hexdigest())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Inception(file)


@pytest.mark.parametrize("name", ["missing.pth", "", "folder"])
def test_a_missing_file_is_an_error_that_says_what_to_get(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="there is no file") as error:
        Inception(str(tmp_path / name))
    for word in (NAME, "pytorch-fid", "torch-fidelity", "SHA-256"):
        assert word in str(error.value)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_with_code_is_refused_before_it_runs(tmp_path, monkeypatch, archive):
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Malicious()}, NAME, _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=r"cannot be read as weights .* asks to run code"):
        Inception(NAME)
    assert not (tmp_path / "ran").exists()
    torch.load(NAME, weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, archive, share):
    weights = {"fc.weight": torch.randn(300, 200), "fc.bias": torch.randn(300)}
    torch.save(weights, tmp_path / NAME, _use_new_zipfile_serialization=archive)
    content = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cannot be read as weights .* cut short"):
        Inception(str(tmp_path / NAME))


def test_torchvisions_inception_is_refused(tmp_path):
    with torch.device("meta"):
        other = inception_v3(weights=None, init_weights=False)
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in other.state_dict().items()}, tmp_path / NAME)
    with pytest.raises(ValueError, match=r"holds something else than Inception's weights.*AuxLogits") as error:
        Inception(str(tmp_path / NAME))
    assert len(str(error.value)) < 1000  # and not a list of hundreds of keys


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "no tensor"])
def test_other_layouts_are_refused(state, tmp_path, damage):
    changed = {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}
    if damage == "missing":
        del changed["Mixed_7c.branch_pool.bn.bias"]
    elif damage == "extra":
        changed["fc2.weight"] = torch.zeros(1)
    else:
        changed["fc.weight"] = torch.zeros(1000, 2048) if damage == "shape" else "weights"
    torch.save(changed, tmp_path / NAME)
    with pytest.raises(ValueError, match="holds something else than Inception's weights"):
        Inception(str(tmp_path / NAME))


@pytest.mark.parametrize("content", [{}, {1: 2}, [1, 2], {"state_dict": {}}, torch.zeros(3)])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / NAME)
    with pytest.raises(ValueError, match="holds something else than Inception's weights"):
        Inception(str(tmp_path / NAME))
