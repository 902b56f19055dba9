"""The errors that the agent's parts raise on purpose, named by what the reader of one can do about it."""

from dataclasses import dataclass


class KpodError(Exception):
    """Anything the agent refuses or is refused; its text is one line: what, where, why."""


class SettingError(KpodError):
    """A setting is wrong: the line names the key, the value and what is accepted (exit status 2)."""


class RefusedError(KpodError):
    """The machine refuses what the agent needs: a port, a right, BTF (exit status 1)."""


class UnavailableError(KpodError):
    """One collector, or one of its signals, cannot work on this machine; the others go on."""


@dataclass
class RequestError(KpodError):
    """A request that did not work; the wait after it, and a new connection, are the remedy."""

    text: str
    status: int = 0
    """HTTP status; 0: no answer came."""
    retry_after: float = 0.0
    """Seconds that the server asked to wait."""

    def __str__(self) -> str:
        return self.text


class SilenceError(RequestError):
    """An answer that began, and of which nothing came for as long as was waited."""


def is_unexpected(error: Exception) -> bool:
    """Whether an error is a defect, and so worth its traceback."""
    return not isinstance(error, KpodError | OSError)


def described(error: Exception) -> str:
    """Return an error's text, with its kind where it is a defect."""
    return f"{type(error).__name__}: {error}" if is_unexpected(error) else str(error)
