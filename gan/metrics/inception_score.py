"""What a classifier sees in generated images: which classes there are, how often, and how clearly."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

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
    num, classes = logits.shape
    if classes < 2:
        raise ValueError(f"logits must have the shape (N, K) with K of at least 2 classes, got {tuple(logits.shape)}")
    histogram = torch.bincount(logits.argmax(1), minlength=classes).cpu()
    p = logits.softmax(1)
    information = _entropy(p.mean(0)) - _entropy(p) / num  # between image and class, in nats
    return ClassScores(
        histogram=histogram,
        modes_covered=int((histogram >= COVERED * num / classes).sum()),
        entropy=_entropy(histogram.double() / num),
        inception_score=math.exp(max(information, 0.0)),  # round-off, where all images look alike
    )


def _entropy(p: Tensor) -> float:
    """In nats, summed over all rows; 0 log 0 is 0."""
    return torch.special.entr(p).sum().item()
