"""What a classifier sees in generated images: which classes there are, how often, and how clearly."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gan.errors import GANError, counted
from gan.metrics.base import Float64Metric
from gan.metrics.checks import checked

COVERED = 0.1  # of the uniform share


class ClassScores(NamedTuple):
    """See `class_scores`."""

    histogram: Tensor
    """Images in each class, int64 (K,), on the CPU."""
    modes_covered: int
    """Classes with a share of at least a tenth of 1 / K, 1 to K."""
    entropy: float
    """Of the histogram, in nats: 0 for a single class, ln K for equal shares."""
    inception_score: float
    """1 to K; see `class_scores`."""


def class_scores(logits: Tensor) -> ClassScores:
    """Counts classes and computes the Inception score with a classifier of the caller's.

    An image counts for the class of its largest logit. A class counts as covered from a tenth of the share
    that it has when all are equal: above what the classifier's errors alone bring in (.05 % of MNIST's images
    for each wrong class, at 99.5 % accuracy, against 1 %), and still below any class that a generator draws on
    purpose. With fewer than 10 K images, one image is enough.

    The score is exp(E KL(p(class | image) || p(class))) (Salimans et al. 2016, arXiv:1606.03498), over all
    images at once rather than ten parts. It is K if all classes are equally frequent and every image is
    clear, 1 if all images look alike to the classifier. It does not see whether the images of a class differ.
    Only its name and formula are those of the literature: values compare within one classifier.

    Args:
        logits: (N, K) of N images, K >= 2.

    Raises:
        ValueError: If there is no image or one class only, or logits are NaN or infinite.
    """
    logits = checked(logits, "logits")
    if logits.shape[1] < 2:
        raise GANError(f"logits must have the shape (N, K) with K of at least 2 classes, got {tuple(logits.shape)}")
    return _scores(*_sums(logits))


class ClassesMetric(Float64Metric):
    """Sums of what a classifier makes of images. In a `MetricCollection`, all such metrics share one copy of them.

    Logits that are NaN or infinite make `compute` raise, on all processes alike.

    Args:
        num_classes: Logits of an image, K.
        **kwargs: Those of `torchmetrics.Metric`.

    Raises:
        ValueError: If `num_classes` is below 2.
    """

    higher_is_better = True

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not num_classes >= 2:
            raise GANError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.add_state("histogram", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("probabilities", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("entropies", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor) -> None:
        """Adds the logits of generated images.

        Args:
            logits: (N, K) of any floating type; N may be 0.

        Raises:
            ValueError: If they have another shape.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise GANError(f"logits must have the shape (N, {self.num_classes}), got {tuple(logits.shape)}")
        histogram, probabilities, entropies = _sums(logits.detach().to(self.home).double())
        self.histogram = self.histogram + histogram
        self.probabilities = self.probabilities + probabilities
        self.entropies = self.entropies + entropies

    def scores(self) -> ClassScores:
        """All of `class_scores`.

        Raises:
            ValueError: If there is no image, or a logit was NaN or infinite.
        """
        num = int(self.histogram.sum())
        if num == 0:
            raise GANError("logits: at least 1 row is needed, got 0: use more images")
        if not self.probabilities.isfinite().all():
            raise GANError(f"logits: some of {counted(num, 'row has', 'rows have')} NaN or infinite values")
        return _scores(self.histogram, self.probabilities, self.entropies)


class InceptionScore(ClassesMetric):
    """The Inception score over all images at once, by a classifier of the caller's; see `class_scores`."""

    plot_lower_bound = 1.0

    def compute(self) -> Tensor:
        """The score, float64 (), from 1 to K."""
        return self.score(self.scores().inception_score)


class ModesCovered(ClassesMetric):
    """The number of classes that images are of; see `class_scores`."""

    plot_lower_bound = 0.0

    def compute(self) -> Tensor:
        """Classes with a share of at least a tenth of 1 / K: int64 (), from 1 to K."""
        return torch.tensor(self.scores().modes_covered, device=self.home)


class ClassEntropy(ClassesMetric):
    """The entropy of the classes that images are of, in nats."""

    plot_lower_bound = 0.0

    def compute(self) -> Tensor:
        """The entropy, float64 (): 0 for a single class, ln K for equal shares."""
        return self.score(self.scores().entropy)


def _sums(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of float64 logits (N, K): images in each class (K,), and the sums of probabilities (K,) and of their entropies.

    The sums are not finite where a logit is not.
    """
    probabilities = logits.softmax(1) + (logits - logits)  # an infinite logit alone has a softmax
    histogram = torch.bincount(logits.argmax(1), minlength=logits.shape[1])
    return histogram, probabilities.sum(0), torch.special.entr(probabilities).sum()


def _scores(histogram: Tensor, probabilities: Tensor, entropies: Tensor) -> ClassScores:
    num, classes = int(histogram.sum()), len(histogram)
    information = _entropy(probabilities / num) - entropies.item() / num  # between image and class, in nats
    return ClassScores(
        histogram=histogram.cpu(),
        modes_covered=int((histogram >= COVERED * num / classes).sum()),
        entropy=_entropy(histogram.double() / num),
        inception_score=math.exp(max(information, 0.0)),  # round-off, where all images look alike
    )


def _entropy(shares: Tensor) -> float:
    """In nats; 0 log 0 is 0."""
    return torch.special.entr(shares).sum().item()
