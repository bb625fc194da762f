"""Counts of classes and the Inception score against closed forms and torchmetrics."""

import math

import pytest
import torch
from torch import nn

from gan.metrics import class_scores


def clear(labels, classes=10):
    """Logits of a classifier that has no doubt."""
    return 100 * torch.nn.functional.one_hot(torch.as_tensor(labels), classes).float()


def test_uniform_and_clear():
    scores = class_scores(clear(torch.arange(10).repeat(7)))
    assert scores.histogram.tolist() == [7] * 10
    assert scores.modes_covered == 10
    assert scores.entropy == pytest.approx(math.log(10), rel=1e-12)
    assert scores.inception_score == pytest.approx(10, rel=1e-9)


def test_one_class():
    scores = class_scores(clear([3] * 50))
    assert scores.histogram.tolist() == [0, 0, 0, 50, 0, 0, 0, 0, 0, 0]
    assert scores.modes_covered == 1
    assert scores.entropy == 0
    assert scores.inception_score == pytest.approx(1, abs=1e-9)


def test_constant_images_and_one_image():
    for num in (1, 40):
        scores = class_scores(torch.tensor([[0.3, 0.1, 0.2]]).expand(num, -1))
        assert (scores.modes_covered, scores.entropy) == (1, 0)
        assert scores.inception_score == pytest.approx(1, abs=1e-12)
        assert scores.inception_score >= 1


def test_the_score_is_never_below_1():
    for seed in range(50):
        logits = torch.randn(1, 10, generator=torch.Generator().manual_seed(seed)).expand(7, -1)
        assert 1 <= class_scores(logits).inception_score < 1 + 1e-12


def test_a_missing_class():
    labels = torch.arange(10).repeat(100)
    scores = class_scores(clear(labels[labels != 4]))
    assert scores.modes_covered == 9
    assert scores.entropy == pytest.approx(math.log(9))
    assert scores.inception_score == pytest.approx(9)


def test_unclear_images_lower_the_score_and_not_the_histogram():
    # p(own class) = 1/2, the rest shared by nine: KL = ln 10 - H(p).
    logits = torch.eye(10).repeat(5, 1) * math.log(9)
    scores = class_scores(logits)
    entropy = 0.5 * math.log(2) + 0.5 * math.log(18)
    assert scores.inception_score == pytest.approx(10 / math.exp(entropy), rel=1e-6)
    assert scores.modes_covered == 10


@pytest.mark.parametrize(("count", "covered"), [(9, 9), (10, 10)])
def test_a_class_is_covered_from_a_tenth_of_its_share(count, covered):
    # Of 1,000 images in 10 classes: from 10 images.
    labels = [0] * count + [1 + i % 9 for i in range(1000 - count)]
    assert class_scores(clear(labels)).modes_covered == covered


def test_with_few_images_one_is_enough_and_none_is_not():
    assert class_scores(clear([0, 1, 1, 5])).modes_covered == 3


def test_against_torchmetrics_and_scipy():
    from scipy.stats import entropy
    from torchmetrics.image.inception import InceptionScore

    class Logits(nn.Module):
        def forward(self, images):
            return images

    logits = 3 * torch.randn(500, 10, generator=torch.Generator().manual_seed(0)) + torch.arange(10) / 5
    reference = InceptionScore(feature=Logits(), splits=1)
    reference.update(logits)
    scores = class_scores(logits)
    assert scores.inception_score == pytest.approx(reference.compute()[0].item(), rel=1e-5)
    assert scores.histogram.sum() == 500
    assert scores.entropy == pytest.approx(entropy(scores.histogram.numpy()), rel=1e-12)
    again = class_scores(logits.double())
    assert again[1:] == scores[1:]
    assert torch.equal(again.histogram, scores.histogram)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(0, 3), "logits: at least 1 row is needed, got 0"),
        (torch.zeros(5, 1), "K of at least 2 classes"),
        (torch.zeros(5), r"logits must have the shape \(N, D\)"),
        (torch.tensor([[0, torch.nan], [0, 0]]), "logits: 1 of 2 rows have NaN"),
        (torch.tensor([[0, torch.inf], [0, 0]]), "logits: 1 of 2 rows have NaN"),
    ],
)
def test_wrong_arguments(logits, message):
    with pytest.raises(ValueError, match=message):
        class_scores(logits)
