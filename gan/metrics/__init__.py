"""How good generated images are, by features and logits of them; nothing here knows of a training loop."""

from gan.metrics.accuracy import classification_accuracy_score
from gan.metrics.classes import ClassScores, class_scores
from gan.metrics.features import CNNFeatures, fingerprint, load_features, save_features
from gan.metrics.frechet import fid_infinity, frechet_distance
from gan.metrics.kernel import kernel_distance
from gan.metrics.moments import Moments
from gan.metrics.neighbours import NeighbourScores, nearest, neighbour_scores

__all__ = [
    "CNNFeatures",
    "ClassScores",
    "Moments",
    "NeighbourScores",
    "class_scores",
    "classification_accuracy_score",
    "fid_infinity",
    "fingerprint",
    "frechet_distance",
    "kernel_distance",
    "load_features",
    "nearest",
    "neighbour_scores",
    "save_features",
]
