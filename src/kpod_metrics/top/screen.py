"""The terminal: draws frames and reads keys, with the curses of the standard library.

Measured: it is imported in 3 ms and needs no package, so that `top` works in the image too.
"""

import curses
import locale
import os
import signal
from contextlib import suppress
from types import FrameType

from kpod_metrics.errors import RefusedError
from kpod_metrics.top.columns import KEYS
from kpod_metrics.top.frame import State, Style, frame
from kpod_metrics.top.watch import Watch

_TICK_MS = 200
"""How soon a new page is shown, at most."""
_ESCAPE = 27


def show(watch: Watch, state: State) -> None:
    """Show the table until it is quit; raises RefusedError where the terminal cannot show one."""
    locale.setlocale(locale.LC_ALL, "")
    # By the end of an escape sequence a lone Esc is told from an arrow: a second is too long to wait for that.
    os.environ.setdefault("ESCDELAY", "25")
    before = signal.signal(signal.SIGTERM, _end)
    try:
        curses.wrapper(_loop, watch, state)
    except curses.error as error:
        term = os.environ.get("TERM", "")
        raise RefusedError(f"this terminal (TERM={term!r}) cannot show a table: {error}; --once needs none") from None
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, where: FrameType | None) -> None:
    """End as by a key, so that the terminal is left as it was."""
    raise KeyboardInterrupt


def _loop(screen: curses.window, watch: Watch, state: State) -> None:
    with suppress(curses.error):
        curses.curs_set(0)
    styles = _styles()
    unicode = locale.nl_langinfo(locale.CODESET).upper() in {"UTF-8", "UTF8"}
    screen.timeout(_TICK_MS)
    drawn: object = None
    while True:
        view = watch.view
        now = (view.version, screen.getmaxyx())
        if now != drawn:
            _draw(screen, frame(view, state, *screen.getmaxyx(), unicode=unicode), styles)
            drawn = now
        try:
            key: str | int = screen.get_wch()
        except curses.error:  # none was pressed, or the terminal is gone and this process was told to stay (nohup)
            if not os.isatty(0):
                return
            continue
        if key == curses.KEY_RESIZE:
            curses.update_lines_cols()
            screen.clear()
        if not press(key, state, watch):
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
        # The cell in the last corner is written, and then the cursor has nowhere to go: an error all the same.
        with suppress(curses.error):
            screen.move(at, 0)
            for text, style in line:
                screen.addstr(text, styles[style])
    screen.refresh()


def press(key: str | int, state: State, watch: Watch) -> bool:
    """Do what a key says; return whether to go on."""
    if state.typing and isinstance(key, str):
        _type(key, state)
    elif state.typing and key == curses.KEY_BACKSPACE:
        state.filter = state.filter[:-1]
    elif key in ("q", "Q"):
        return False
    elif key in ("h", "?"):
        state.help, state.top = not state.help, 0
    elif key == chr(_ESCAPE):
        if state.help:
            state.help = False
        else:
            state.filter = ""
        state.top = 0
    elif key == "/":
        state.help, state.typing = False, True
    elif key in ("p", " "):
        state.paused = None if state.paused else watch.view
    elif key == "r":
        state.other_way = not state.other_way
    elif key in (curses.KEY_LEFT, curses.KEY_RIGHT, "<", ">"):
        by = 1 if key in (curses.KEY_RIGHT, ">") else -1
        state.sort = KEYS[(KEYS.index(state.sort) + by) % len(KEYS)]
        state.other_way, state.top = False, 0
    elif key in _SCROLL:
        lines, pages = _SCROLL[key]
        state.top = max(0, state.top + lines + pages * state.page)
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


def _type(key: str, state: State) -> None:
    """Take a letter of the filter."""
    if key in ("\n", "\r"):
        state.typing = False
    elif key == chr(_ESCAPE):
        state.typing, state.filter = False, ""
    elif key in ("\x7f", "\b"):
        state.filter = state.filter[:-1]
    elif key.isprintable():
        state.filter += key
    state.top = 0
