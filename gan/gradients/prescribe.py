"""What to change in a run that is ill, computed from its own settings and networks: `Prescription`s.

First what is wrong with the run whatever it suffers from, as `gan.gradients.misfits` finds it: a value that is absurd,
an end that a network must not have. Then the remedies of the condition. Last, what is known to train most networks,
all at once.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce

from gan.gradients.change import NO_CHANGE, Change, words
from gan.gradients.misfits import misfits
from gan.gradients.patient import Patient
from gan.gradients.remedies import REMEDIES, sound
from gan.gradients.rules import Finding, Record
from gan.gradients.treatments import in_its_place, named

MOST = 4  # prescriptions of a finding that can be typed
PLACE = re.compile(r" \([^()]*, line \d+\)")


@dataclass(frozen=True)
class Prescription:
    """What to do about a finding.

    Attributes:
        settings: The words to append to the command of the run; none where no setting helps.
        text: What they do, and why; or what to change in which class.
    """

    settings: tuple[str, ...]
    text: str


def prescribe(
    finding: Finding, record: Record, patient: Patient, accepts: Callable[[Sequence[str]], bool]
) -> list[Prescription]:
    """What to do about a finding, the first to try first.

    Args:
        finding: The condition.
        record: What has been measured.
        patient: The run.
        accepts: Whether the command takes words after those of the run: what it refuses is not told.
    """

    @cache
    def takes(settings: tuple[str, ...]) -> bool:
        return not settings or accepts(settings)

    def taken(changes: Iterable[Change]) -> list[Change]:
        """Those that the command takes, each by itself: one that it does not must not take the others with it."""
        return [change if takes(words_of(change)) else Change({}, change.by_hand) for change in changes]

    wrong, remedies = misfits(record, patient), list(REMEDIES[finding.name](finding, record, patient))
    if not takes(words_of(together([*wrong, *needed_of(wrong, remedies)]))):
        wrong, remedies = taken(wrong), [*taken(remedies[:1]), *remedies[1:]]
    candidates = [*combined([change for change in wrong if change.settings or change.wrappers], remedies)]
    if settable := [change for change in candidates if change.settings]:
        usual = [*sound(record, patient), *settable[:1]]
        at_once = together(usual)
        if not takes(words_of(at_once)):
            at_once = together(change for change in taken(usual) if change.settings)
        at_once = replace(at_once, text=f"what trains most networks: {at_once.brief or at_once.text}")
        candidates[1:1] = [*([at_once] if at_once.settings else []), *elsewhere(patient, usual)]
    told: dict[tuple[str, ...] | str, Prescription] = {}
    for change in (*candidates, *(change for change in wrong if not change.settings and not change.wrappers)):
        settings, text = words_of(change), once(change.text)
        if text and takes(settings):
            told.setdefault(settings or text, Prescription(settings, text))
    typed = [prescription for prescription in told.values() if prescription.settings]
    return [*typed[:MOST], *(prescription for prescription in told.values() if not prescription.settings)]


def unrepeated(prescriptions: Sequence[Prescription]) -> list[Prescription]:
    """Prescriptions without those in words alone that one before them has told."""
    return [
        each
        for number, each in enumerate(prescriptions)
        if each.settings or not any(each.text in other.text for other in prescriptions[:number])
    ]


def combined(wrong: Sequence[Change], remedies: Sequence[Change]) -> Iterator[Change]:
    """What is wrong anyway, with what else must be; then the remedies one by one, each with what must be."""
    needed = needed_of(wrong, remedies)
    if wrong:
        yield together([*wrong, *needed])
    for change in remedies:
        yield together([*needed, change]) if change.settings else change


def needed_of(wrong: Sequence[Change], remedies: Sequence[Change]) -> list[Change]:
    """What must be, whatever else is done."""
    return [change for change in (*wrong, *remedies[:1]) if change.needed]


def elsewhere(patient: Patient, usual: Sequence[Change]) -> Iterator[Change]:
    """Shipped networks in the place of one's own: what is left then is no fault of the networks."""
    own = [name for name, part in patient.parts.items() if name != "data" and not part.ours]
    changes = [change for name in own for change in in_its_place(patient, name, "")]
    if own and len(changes) == len(own):
        both = together([*changes, *usual])
        faulty = "your networks" if len(own) > 1 else named(patient.parts[own[0]])
        yield replace(both, text=f"{both.brief}: if that trains, the fault is in {faulty}")


def once(text: str) -> str:
    """A text in which the file and line of a class are told where it is named first alone."""
    for place in dict.fromkeys(PLACE.findall(text)):
        first, _, rest = text.partition(place)
        text = first + place + rest.replace(place, "")
    return text


def words_of(change: Change) -> tuple[str, ...]:
    """The words of a command that make a change."""
    return tuple(words(change.settings))


def together(changes: Iterable[Change]) -> Change:
    """Some changes as one; of two for the same setting the first."""
    return reduce(Change.__and__, changes, NO_CHANGE)
