"""Runs by the processor's clock, and the judge of what they make: what the race and the zoo share.

The clock starts at the first batch and counts the processor's seconds of this process, which has one thread: those of
an idle core, which other jobs hardly change. It stands still while images are scored.
"""

import io
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from lightning import Callback, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from gan import GAN
from gan.callbacks import FIDTracker, GradientMonitor
from gan.data import InMemoryDataModule, MNISTDataModule
from gan.metrics import fingerprint, load_features
from gan.metrics.evaluator import Evaluator, NotFinite
from gan.metrics.feature_cache import CHUNK
from gan.optim import WarmupCosine
from gan.order import callbacks_of
from gan.run import CONFIGS, run
from gan.schedule import Schedule

P = ParamSpec("P")
T = TypeVar("T")
Make = Callable[[int], Tensor]  # the number of a chunk to its images (CHUNK, C, H, W)
Scores = dict[str, float]

JUDGED = ("fid", "kid", "coverage", "modes_covered", "entropy")
PARTS = 10**9  # of a run by the clock, over which schedules move
PACED = 10  # batches after which the pace of a run is known
SEEN = 500  # images of a score that the doctor sees


# ---------------------------------------------------------------------- the clock


def now() -> float:
    """Seconds of the processor that this process has had."""
    return time.process_time()


class Clock:
    """Seconds of training, by which images are scored; it stands still as they are.

    Args:
        times: Seconds of training after which to score, rising; the last one is the end.
        score: Is given what makes images, and whether it is the last time.
    """

    def __init__(self, times: Sequence[float], score: Callable[[Make, bool], Scores]):
        self.times, self.score = times, score
        self.rows: list[Scores] = []
        self.scoring, self.images = 0.0, 0
        self.made = now()
        self.began: float | None = None

    def begin(self) -> None:
        """Starts it, right before the first batch."""
        self.began = now()

    @property
    def start_up(self) -> float:
        """Seconds from when it was made to when it began."""
        return 0.0 if self.began is None else self.began - self.made

    @property
    def seconds(self) -> float:
        """Of training, until now."""
        return 0.0 if self.began is None else now() - self.began - self.scoring

    def share(self) -> float:
        """Of all the time, what is over: 0 to 1."""
        return min(1.0, self.seconds / self.times[-1])

    def apart(self, function: Callable[P, T]) -> Callable[P, T]:
        """The same function, while which the clock stands still."""

        def stopped(*args: P.args, **kwargs: P.kwargs) -> T:
            start = now()
            try:
                return function(*args, **kwargs)
            finally:
                self.scoring += now() - start

        return stopped

    def tick(self, images: int, make: Make) -> bool:
        """Counts the images of a batch, and scores if it is time to; whether time is left."""
        self.images += images
        seconds = self.seconds
        passed = [each for each in self.times[len(self.rows) :] if each <= seconds]
        if passed:
            start = now()
            scores = self.score(make, passed[-1] == self.times[-1])
            self.rows += [{"after": each, "at": seconds, **scores} for each in passed]
            self.scoring += now() - start
        return len(self.rows) < len(self.times)


# ---------------------------------------------------------------------- the judge


class Judge:
    """Scores images by an extractor.

    Args:
        extractor: Its name, or its file.
        data: Of the real images; MNIST if not given.
        num: Images of a score.
    """

    def __init__(self, extractor: str | Path, data: InMemoryDataModule | None = None, num: int = 10_000):
        self.extractor, self.data, self.num = load_features(extractor), data or MNISTDataModule(), num
        self.id = fingerprint(self.extractor)
        self.evaluator: Evaluator | None = None  # not made where nothing is left to score

    def scores(self, make: Make, last: bool) -> Scores:
        """FID and, the last time, all of `JUDGED`; FID is infinite of images that are not finite.

        Training's randomness stays as it is.
        """
        with isolate_rng():
            if self.evaluator is None:
                self.data.setup()
                loaders = self.data.train_dataloader(), self.data.test_dataloader()
                self.evaluator = Evaluator(self.extractor, *loaders)
            try:
                generated = self.evaluator.generate(make, self.num)
            except NotFinite:
                return {"fid": math.inf}
            scores = self.evaluator.scores(generated) if last else {"fid": generated.fid}
        return {name: scores[name] for name in JUDGED if name in scores}


# ---------------------------------------------------------------------- runs


def keep(path: Path, result: dict[str, Any]) -> None:
    """Writes what came of a run as a whole file, or none, whenever the process ends."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(path)


def by_config(config: str, seed: int, clock: Clock, run_dir: Path, *words: object, watched: int = 0) -> None:
    """Trains by a config, all its callbacks at work but for the scores of its FIDTracker.

    Args:
        config: Its name among those of this package.
        seed: Of the run.
        clock: Which ends it.
        run_dir: Its folder.
        *words: More of the command.
        watched: How often the gradients are measured, about evenly over the run, and scores taken half as often, for
            the doctor; if 0, as often as the config says, and no scores. The clock stands still for the scores.
    """
    command: list[object] = ["fit", "--run_dir", run_dir, "--config", CONFIGS / f"{config}.yaml"]
    command += ["--seed_everything", seed, "--trainer.max_steps", -1, "--trainer.max_epochs", -1]
    command += ["--trainer.callbacks+=gan.callbacks.FIDTracker", "--trainer.callbacks.every", 10**9]
    command += ["--trainer.callbacks.num_samples", SEEN, "--trainer.callbacks.final_samples", 100, *words]
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a run without an end, which the clock is, and of scores of 100 images
        run([*map(str, command)], callbacks=[ByClock(clock, watched)])


class ByClock(Callback):
    """Runs a training by a clock, to which its schedules keep too: those of the rates, and of other numbers.

    Args:
        clock: Which ends it.
        watched: See `by_config`.
    """

    def __init__(self, clock: Clock, watched: int = 0):
        self.clock, self.watched = clock, watched
        self.scheduled: list[tuple[Schedule, float]] = []  # each with the share of the run that it takes

    def on_train_start(self, trainer: Trainer, pl_module: GAN) -> None:
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, WarmupCosine) and config.scheduler.total is None:
                config.scheduler.elapsed = self.clock.share
        for _, schedule in pl_module.schedules():
            if schedule.batches is None:  # which nothing but the clock could tell
                self.scheduled.append((schedule, schedule.share or 1.0))
                schedule.batches, schedule.share = PARTS, None
        if self.watched:
            (self.monitor,) = callbacks_of(trainer, GradientMonitor)
            (self.tracker,) = callbacks_of(trainer, FIDTracker)
            self.tracker.track = self.clock.apart(self.tracker.track)

    def on_train_batch_start(self, trainer: Trainer, pl_module: GAN, batch: Any, batch_idx: int) -> None:
        # Here, where all callbacks are done with the batch before.
        if self.clock.began is None:
            self.clock.begin()
        elif not trainer.should_stop:
            trainer.should_stop = not self.clock.tick(self.batch_size, lambda number: images_of(pl_module, number))
        self.batch_size = len(batch[0])
        if self.watched and trainer.global_step == PACED:  # how many batches there will be is known by now
            self.monitor.every = max(1, round(PACED / self.clock.share() / self.watched))
            self.tracker.every = 2 * self.monitor.every
        for schedule, share in self.scheduled:
            schedule.move(round(min(1.0, self.clock.share() / share) * PARTS))


def images_of(pl_module: GAN, number: int) -> Tensor:
    """A chunk of images of a run's generator, by the run's seed and the chunk's number alone."""
    return pl_module(pl_module.latents(CHUNK, pl_module.rng("race", number)))
