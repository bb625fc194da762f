"""Images made worse: each way is what it is called, and the shipped features see it, the more the stronger."""

import pytest
import torch

from gan.data import InMemoryLoader, MNISTDataModule
from gan.metrics import CNNFeatures, damages, frechet_distance, load_features, mean_and_covariance
from gan.metrics.damages import DAMAGES
from gan.train_features import features_of, whole


@pytest.fixture(scope="module")
def extractor() -> CNNFeatures:
    return load_features("mnist_cnn")


@pytest.fixture(scope="module")
def real(extractor) -> torch.Tensor:
    """The features of the 10,000 test images, float32 (10000, 64)."""
    return features_of(extractor, whole(MNISTDataModule(), train=False)[0])


@pytest.fixture(scope="module")
def training_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """2,000 training images, of which damage makes 1,000."""
    images, labels = MNISTDataModule().load(train=True)
    return next(iter(InMemoryLoader(images[:2000], labels[:2000], 2000)))


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for _, damage, _ in DAMAGES])
def test_damage_raises_the_score_by_its_strength(damage, extractor, real, training_digits):
    _, function, strengths = damage
    images, labels = training_digits
    reference = mean_and_covariance(real)
    scores = [frechet_distance(*mean_and_covariance(features_of(extractor, images[:2000])), *reference)]
    for strength in strengths:
        damaged = function(images, labels, 1000, strength, torch.Generator().manual_seed(0))
        assert damaged.shape == (1000, 1, 28, 28)
        assert damaged.abs().max() <= 1
        values = mean_and_covariance(features_of(extractor, damaged))
        scores.append(frechet_distance(*values, *reference))
    assert scores == sorted(scores)
    assert scores[1] > 1.05 * scores[0], "the least damage must show already"
    assert scores[-1] > 5 * scores[0]


def test_damages_are_what_they_are_called(training_digits):
    images, labels = training_digits
    generator = torch.Generator().manual_seed(0)
    unique = {n: len(damages.duplicates(images, labels, 1000, n, generator).unique(dim=0)) for n in (2, 100)}
    assert unique == {2: 500, 100: 10}
    seven = damages.missing(images, torch.arange(2000) % 10, 1000, 0.3, generator)
    assert torch.equal(seven[:8], images[[3, 4, 5, 6, 7, 8, 9, 13]])
    same = (damages.collapse(images, labels, 1000, 0.3, generator) - images[0]).abs().amax((1, 2, 3)) < 0.1
    assert same.sum() == 300
    flat = damages.blur(torch.full((2, 3, 28, 28), 0.5), labels, 2, 1.2, generator)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5))
