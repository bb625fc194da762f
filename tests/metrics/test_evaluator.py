"""An evaluator by itself: any callable that makes images, any loader of torch's, and no trainer."""

import subprocess
import sys
import tracemalloc

import pytest
import torch
from commands import Pooled
from conftest import ROOT, mnist
from torch.utils.data import DataLoader, TensorDataset

from gan.images import to_float
from gan.metrics import class_scores, frechet_distance, kernel_distance, mean_and_covariance, neighbour_scores
from gan.metrics.evaluator import Evaluator, NotFinite
from gan.metrics.feature_cache import CHUNK


class InMemory:
    """Not this project's loader: whatever has images at hand."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        self.images, self.labels = images, labels


def loaders(in_memory: bool = True) -> list:
    images, labels = mnist()
    halves = [(images[:256], labels[:256]), (images[256:], labels[256:])]
    if in_memory:
        return [InMemory(*half) for half in halves]
    return [DataLoader(TensorDataset(to_float(images), labels), batch_size=32) for images, labels in halves]


def make(number: int) -> torch.Tensor:
    """Training images with some noise: chunk after chunk others."""
    rng = torch.Generator().manual_seed(number)
    images = to_float(mnist()[0][torch.randint(256, (CHUNK,), generator=rng)])
    return (images + 0.3 * torch.randn(images.shape, generator=rng)).clamp(-1, 1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GAN_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("in_memory", [True, False])
def test_scores_are_those_of_the_functions(in_memory):
    evaluator = Evaluator(Pooled(), *loaders(in_memory))
    generated = evaluator.generate(make, 300)
    scores = evaluator.scores(generated)
    real, fake = evaluator.real, generated.features
    assert (len(real), len(fake)) == (256, 300)
    assert scores["fid"] == pytest.approx(
        frechet_distance(*mean_and_covariance(fake), *mean_and_covariance(real)), rel=1e-9
    )
    assert scores["kid"] == kernel_distance(real, fake, subsets=10)[0]
    neighbours = neighbour_scores(real, fake[:256])._asdict()
    assert {name: scores[name] for name in neighbours} == neighbours
    classes = class_scores(evaluator.logits(fake))._asdict()
    for name in ("modes_covered", "entropy", "inception_score"):
        assert scores[name] == pytest.approx(classes[name], rel=1e-12)
    assert evaluator.scores(generated) == scores
    assert evaluator.generate(make, 300).fid == generated.fid


def test_the_largest_class_is_of_the_training_images():
    """By what the classifier says of them; None where there is none."""
    train, test = loaders()
    evaluator = Evaluator(Pooled(), train, test)
    found = evaluator.logits(evaluator.training).argmax(1)
    assert evaluator.largest_class == pytest.approx(found.bincount().max().item() / 256)
    one = InMemory(train.images[:1].expand(256, -1, -1, -1), train.labels)
    assert Evaluator(Pooled(), one, test).largest_class == 1
    assert Evaluator(torch.nn.Sequential(torch.nn.AvgPool2d(7), torch.nn.Flatten()), train, test).largest_class is None


def test_scores_of_what_was_asked_for():
    """By hand: the classifier's hits; and the mean of the FIDs of each class, where there are images enough."""
    evaluator = Evaluator(Few(), *loaders())
    real, labels = evaluator.real, mnist()[1][256:][evaluator.test_order]
    assert torch.equal(evaluator.labels, labels)
    generated, asked = evaluator.generate(make, 500), torch.arange(500) % 10
    scores = evaluator.condition_scores(generated.features, asked)
    hits = (evaluator.logits(generated.features).argmax(1) == asked).double().mean().item()
    fids = [
        frechet_distance(
            *mean_and_covariance(generated.features[asked == label]), *mean_and_covariance(real[labels == label])
        )
        for label in range(10)
    ]
    assert scores == {"class_accuracy": hits, "fid_within_classes": pytest.approx(sum(fids) / 10, rel=1e-9)}
    assert {"class_accuracy", "fid_within_classes"} <= evaluator.real_scores(256).keys()
    assert evaluator.condition_scores(generated.features[:30], asked[:30]).keys() == {"class_accuracy"}  # 3 of each


def test_what_nothing_tells_of_the_classes_has_no_score():
    evaluator = Evaluator(Pooled(), *loaders(in_memory=False))  # no labels at hand
    generated = evaluator.generate(make, 300)
    assert evaluator.labels is None
    assert evaluator.condition_scores(generated.features, torch.arange(300) % 10).keys() == {"class_accuracy"}


class Few(Pooled):
    """Features of four dimensions."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images)[:, ::4]

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return features @ torch.linspace(-1, 1, 40).view(4, 10)


def test_the_floor_is_of_training_images_and_leaves_the_scores_alone():
    evaluator = Evaluator(Pooled(), *loaders())
    first = evaluator.generate(make, 300).fid
    draws = evaluator.floor(100)
    expected = [
        frechet_distance(*mean_and_covariance(draw), *mean_and_covariance(evaluator.real))
        for draw in evaluator.training[:200].split(100)
    ]
    assert draws == pytest.approx(expected, rel=1e-9)
    assert evaluator.generate(make, 300).fid == first > max(draws)
    assert evaluator.real_scores(100)["fid"] == pytest.approx(sum(draws) / 2)


def test_features_are_made_once():
    evaluator = Evaluator(Pooled(), *loaders())
    before = evaluator.extractor.images
    generated = evaluator.generate(make, 300)
    evaluator.scores(generated)
    evaluator.fid_infinity(generated)
    assert evaluator.extractor.images - before == 2 * CHUNK


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_has_no_score(bad):
    def broken(number):
        images = make(number)
        images[7] = bad
        return images

    evaluator = Evaluator(Pooled(), *loaders())
    with pytest.raises(NotFinite, match="the generator makes images that are NaN or infinite"):
        evaluator.generate(broken, 20)
    evaluator.extractor.forward = lambda images: images.flatten(1)[:, :16] * bad
    with pytest.raises(NotFinite, match="the extractor makes features or logits"):
        evaluator.generate(make, 20)


@pytest.mark.slow
def test_images_by_their_labels():
    def labelled(number, shift=0):
        rng = torch.Generator().manual_seed(number)
        chosen = torch.randint(256, (CHUNK,), generator=rng)
        return to_float(mnist()[0][chosen]), (mnist()[1][chosen] + shift) % 10

    evaluator = Evaluator(Pooled(), *loaders())
    assert evaluator.accuracy_score(labelled, 500) > 0.6
    assert evaluator.accuracy_score(lambda number: labelled(number, 1), 500) < 0.2
    with pytest.raises(ValueError, match="labels must be int64"):
        evaluator.accuracy_score(lambda number: (make(number), torch.zeros(CHUNK)), 500)
    assert Evaluator(Pooled(), *loaders(in_memory=False)).accuracy_score(labelled, 500) is None


def test_too_few_real_images_are_refused():
    images, labels = mnist()
    with pytest.raises(ValueError, match="needs at least 6 test images, and there are 5"):
        Evaluator(Pooled(), InMemory(images, labels), InMemory(images[:5], labels[:5]))


def parts(train: slice, test: slice, in_memory: bool) -> list:
    images, labels = mnist()
    if in_memory:
        return [InMemory(images[part], labels[part]) for part in (train, test)]
    sets = [TensorDataset(to_float(images[part]), labels[part]) for part in (train, test)]
    return [DataLoader(dataset, batch_size=32, shuffle=True) for dataset in sets]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("train", "test", "leaked"),
    [
        (slice(0, 256), slice(256, 512), 0),
        (slice(0, 512), slice(0, 512), 512),  # one set for both
        (slice(0, 300), slice(200, 400), 100),
        (slice(0, 300), slice(297, 497), 3),
        (slice(0, 300), slice(299, 499), 1),  # half a percent: data sets have a few pictures twice
    ],
)
def test_test_images_that_are_training_images_are_doubted(train, test, leaked, in_memory):
    evaluator = Evaluator(Pooled(), *parts(train, test, in_memory))
    assert evaluator.leaked() == leaked
    doubts = list(evaluator.doubts())
    assert len(doubts) == (leaked > 1)
    if doubts:
        assert f"{leaked} of {test.stop - test.start} test images are training images" in doubts[0]


@pytest.mark.parametrize("width", [512, 2048])
def test_leaks_are_looked_for_in_little_memory(width):
    """Of Inception's 2,048 features, those of 60,000 images are half a gigabyte already."""
    evaluator = Evaluator(Pooled(), *loaders())
    evaluator.training, evaluator.real = torch.randn(2000, width), torch.randn(500, width)
    tracemalloc.start()  # which sees what Python holds
    assert evaluator.leaked() == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * width


def test_features_that_see_no_difference_make_no_leak():
    class Blind(torch.nn.Module):
        def forward(self, images):
            return torch.ones(len(images), 3)

    assert Evaluator(Blind(), *loaders()).leaked() <= 1


@pytest.mark.parametrize(
    ("sizes", "test", "told"),
    [
        ({"num_samples": 16, "final_samples": 100}, 256, "num_samples 16: "),
        ({"num_samples": 15, "final_samples": 16}, 256, "num_samples 15, final_samples 16: "),
        ({"num_samples": 100}, 16, "test images 16: "),
        ({"num_samples": 17}, 17, None),
    ],
)
def test_fewer_images_than_features_are_doubted(sizes, test, told):
    """As many have a covariance of a rank less."""
    evaluator = Evaluator(Pooled(), *parts(slice(0, 200), slice(200, 200 + test), True))
    doubts = list(evaluator.doubts(**sizes))
    assert len(doubts) == (told is not None)
    if told:
        assert doubts[0].startswith(f"{told}of no more images than features, 16, the covariance has no full rank")


def test_metrics_load_nothing_of_what_stands_above_them():
    program = "import sys, gan.metrics.evaluator; print([name for name in sys.modules if name.startswith('gan.')])"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True, cwd=ROOT
    ).stdout
    floors = {name.split(".")[1] for name in eval(found)}
    assert not floors & {"callbacks", "module", "data", "networks", "parallel", "gradients", "lab", "run"}, floors
