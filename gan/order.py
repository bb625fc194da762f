"""What callbacks read of each other: hooks run in the order of `trainer.callbacks`, so a reader comes after those."""

from typing import TypeVar

from lightning import Callback, Trainer

AnyCallback = TypeVar("AnyCallback", bound=Callback)

READS = {  # a reader: whom it reads in the same batch, and what
    "ImageLogger": {"GeneratorEMA": "the average"},
    "FIDTracker": {"GeneratorEMA": "the average"},
    "GradientDoctor": {"GradientMonitor": "the stats", "FIDTracker": "the latest scores"},
    "RunCheckpoint": {"FIDTracker": "the best step"},  # which Lightning sees to: checkpoint callbacks come last
}


def callbacks_of(trainer: Trainer, kind: type[AnyCallback]) -> list[AnyCallback]:
    """The trainer's callbacks of a kind, in order."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]


def check_order(callbacks: list[Callback]) -> None:
    """Refuses callbacks in an order in which one would read what another has left a batch before.

    Raises:
        ValueError: If one stands before another that it reads.
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
