"""A trainer's callbacks: in which order they run, which of their hooks are worth a call, and when; and which write."""

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.utilities import rank_zero_warn

from gan.errors import GANError
from gan.paths import local_path

AnyCallback = TypeVar("AnyCallback", bound=Callback)

READS = {  # a reader: whom it must come after, and what it reads there
    "ImageLogger": {"GeneratorEMA": "the average"},
    "TextLogger": {"GeneratorEMA": "the average"},
    "FIDTracker": {"GeneratorEMA": "the average"},
    "NgramTracker": {"GeneratorEMA": "the average"},
    "GradientDoctor": {"GradientMonitor": "the stats"},
    "RunCheckpoint": {"FIDTracker": "the best step"},  # Lightning sees to it: checkpoint callbacks come last
}
# In any order: the doctor reads the counts of NonFiniteGuard, which acts earlier in a batch, and the scores of a
# FIDTracker, a batch late if that comes later, as one appended on the command line does; GradientMonitor leaves it to a
# GradientClipping to log the norms.


def callbacks_of(trainer: Trainer, kind: type[AnyCallback]) -> list[AnyCallback]:
    """The trainer's callbacks of a kind, in order."""
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
    return [callback for callback in callbacks if isinstance(callback, kind)]


def check_order(callbacks: list[Callback]) -> None:
    """Refuses an order in which a callback would read what another has left there a batch before.

    RunCheckpoint is put last: what it saves holds the state of all others, of a ModelCheckpoint too.

    Raises:
        ValueError: If a reader stands before one that it reads.
    """
    callbacks.sort(key=lambda callback: "RunCheckpoint" in names_of(callback))
    names = [names_of(callback) for callback in callbacks]
    for position, of_reader in enumerate(names):
        for reader in of_reader & READS.keys():
            for source, what in READS[reader].items():
                if any(source in later for later in names[position + 1 :]):
                    raise GANError(
                        f"{reader} reads {what} of {source} in the same batch: put a {source} before it in "
                        "trainer.callbacks"
                    )


def names_of(callback: Callback) -> set[str]:
    """The names of a callback's class, and of those that it derives from."""
    return {cls.__name__ for cls in type(callback).__mro__}


WRITERS = {"GradientDoctor", "GradientMonitor", "ImageLogger", "RunCheckpoint", "TextLogger"}


def check_folder(trainer: Trainer) -> None:
    """Refuses a place beyond the disk, which Lightning knows and our callbacks do not.

    Raises:
        GANError: If one of them would write there.
    """
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
    if any(names_of(callback) & WRITERS for callback in callbacks):
        local_path(trainer.default_root_dir, "the trainer's default_root_dir")


UNFIT = {  # Lightning's callbacks that cannot go with a GAN or a run of its own, and the way out
    "BackboneFinetuning": "freezes what is called backbone, which a GAN has not: freeze layers in your network",
    "GradientAccumulationScheduler": "is for one optimizer: use model.accumulate",
    "LearningRateFinder": "looks for the rate of one optimizer: set model.generator_optimizer.lr and the other by hand",
    "OnExceptionCheckpoint": "lets the next run, whichever it is, go on from its file: RunCheckpoint saves every so "
    "many batches or minutes, and a run goes on from there by --resume auto",
    "SpikeDetection": "watches the one loss that a step returns, and a GAN has two: NonFiniteGuard is for bad batches",
    "StochasticWeightAveraging": "is for one optimizer: GeneratorEMA averages the generator, EMAWeightAveraging both",
}


def check_fit(callbacks: list[Callback]) -> None:
    """Refuses callbacks of Lightning's that are not for a GAN.

    Raises:
        GANError: If there is one, with the way out.
    """
    for callback in callbacks:
        for cls in type(callback).__mro__:
            if cls.__name__ in UNFIT and cls.__module__.startswith("lightning."):
                raise GANError(f"{cls.__name__} {UNFIT[cls.__name__]}")


# ---------------------------------------------------------------------- settings that forbid some

HAS_BAR = "has_bar"  # of a callback that has more to say than a progress bar has


def allowed(callbacks: list[Callback], settings: Any) -> tuple[list[Callback], dict[str, Any]]:
    """The callbacks that settings of a trainer allow, which Lightning refuses to drop; and these settings for it.

    Without a progress bar, RunProgress still says what runs and why it ends.

    Raises:
        GANError: If one of them is not for a GAN.
    """
    check_fit(callbacks)
    forbidden, given = set(), {}
    if settings.barebones:
        forbidden = {Checkpoint, ProgressBar}
        given = dict.fromkeys(("log_every_n_steps", "num_sanity_val_steps", "enable_model_summary")) | {"logger": False}
    if settings.enable_checkpointing is False:
        forbidden.add(Checkpoint)
    if settings.enable_progress_bar is False and not settings.barebones:
        talkers = [callback for callback in callbacks if hasattr(callback, HAS_BAR)]
        for callback in talkers:
            setattr(callback, HAS_BAR, False)
        given["enable_progress_bar"] = bool(talkers)
        forbidden |= set() if talkers else {ProgressBar}
    left = [callback for callback in callbacks if not isinstance(callback, tuple(forbidden))]
    return left, given


# ---------------------------------------------------------------------- scores, and who waits for them


def watch_scores(trainer: Trainer, gan: Any, batches: int | None) -> None:
    """Lets callbacks that monitor a score look when it is measured.

    Lightning has them look when a validation or an epoch ends: never in a short run, and at a score of other weights.
    An EarlyStopping so counts scores, and waits for the first. A ModelCheckpoint that is told when to save does so
    then, though not before there is a score.

    Args:
        trainer: Of the run.
        gan: Its module, with `scores`, their names, and `scored_at`, the batches completed at the latest.
        batches: How many the run has, if that is known.
    """
    hooks = "on_validation_end", "on_train_epoch_end", "on_train_batch_end"
    for stopper in callbacks_of(trainer, EarlyStopping):
        for hook in hooks[:2]:
            vars(stopper).pop(hook, None)  # of an earlier run
            if stopper.monitor in gan.scores:
                setattr(stopper, hook, None)  # Lightning does not call what is not callable
    for checkpoint in callbacks_of(trainer, ModelCheckpoint):
        plain = not told_when(checkpoint)
        for hook in hooks:
            vars(checkpoint).pop(hook, None)
            if checkpoint.monitor in gan.scores:
                look = partial(look_at_score, checkpoint) if plain else partial(after_a_score, checkpoint, hook)
                setattr(checkpoint, hook, look)
        if plain and checkpoint.monitor not in gan.scores and not validates(trainer, batches):
            rank_zero_warn(
                f"ModelCheckpoint(monitor={checkpoint.monitor!r}) saves nothing: it does when a validation ends, and "
                "this run has none. Set its every_n_train_steps, or save_on_train_epoch_end to true; or let it monitor "
                "a score, as fid/mnist_cnn, which it sees when that is measured"
            )


def told_when(checkpoint: ModelCheckpoint) -> bool:
    """Whether a ModelCheckpoint has been told when to save."""
    by_batches = checkpoint._every_n_train_steps, checkpoint._train_time_interval  # private
    return any(by_batches) or checkpoint._every_n_epochs != 1 or checkpoint._save_on_train_epoch_end is not None


def validates(trainer: Trainer, batches: int | None) -> bool:
    """Whether a run of so many batches comes to a validation, or to an epoch after which it is as good."""
    every, epoch = trainer.check_val_every_n_epoch, trainer.num_training_batches
    if every == 1 or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
        return True
    within: Any = trainer.val_check_batch  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
    first = within if every is None else (every - 1) * epoch + min(within, epoch)
    return trainer.enable_validation and (batches is None or batches >= first)


def look_at_score(checkpoint: ModelCheckpoint, trainer: Trainer, gan: Any, *_: Any) -> None:
    """In place of the hooks of a ModelCheckpoint: saves, if a score has just come and is good enough."""
    if gan.scored_at == trainer.global_step:
        type(checkpoint).on_validation_end(checkpoint, trainer, gan)
        type(checkpoint).on_train_epoch_end(checkpoint, trainer, gan)  # one of both saves, by trainer's settings


def after_a_score(checkpoint: ModelCheckpoint, hook: str, trainer: Trainer, gan: LightningModule, *args: Any) -> None:
    """In place of a hook of a ModelCheckpoint: calls it as soon as there is a score, without which it may fail."""
    if checkpoint.monitor in trainer.callback_metrics:
        getattr(type(checkpoint), hook)(checkpoint, trainer, gan, *args)


def tell_stoppers(trainer: Trainer, scores: Mapping[str, float]) -> None:
    """Lets each EarlyStopping that monitors one of the scores have it."""
    for stopper in callbacks_of(trainer, EarlyStopping):
        if stopper.monitor in scores:
            type(stopper).on_validation_end(stopper, trainer, trainer.lightning_module)
            type(stopper).on_train_epoch_end(stopper, trainer, trainer.lightning_module)  # one of both looks


# ---------------------------------------------------------------------- which are worth a call

HOOKS_OF_A_BATCH = (
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def skip_idle_hooks(callbacks: list[Callback]) -> None:
    """Takes the hooks of a batch from callbacks that do nothing there.

    With two networks, Lightning calls each callback eight times in a batch, within a profiler's context each time, and
    most of a run's dozen do nothing most times. It does not call what is not callable.
    """
    for callback in callbacks:
        for hook in HOOKS_OF_A_BATCH:
            if getattr(type(callback), hook) is getattr(Callback, hook) and hook not in vars(callback):
                setattr(callback, hook, None)
