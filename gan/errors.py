"""The errors that are for people: a command shows them as a line, and all others with their traceback."""

from collections.abc import Iterable


class GANError(ValueError):
    """What somebody has to change: the message says what is wrong, in which setting, and the way out."""


class LostConnection(GANError, ConnectionError):
    """Another process of the run is gone."""


def or_meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` with that of the known names which is most like a mistaken one; nothing if none is."""
    from difflib import get_close_matches

    by_letters = {each.lower(): each for each in known}
    close = get_close_matches(name.lower(), by_letters, n=1)
    return f"; did you mean {by_letters[close[0]]}?" if close else ""
