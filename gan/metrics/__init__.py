"""Measures of generated images: a feature extractor, and distances between the features of two sets of images."""

from gan.metrics.features import CNNFeatures, fingerprint, load_features, save_features

__all__ = ["CNNFeatures", "fingerprint", "load_features", "save_features"]
