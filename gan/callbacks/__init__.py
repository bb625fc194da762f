"""What a run could do without: pictures, scores, care for gradients, the generator's average, checkpoints, a bar."""

from lightning import Callback

from gan.callbacks.accuracy_tracker import AccuracyTracker
from gan.callbacks.fid_tracker import FIDTracker
from gan.callbacks.generator_ema import GeneratorEMA
from gan.callbacks.gradient_clipping import GradientClipping
from gan.callbacks.gradient_doctor import GradientDoctor
from gan.callbacks.gradient_monitor import GradientMonitor
from gan.callbacks.image_logger import ImageLogger
from gan.callbacks.ngram_tracker import NgramTracker
from gan.callbacks.non_finite_guard import NonFiniteGuard
from gan.callbacks.run_checkpoint import RunCheckpoint
from gan.callbacks.run_progress import RunProgress
from gan.callbacks.text_logger import TextLogger
from gan.checkpoints import AtomicCheckpointIO

__all__ = [
    "AccuracyTracker",
    "AtomicCheckpointIO",
    "FIDTracker",
    "GeneratorEMA",
    "GradientClipping",
    "GradientDoctor",
    "GradientMonitor",
    "ImageLogger",
    "NgramTracker",
    "NonFiniteGuard",
    "RunCheckpoint",
    "RunProgress",
    "TextLogger",
    "standard",
]


def standard(
    pictures: int = 200, checkpoints: int = 1000, scores: int = 500, measurements: int = 250
) -> list[Callback]:
    """The callbacks that watch a run of the command line, those of `configs/default.yaml`, for one from Python.

    Args:
        pictures: Training batches between two pictures.
        checkpoints: Training batches between two checkpoints; there is one every 10 minutes too.
        scores: Training batches between two scores.
        measurements: Training batches between two measurements of the gradients.

    Raises:
        GANError: If a number is below 1.
    """
    return [
        GeneratorEMA(),
        ImageLogger(every=pictures),
        RunCheckpoint(every=checkpoints, minutes=10),
        NonFiniteGuard(),
        RunProgress(),
        FIDTracker(every=scores),
        GradientMonitor(every=measurements),
        GradientDoctor(),
    ]
