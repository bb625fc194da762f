"""What a run could do without: pictures, scores, care for gradients, the generator's average, checkpoints, a bar."""

from gan.callbacks.checkpoint import RunCheckpoint
from gan.callbacks.clipping import GradientClipping
from gan.callbacks.doctor import GradientDoctor
from gan.callbacks.ema import GeneratorEMA
from gan.callbacks.fid import FIDTracker
from gan.callbacks.finite import NonFiniteGuard
from gan.callbacks.gradients import GradientMonitor
from gan.callbacks.images import ImageLogger
from gan.callbacks.progress import RunProgress
from gan.checkpoints import AtomicCheckpointIO

__all__ = [
    "AtomicCheckpointIO",
    "FIDTracker",
    "GeneratorEMA",
    "GradientClipping",
    "GradientDoctor",
    "GradientMonitor",
    "ImageLogger",
    "NonFiniteGuard",
    "RunCheckpoint",
    "RunProgress",
]
