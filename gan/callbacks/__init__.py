"""What a run could do without: pictures, gradients, the generator's average, checkpoints, a progress bar."""

from gan.callbacks.checkpoint import RunCheckpoint
from gan.callbacks.ema import GeneratorEMA
from gan.callbacks.gradients import GradientMonitor
from gan.callbacks.images import ImageLogger
from gan.callbacks.progress import RunProgress
from gan.checkpoints import AtomicCheckpointIO

__all__ = ["AtomicCheckpointIO", "GeneratorEMA", "GradientMonitor", "ImageLogger", "RunCheckpoint", "RunProgress"]
