"""The errors that the agent raises on purpose, one class for each reaction to them."""

from dataclasses import dataclass


class KpodError(Exception):
    """Base of all errors raised on purpose; the text is one line: what, where, why."""


class SettingError(KpodError):
    """A setting is wrong: the line has the key, the value and the accepted values (exit status 2)."""


class RefusedError(KpodError):
    """The machine refuses what the agent needs: a port, a right, BTF (exit status 1)."""


class UnavailableError(KpodError):
    """One collector, or one of its signals, cannot work on this machine; the others continue."""


@dataclass
class RequestError(KpodError):
    """A failed request; the caller waits and connects again."""

    text: str
    status: int = 0
    """HTTP status; 0: no response."""
    retry_after: float = 0.0
    """Seconds to wait, as the server requested."""

    def __str__(self) -> str:
        return self.text


class SilenceError(RequestError):
    """A response that began, and then sent no byte until the timeout."""


SHOWN = 200
"""Characters of a text from outside that a message has."""


def shown(text: str) -> str:
    r"""Return text from a server, a program or a file, safe in one line: escaped (ESC is `\x1b`), and cut."""
    escaped = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text[:SHOWN])
    return escaped if len(text) <= SHOWN else f"{escaped}..."


def is_unexpected(error: Exception) -> bool:
    """Whether an error is a defect, so that its traceback is logged."""
    return not isinstance(error, KpodError | OSError)


def described(error: Exception) -> str:
    """Return the text of an error, with its type if it is a defect."""
    return f"{type(error).__name__}: {error}" if is_unexpected(error) else str(error)
