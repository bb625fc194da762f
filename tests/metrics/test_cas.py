"""The classification accuracy score on images whose classes are known."""

import pytest
import torch

from gan.data import MNISTDataModule
from gan.metrics import cas, classification_accuracy_score


def stripes(num, shape=(1, 8, 8), noise=0.3, seed=0):
    """Two classes that only their pattern tells: bright left or bright right, in as many images of each."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 2
    side = torch.linspace(-1, 1, shape[-1]).sign()
    images = (2 * labels - 1).view(-1, 1, 1, 1) * side.expand(shape) * 0.5
    return (images + noise * torch.randn(num, *shape, generator=generator)).clamp(-1, 1), labels


def score(generated, real, **settings):
    return classification_accuracy_score(*generated, *real, **({"steps": 20} | settings))


def test_good_images_score_high():
    assert score(stripes(200), stripes(100, seed=1)) > 0.95


def test_labels_that_the_generator_ignores_score_as_chance():
    images, labels = stripes(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert 0.25 < score((images, labels[order]), stripes(100, seed=1)) < 0.75


def test_exchanged_labels_score_near_0():
    images, labels = stripes(200)
    assert score((images, 1 - labels), stripes(100, seed=1)) < 0.05


def test_one_class_scores_its_share():
    images, labels = stripes(200)
    assert score((images[labels == 1], labels[labels == 1]), stripes(100, seed=1)) == pytest.approx(0.5, abs=0.02)


def test_constant_images_score_as_chance():
    labels = torch.arange(100) % 2
    assert score((torch.zeros(100, 1, 8, 8), labels), stripes(100, seed=1)) == pytest.approx(0.5, abs=0.2)


def test_one_image():
    images, labels = stripes(1)
    assert score((images, labels), stripes(100, seed=1), steps=3) in {0.5, *(i / 100 for i in range(101))}


@pytest.mark.parametrize("shape", [(3, 40, 70), (4, 5, 8), (2, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_size_channels_and_type(shape, dtype):
    generated, real = (stripes(64, shape, noise=0.1, seed=seed) for seed in (0, 1))
    generated, real = ((images.to(dtype), labels) for images, labels in (generated, real))
    assert score(generated, real, steps=30) > 0.9


def test_an_image_is_classified_alone():
    # The statistics of a test batch of one class differ from those of both.
    generated, (images, labels) = stripes(100, noise=1.0), stripes(100, noise=1.0, seed=1)
    halves = [score(generated, (images[labels == label], labels[labels == label]), steps=10) for label in (0, 1)]
    assert score(generated, (images, labels), steps=10) == pytest.approx(sum(halves) / 2)


def test_only_large_images_are_resized(monkeypatch):
    sizes = []
    real = cas.interpolate
    monkeypatch.setattr(cas, "interpolate", lambda x, size, **how: sizes.append(size) or real(x, size, **how))
    for shape in ((1, 8, 32), (1, 33, 8)):
        score(stripes(10, shape), stripes(10, shape, seed=1), steps=1)
    assert sizes == [[32, 8], [32, 8]]  # the training batch and the test images of the second


def test_it_neither_reads_nor_moves_the_random_state():
    generated, real = stripes(100, noise=2.0), stripes(501, noise=2.0, seed=1)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = score(generated, real, steps=5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert score(generated, real, steps=5, seed=1) == first
    assert score(generated, real, steps=5, seed=2) != first


def test_it_does_not_reseed_the_gpus(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    torch.manual_seed(3)
    assert seeds == [3]  # this is what would be noticed
    score(stripes(10), stripes(10), steps=1)
    assert seeds == [3]


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)]
)
def test_the_modes_of_the_caller_do_not_matter(mode):
    expected = score(stripes(100, noise=2.0), stripes(501, noise=2.0, seed=1), steps=5)
    with mode():  # the images are made in it too, as a callback's are
        assert score(stripes(100, noise=2.0), stripes(501, noise=2.0, seed=1), steps=5) == expected


def test_images_keep_no_gradient():
    images, labels = stripes(100)
    images.requires_grad_()
    score((images, labels), stripes(100, seed=1), steps=2)
    assert images.grad is None


def test_digits():
    images, labels = MNISTDataModule().load(train=False)
    images = images[:1500].float() / 127.5 - 1
    real = images[1000:], labels[1000:1500]
    assert score((images[:1000], labels[:1000]), real, steps=60) > 0.85


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(0, 1, 8, 8), "labels": torch.zeros(0).long()}, "images must be a floating tensor"),
        ({"images": torch.zeros(4, 8, 8)}, r"shape \(N, C, H, W\)"),
        ({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, "must be a floating tensor .* got torch.uint8"),
        ({"images": torch.zeros(4, 3, 8, 8)}, r"one shape \(C, H, W\), got \(3, 8, 8\) and \(1, 8, 8\)"),
        ({"images": torch.full((4, 1, 8, 8), torch.nan)}, "images: 4 of 4 rows have NaN"),
        ({"test_images": torch.full((4, 1, 8, 8), torch.inf)}, "test_images: 4 of 4 rows have NaN"),
        ({"labels": torch.zeros(3).long()}, "labels must be int64, one for each of 4 images"),
        ({"test_labels": torch.zeros(4)}, "test_labels must be int64"),
        ({"labels": torch.tensor([0, 1, -1, 0])}, "labels must be at least 0, got -1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {
        "images": torch.zeros(4, 1, 8, 8),
        "labels": torch.zeros(4).long(),
        "test_images": torch.zeros(4, 1, 8, 8),
        "test_labels": torch.zeros(4).long(),
    }
    with pytest.raises(ValueError, match=message):
        classification_accuracy_score(**(arguments | change))
