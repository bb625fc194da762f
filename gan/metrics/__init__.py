"""How good generated images are, by features and logits of them; nothing here knows of a training loop."""

from gan.metrics.cas import classification_accuracy_score
from gan.metrics.features import CNNFeatures, fingerprint, load_features, save_features
from gan.metrics.fid import fid_infinity, frechet_distance
from gan.metrics.inception_score import ClassScores, class_scores
from gan.metrics.kid import kernel_distance
from gan.metrics.moments import Moments
from gan.metrics.prdc import NeighbourScores, nearest, neighbour_scores

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
