"""A command in a terminal: a pseudo-terminal of the kernel's, and pyte in the place of the window."""

import fcntl
import os
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyte

from tests.forced import variables

LEFT, RIGHT, UP, DOWN, PAGE_DOWN, END, ESCAPE, ENTER = (
    *("\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B", "\x1b[6~", "\x1b[4~", "\x1b", "\r"),
)


class Terminal:
    """What the command has written, as a window shows it."""

    def __init__(self, master: int, process: "subprocess.Popen[bytes]", lines: int, columns: int) -> None:
        self.process = process
        self._master = master
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.written = b""
        """Every byte of it."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the command has ended
                return
            with self._lock:
                self.written += data
                self._stream.feed(data)

    @property
    def lines(self) -> list[str]:
        """The lines of the window, without the blanks at their ends."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    def style(self, text: str) -> tuple[bool, bool, bool]:
        """Whether the first place that has this text is bold, underlined, reversed."""
        with self._lock:
            for y, line in enumerate(self._screen.display):
                if text in line:
                    cell = self._screen.buffer[y][line.index(text)]
                    return cell.bold, cell.underscore, cell.reverse
        raise AssertionError(f"{text!r} is not shown")

    def press(self, *keys: str) -> None:
        for key in keys:
            os.write(self._master, key.encode())

    def resize(self, lines: int, columns: int) -> None:
        """Make the window another size; the kernel tells the command."""
        with self._lock:
            self._screen.resize(lines, columns)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, what: Callable[[list[str]], bool], seconds: float = 20.0) -> list[str]:
        """Wait for a frame of which something is true, and return it."""
        end = time.monotonic() + seconds
        while not what(lines := self.lines):
            assert time.monotonic() < end, "\n".join([f"not within {seconds} s; shown is", *lines])
            time.sleep(0.02)
        return lines

    def shows(self, expected: Sequence[str], seconds: float = 20.0) -> None:
        """Wait for exactly this frame."""
        end = time.monotonic() + seconds
        while self.lines != list(expected) and time.monotonic() < end:
            time.sleep(0.02)
        assert self.lines == list(expected)

    def ended(self) -> int:
        """Wait for the end of the command and of what it wrote; return its exit status."""
        status = self.process.wait(20)
        self._reader.join(5)
        return status


@contextmanager
def terminal(
    command: Sequence[str | Path], lines: int = 24, columns: int = 80, **environment: str
) -> Iterator[Terminal]:
    """Run a command in a terminal of this size; it is gone at the end."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    clean = {name: value for name, value in variables().items() if not name.startswith(("LC_", "LINES", "COLU"))}
    clean |= {"TERM": "linux", "LANG": "C.UTF-8", "TZ": "UTC", **environment}
    # --ctty: with its own terminal it gets a signal when the size changes.
    process = subprocess.Popen(["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, env=clean)
    os.close(slave)
    try:
        shown = Terminal(master, process, lines, columns)
        yield shown
    finally:
        process.kill()
        process.wait()
        shown.ended()
        os.close(master)
