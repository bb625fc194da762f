"""What callbacks read of each other: hooks run in the order of `trainer.callbacks`, so a reader comes after those."""

from typing import TypeVar

from lightning import Callback, Trainer

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
                    raise ValueError(
                        f"{reader} reads {what} of {source} in the same batch: put a {source} before it in "
                        "trainer.callbacks"
                    )
