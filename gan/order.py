"""A trainer's callbacks: in which order they run, which of their hooks are worth a call, and which of them write."""

from typing import TypeVar

from lightning import Callback, Trainer

from gan.errors import GANError
from gan.paths import local_path

AnyCallback = TypeVar("AnyCallback", bound=Callback)

READS = {  # a reader: whom it must come after, and what it reads there
    "ImageLogger": {"GeneratorEMA": "the average"},
    "FIDTracker": {"GeneratorEMA": "the average"},
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

    Raises:
        ValueError: If a reader stands before one that it reads.
    """
    names = [{cls.__name__ for cls in type(callback).__mro__} for callback in callbacks]
    for position, of_reader in enumerate(names):
        for reader in of_reader & READS.keys():
            for source, what in READS[reader].items():
                if any(source in later for later in names[position + 1 :]):
                    raise GANError(
                        f"{reader} reads {what} of {source} in the same batch: put a {source} before it in "
                        "trainer.callbacks"
                    )


WRITERS = {"GradientDoctor", "GradientMonitor", "ImageLogger", "RunCheckpoint"}


def check_folder(trainer: Trainer) -> None:
    """Refuses a place beyond the disk, which Lightning knows and our callbacks do not.

    Raises:
        GANError: If one of them would write there.
    """
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] # set from elsewhere
    if any(cls.__name__ in WRITERS for callback in callbacks for cls in type(callback).__mro__):
        local_path(trainer.default_root_dir, "the trainer's default_root_dir")


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
