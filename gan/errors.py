"""The errors that are for people, which a command shows as a line, all others with their traceback; and their words."""

from collections.abc import Iterable


class GANError(ValueError):
    """What somebody has to change: the message says what is wrong, in which setting, and the way out."""


class LostConnection(GANError, ConnectionError):
    """Another process of the run is gone."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 image`, `2,500 images`; the plural is the noun with an s, if not given."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def or_meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` with that of the known names which is most like a mistaken one; nothing if none is."""
    from difflib import get_close_matches

    by_letters = {each.lower(): each for each in known}
    swapped = [each for each in by_letters if sorted(each) == sorted(name.lower())]
    close = swapped or get_close_matches(name.lower(), by_letters, n=1)
    return f"; did you mean {by_letters[close[0]]}?" if close else ""
