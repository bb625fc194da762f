"""Numbers that move as a run goes on: a `Schedule` may stand where a number does."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn

from gan.errors import GANError, counted


@dataclass
class Schedule:
    """A number that goes from one value to another, batch by batch, and stays there.

    Its value in a batch depends on the batches completed before it and on the settings alone, so that a checkpoint
    keeps nothing of it, and a run that goes on has what it would have had. `float(schedule)` is that of the present
    batch; before a run it is `start`.

    Args:
        start: What it is in the first batch.
        end: What it comes to.
        kind: The way there: "cosine", half a period of it, slow at both ends; or "linear".
        batches: Training batches that it takes, at least 1.
        share: Part of the run's batches that it takes, above 0 and up to 1; the whole run if neither is given.
    """

    start: float
    end: float
    kind: Literal["cosine", "linear"] = "cosine"
    batches: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        self._now = float(self.start)

    def check_settings(self) -> None:
        """Refuses settings out of range; not when it is made, where the parser of a command would drown the reason.

        Raises:
            GANError: If a value is not finite, the way is unknown, or the time is out of range or given twice.
        """
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise GANError(f"Schedule: start and end must be finite numbers, got {self.start} and {self.end}")
        if self.kind not in ("cosine", "linear"):
            raise GANError(f"Schedule: kind must be cosine or linear, got {self.kind!r}")
        if self.batches is not None and not 1 <= self.batches < math.inf:
            raise GANError(f"Schedule: batches must be at least 1, got {self.batches}")
        if self.share is not None and not 0 < self.share <= 1:
            raise GANError(f"Schedule: share must be above 0 and up to 1, a part of the run, got {self.share}")
        if self.batches is not None and self.share is not None:
            raise GANError("Schedule: batches and share both say how long it takes: leave one out")

    def __float__(self) -> float:
        return self._now

    def refuse(self, _: object) -> NoReturn:
        """Tells whoever asks for its range, as of a plain number, that it is none.

        Raises:
            GANError: If it is compared with a number.
        """
        raise GANError(
            f"a Schedule ({self}) stands where a plain number is wanted: take one for the weight of a penalty, a "
            "strength of model.augment, the betas of gan.optim.ScheduledAdam or GeneratorEMA's half_life"
        )

    __lt__ = __le__ = __gt__ = __ge__ = refuse

    def __str__(self) -> str:
        way = "the whole run" if self.share is None else f"{self.share:.0%} of the run"
        way = way if self.batches is None else counted(self.batches, "batch", "batches")
        return f"{self.start:g} to {self.end:g} over {way}, {self.kind}"

    @property
    def spec(self) -> dict[str, Any]:
        """Its settings as plain data."""
        return asdict(self)

    def at(self, step: int, length: int | None = None) -> float:
        """What it is in the batch that follows `step` completed ones of a run.

        Args:
            step: Batches completed, at least 0.
            length: Batches of the run; None where nothing tells, which `batches` does without.
        """
        whole = self.batches if self.batches is not None else (self.share or 1.0) * (length or math.inf)
        progress = min(1.0, step / whole)
        if self.kind == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        # So that the ends come out to the bit.
        return (1 - progress) * self.start + progress * self.end

    def move(self, step: int, length: int | None = None) -> None:
        """Lets `float` be what `at` says."""
        self._now = self.at(step, length)

    def check(self, name: str, length: int | None) -> None:
        """Refuses settings out of range, and a run that it does not fit.

        Args:
            name: What it is of, as the error calls it.
            length: Batches of the run; None where nothing tells.

        Raises:
            GANError: If it takes longer than the run, or a part of a run of which nothing tells the length.
        """
        self.check_settings()
        if self.batches is None and length is None:
            raise GANError(
                f"{name}: its schedule takes {'the whole' if self.share is None else 'a share of the'} run, and "
                "nothing tells how many batches that has: set trainer.max_steps, or the schedule's batches"
            )
        if self.batches is not None and length is not None and self.batches > length:
            raise GANError(
                f"{name}: its schedule takes {counted(self.batches, 'batch', 'batches')}, and the run has {length:,}: "
                "set the schedule's batches to that at most, or its share, which follows the run"
            )


Number = float | Schedule


def ends(number: Number) -> tuple[float, ...]:
    """The values between which a number stays: itself, or where a schedule starts and ends.

    Raises:
        GANError: If the settings of a schedule are out of range.
    """
    if not isinstance(number, Schedule):
        return (number,)
    number.check_settings()
    return number.start, number.end


def schedules_in(owners: Iterable[tuple[str, object]]) -> Iterator[tuple[str, Schedule]]:
    """The schedules among the attributes of objects, and in their tuples and lists: `r1.weight`, `adam.betas.1`.

    Args:
        owners: The objects, each with its name; the second of a name is called `r1_2`.
    """
    named: Counter[str] = Counter()
    for owner, thing in owners:
        named[owner] += 1
        owner += f"_{named[owner]}" if named[owner] > 1 else ""
        for name, value in vars(thing).items():
            if isinstance(value, tuple | list):
                items = {f"{owner}.{name}.{number}": item for number, item in enumerate(value)}
            else:
                items = {f"{owner}.{name}": value}
            yield from ((place, item) for place, item in items.items() if isinstance(item, Schedule))
