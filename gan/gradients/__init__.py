"""What flows back through two networks, measured beside their training: networks and images in, numbers out.

Gradients of parameters miss the textbook effect: where activations are large a vanished signal still makes an ordinary
weight gradient (Glorot & Bengio 2010). Hence the gradients at each layer's output, and at the images, where the
generator gets all that it learns from.

Per image: a loss is the mean over a batch of N, so what it sends back to one image is N times smaller than the gradient
of that image's own term. The norms at layers and images below are of the latter, whatever the size of the batch.
"""

from gan.gradients.measure import BINS, measure, state_restored
from gan.gradients.norms import trainable, updates, weights
from gan.gradients.probe import Probe
from gan.gradients.stats import BatchStats, GradientStats, NetworkStats

__all__ = [
    "BINS",
    "BatchStats",
    "GradientStats",
    "NetworkStats",
    "Probe",
    "measure",
    "state_restored",
    "trainable",
    "updates",
    "weights",
]
