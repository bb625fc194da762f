"""What a run could do without: pictures, scores, care for gradients, the generator's average, checkpoints, a bar."""

from gan.callbacks.fid_tracker import FIDTracker
from gan.callbacks.generator_ema import GeneratorEMA
from gan.callbacks.gradient_clipping import GradientClipping
from gan.callbacks.gradient_doctor import GradientDoctor
from gan.callbacks.gradient_monitor import GradientMonitor
from gan.callbacks.image_logger import ImageLogger
from gan.callbacks.non_finite_guard import NonFiniteGuard
from gan.callbacks.run_checkpoint import RunCheckpoint
from gan.callbacks.run_progress import RunProgress
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
