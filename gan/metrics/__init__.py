"""How good generated images are, by features and logits of them; nothing here knows of a training loop."""

from gan.metrics.cas import CAS, classification_accuracy_score
from gan.metrics.features import CNNFeatures, ImageFeatures, fingerprint, load_features, save_features
from gan.metrics.fid import FID, fid_infinity, frechet_distance, mean_and_covariance
from gan.metrics.inception_score import ClassEntropy, ClassScores, InceptionScore, ModesCovered, class_scores
from gan.metrics.kid import KID, kernel_distance
from gan.metrics.ngram import NgramDistance
from gan.metrics.prdc import PRDC, NeighbourScores, nearest, neighbour_scores

__all__ = [
    "CAS",
    "FID",
    "KID",
    "PRDC",
    "CNNFeatures",
    "ClassEntropy",
    "ClassScores",
    "ImageFeatures",
    "InceptionScore",
    "ModesCovered",
    "NeighbourScores",
    "NgramDistance",
    "class_scores",
    "classification_accuracy_score",
    "fid_infinity",
    "fingerprint",
    "frechet_distance",
    "kernel_distance",
    "load_features",
    "mean_and_covariance",
    "nearest",
    "neighbour_scores",
    "save_features",
]
