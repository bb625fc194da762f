"""The errors that are for people: a command shows them as a line, and all others with their traceback."""


class GANError(ValueError):
    """What somebody has to change: the message says what is wrong, in which setting, and the way out."""


class LostConnection(GANError, ConnectionError):
    """Another process of the run is gone."""
