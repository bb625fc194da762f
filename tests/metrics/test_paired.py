"""PSNR, SSIM and LPIPS: by closed forms, by torchmetrics' own classes, and by what is refused."""

import math
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import mnist
from torchmetrics.functional.image import lpips as theirs
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from gan.images import to_float
from gan.metrics.paired import LPIPS, PairedScores, done_nothing


def levels(value: int, num: int = 3, shape: tuple[int, int, int] = (1, 16, 20)) -> torch.Tensor:
    return torch.full((num, *shape), value, dtype=torch.uint8)


def test_psnr_of_images_that_are_a_step_off():
    """A step of one grey level of 255 is 20 log10(255) decibels; ten of them are 20 less."""
    scores = PairedScores((1, 16, 20))
    one = scores.scores(scores.rows(levels(100), levels(101)))
    assert one["psnr"] == pytest.approx(20 * math.log10(255), abs=1e-4)
    ten = scores.scores(scores.rows(levels(100), levels(110)))
    assert ten["psnr"] == pytest.approx(one["psnr"] - 20, abs=1e-4)
    mixed = torch.cat([scores.rows(levels(100), levels(101)), scores.rows(levels(100), levels(100))])
    assert scores.scores(mixed)["psnr"] == pytest.approx(one["psnr"] + 10 * math.log10(2), abs=1e-4)
    assert scores.scores(scores.rows(levels(7), levels(7)))["psnr"] == math.inf


def test_ssim_of_constant_images():
    """Without any variance it is (2 a b + c) / (a^2 + b^2 + c), of intensities in [0, 1], with c = 0.01^2."""
    scores = PairedScores((1, 16, 20))
    a, b, c = 100 / 255, 240 / 255, 0.01**2
    found = scores.scores(scores.rows(levels(100), levels(240)))["ssim"]
    assert found == pytest.approx((2 * a * b + c) / (a**2 + b**2 + c), abs=3e-4)
    assert scores.scores(scores.rows(levels(100), levels(100)))["ssim"] == pytest.approx(1, abs=1e-5)


def test_both_are_those_of_torchmetrics():
    """Of all images together, whatever the chunks that they come in."""
    images, targets = mnist()[0][:90], mnist()[0][90:180]
    scores = PairedScores((1, 28, 28))
    rows = torch.cat([scores.rows(images[part], targets[part]) for part in (slice(0, 50), slice(50, 90))])
    assert rows.shape == (90, 2)
    psnr, ssim = PeakSignalNoiseRatio(data_range=1.0), StructuralSimilarityIndexMeasure(data_range=1.0)
    assert scores.scores(rows) == {
        "psnr": pytest.approx(psnr(images / 255, targets / 255).item(), rel=1e-5),
        "ssim": pytest.approx(ssim(images / 255, targets / 255).item(), rel=1e-5),
    }
    assert scores.scores(rows.flip(0)) == pytest.approx(scores.scores(rows), rel=1e-12)


@pytest.mark.parametrize("number", [1, 2])
def test_one_image_or_two(number):
    scores = PairedScores((3, 11, 12))
    rows = scores.rows(levels(9, number, (3, 11, 12)), levels(10, number, (3, 11, 12)))
    assert rows.shape == (number, 2)


def test_images_smaller_than_a_window_have_no_ssim():
    scores = PairedScores((1, 10, 28))
    assert scores.names == ["psnr"]
    assert scores.scores(scores.rows(levels(1, 2, (1, 10, 28)), levels(2, 2, (1, 10, 28)))).keys() == {"psnr"}


# ---------------------------------------------------------------------- LPIPS


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A file like torchvision's, with weights of no worth."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = torchvision.models.alexnet(weights=None).state_dict()
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({name: value for name, value in state.items() if name.startswith("features.")}, path)
    return str(path)


def test_lpips_is_torchmetrics_own(weights, monkeypatch):
    """That of the same AlexNet, given to torchmetrics where it would download one."""

    def alexnet(weights=None):
        network = torchvision.models.AlexNet()
        network.load_state_dict(torch.load(path, weights_only=True), strict=False)
        return network

    path = weights
    before = torch.get_rng_state()
    ours = LPIPS(weights)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(torchvision.models, "alexnet", alexnet)
    other = theirs._LPIPS(net="alex")
    rng = torch.Generator().manual_seed(0)
    images, targets = (torch.rand(5, 3, 64, 72, generator=rng) * 2 - 1 for _ in range(2))
    found = ours(images, targets)
    assert found.shape == (5,)
    torch.testing.assert_close(found, other(images, targets).flatten())
    assert found.min() > 0
    assert torch.equal(ours(images, images), torch.zeros(5))
    assert torch.equal(ours.train()(images, targets), found)  # no dropout
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_lpips_of_small_grey_images(weights):
    """They become three equal channels of 64 x 64."""
    scores = PairedScores((1, 28, 28), LPIPS(weights))
    images, targets = mnist()[0][:6], mnist()[0][6:12]
    found = scores.scores(scores.rows(images, targets))
    assert list(found) == scores.names == ["psnr", "ssim", "lpips"]
    large = [
        torch.nn.functional.interpolate(to_float(part), [64, 64], mode="bilinear", antialias=True).repeat(1, 3, 1, 1)
        for part in (images, targets)
    ]
    assert found["lpips"] == pytest.approx(scores.lpips(*large).mean().item(), rel=1e-5)


def test_files_that_are_no_alexnet(tmp_path, weights):
    with pytest.raises(ValueError, match=r"there is no file .*nowhere\.pth with AlexNet's weights"):
        LPIPS(str(tmp_path / "nowhere.pth"))
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(Path(weights).read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"damaged\.pth cannot be read as weights .*Nothing here downloads"):
        LPIPS(str(damaged))
    other, lacking = tmp_path / "other.pth", tmp_path / "lacking.pth"
    torch.save(torch.nn.Linear(3, 3).state_dict(), other)
    state = torch.load(weights, weights_only=True)
    torch.save(state | {"features.0.weight": torch.zeros(64, 3, 3, 3)}, lacking)
    for path in (other, lacking):
        with pytest.raises(ValueError, match=f"{path.name} holds something else than AlexNet's weights"):
            LPIPS(str(path))


def test_lpips_of_other_channels_is_refused(weights):
    with pytest.raises(ValueError, match="LPIPS takes images of 1 or 3 channels, not 4: leave FIDTracker's lpips out"):
        PairedScores((4, 32, 32), LPIPS(weights))


# ---------------------------------------------------------------------- what has done nothing


def test_a_source_is_resized_by_the_cubic_kernel():
    """Keys 1981 with a = -1/2, as Pillow and MATLAB have it, written out; at the edge what lies beyond is left out."""

    def kernel(x):
        x = x.abs()
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))

    at = (torch.arange(28, dtype=torch.float64) + 0.5) / 4 - 0.5
    weights = kernel(at[:, None] - torch.arange(7))
    weights /= weights.sum(1, keepdim=True)
    small = to_float(mnist()[0][:4, :, ::4, ::4])
    expected = (weights @ small.double() @ weights.T).clamp(-1, 1)
    torch.testing.assert_close(done_nothing(small, (1, 28, 28)).double(), expected, atol=1e-5, rtol=0)


def test_what_is_hidden_stays_as_it_is_and_other_channels_are_no_image():
    source = torch.rand(2, 4, 8, 8) * 2 - 1
    assert torch.equal(done_nothing(source, (3, 8, 8)), source[:, :3])
    assert torch.equal(done_nothing(source, (4, 8, 8)), source)
    assert done_nothing(source, (1, 8, 8)) is None
    assert done_nothing(source[:, :1], (3, 8, 8)) is None
