"""The terminal: draws frames and reads keys, with curses from the standard library.

Curses takes 3 ms to import and needs no package, so that `top` works in the image too.
"""

import curses
import locale
import os
import signal
from contextlib import suppress

from kpod_metrics.errors import RefusedError
from kpod_metrics.top.columns import KEYS
from kpod_metrics.top.frame import Choices, Style, frame
from kpod_metrics.top.watch import Watch

_TICK_MS = 200
"""Milliseconds after which a new page is shown, at most."""
_ESCAPE = 27


def show(watch: Watch, choices: Choices) -> None:
    """Show the table until the user quits; raises RefusedError if the terminal cannot show it."""
    locale.setlocale(locale.LC_ALL, "")
    # Curses waits this long to distinguish Esc from an escape sequence; its default is a second.
    os.environ.setdefault("ESCDELAY", "25")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the terminal is restored
    try:
        curses.wrapper(_loop, watch, choices)
    except curses.error as error:
        term = os.environ.get("TERM", "")
        raise RefusedError(f"this terminal (TERM={term!r}) cannot show a table: {error}; use --once") from None
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _loop(screen: curses.window, watch: Watch, choices: Choices) -> None:
    with suppress(curses.error):
        curses.curs_set(0)
    styles = _styles()
    unicode = locale.nl_langinfo(locale.CODESET).upper() in {"UTF-8", "UTF8"}
    screen.timeout(_TICK_MS)
    drawn: object = None
    while True:
        latest = watch.latest
        now = (latest, screen.getmaxyx())
        if now != drawn:
            _draw(screen, frame(latest, choices, *screen.getmaxyx(), unicode=unicode), styles)
            drawn = now
        try:
            key: str | int = screen.get_wch()
        except curses.error:  # no key was pressed, or the terminal is gone and nohup keeps this process
            if not os.isatty(0):
                return
            continue
        if key == curses.KEY_RESIZE:
            curses.update_lines_cols()
            screen.clear()
        if not press(key, choices, watch):
            return
        drawn = None


def _styles() -> dict[Style, int]:
    styles = {
        Style.PLAIN: curses.A_NORMAL,
        Style.TITLE: curses.A_REVERSE,
        Style.PROBLEM: curses.A_REVERSE | curses.A_BOLD,
        Style.HEAD: curses.A_BOLD,
        Style.CHOSEN: curses.A_BOLD | curses.A_UNDERLINE,
    }
    with suppress(curses.error):
        curses.use_default_colors()
        curses.init_pair(1, curses.COLOR_RED, -1)
        styles[Style.PROBLEM] |= curses.color_pair(1)
    return styles


def _draw(screen: curses.window, lines: list[list[tuple[str, Style]]], styles: dict[Style, int]) -> None:
    screen.erase()
    for at, line in enumerate(lines):
        # After the cell in the last corner the cursor has no place: curses reports an error, although it is written.
        with suppress(curses.error):
            screen.move(at, 0)
            for text, style in line:
                screen.addstr(text, styles[style])
    screen.refresh()


def press(key: str | int, choices: Choices, watch: Watch) -> bool:
    """Handle a key; return whether to continue."""
    if choices.typing and isinstance(key, str):
        _type(key, choices)
    elif choices.typing and key == curses.KEY_BACKSPACE:
        choices.filter = choices.filter[:-1]
    elif key in ("q", "Q"):
        return False
    elif key in ("h", "?"):
        choices.help, choices.top = not choices.help, 0
    elif key == chr(_ESCAPE):
        if choices.help:
            choices.help = False
        else:
            choices.filter = ""
        choices.top = 0
    elif key == "/":
        choices.help, choices.typing = False, True
    elif key in ("p", " "):
        choices.paused = None if choices.paused else watch.latest
    elif key == "r":
        choices.reverse = not choices.reverse
    elif key in (curses.KEY_LEFT, curses.KEY_RIGHT, "<", ">"):
        by = 1 if key in (curses.KEY_RIGHT, ">") else -1
        choices.sort = KEYS[(KEYS.index(choices.sort) + by) % len(KEYS)]
        choices.reverse, choices.top = False, 0
    elif key in _SCROLL:
        lines, pages = _SCROLL[key]
        choices.top = max(0, choices.top + lines + pages * choices.page)
    return True


_FAR = 1_000_000
_SCROLL: dict[str | int, tuple[int, int]] = {
    curses.KEY_UP: (-1, 0),
    "k": (-1, 0),
    curses.KEY_DOWN: (1, 0),
    "j": (1, 0),
    curses.KEY_PPAGE: (0, -1),
    curses.KEY_NPAGE: (0, 1),
    curses.KEY_HOME: (-_FAR, 0),
    curses.KEY_END: (_FAR, 0),
}
"""Lines and pages by which a key scrolls."""


def _type(key: str, choices: Choices) -> None:
    """Add a letter to the filter."""
    if key in ("\n", "\r"):
        choices.typing = False
    elif key == chr(_ESCAPE):
        choices.typing, choices.filter = False, ""
    elif key in ("\x7f", "\b"):
        choices.filter = choices.filter[:-1]
    elif key.isprintable():
        choices.filter += key
    choices.top = 0
