"""Small SVG plots: bars and lines, readable on light and dark pages."""

from collections.abc import Mapping, Sequence
from html import escape

OURS, OTHERS = "#1a73e8", "#9aa0a6"
COLORS = (OURS, "#d93025", "#188038", "#a142f4", "#e8710a")
_WIDTH = 760
_STYLE = "<style>text{font:12px sans-serif;fill:#777}.head{font-weight:bold}</style>"


def _svg(height: int, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', _STYLE, *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, said: str, how: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}"{how}>{escape(said)}</text>'


def bars(title: str, figures: Sequence[tuple[str, float]], ours: str) -> str:
    """Draw one bar per figure, from 0; bars whose name ends with `ours` have another color."""
    left, room = 300, _WIDTH - 300 - 80
    most = max((value for _, value in figures), default=0) or 1
    parts = [_text(8, 18, title, ' class="head"')]
    for at, (name, value) in enumerate(figures):
        y, width = 28 + at * 20, max(1.0, value / most * room)
        color = OURS if name.endswith(ours) else OTHERS
        parts += [
            _text(left - 8, y + 12, name, ' text-anchor="end"'),
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="15" fill="{color}"/>',
            _text(left + width + 5, y + 12, f"{value:.4g}"),
        ]
    return _svg(36 + len(figures) * 20, parts)


def lines(title: str, across: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw lines through points, with both axes from 0; `across` is the label of the horizontal one."""
    left, top, width, height = 60, 30, _WIDTH - 240, 240
    points = [point for line in series.values() for point in line]
    most_x = max((x for x, _ in points), default=0) or 1
    most_y = max((y for _, y in points), default=0) or 1
    parts = [
        _text(8, 18, title, ' class="head"'),
        f'<path d="M{left} {top}V{top + height}H{left + width}" fill="none" stroke="{OTHERS}"/>',
        _text(left + width, top + height + 32, across, ' text-anchor="end"'),
    ]
    for part in (0, 0.5, 1):
        parts += [
            _text(left - 6, top + height * (1 - part) + 4, f"{most_y * part:.4g}", ' text-anchor="end"'),
            _text(left + width * part, top + height + 16, f"{most_x * part:.4g}", ' text-anchor="middle"'),
        ]
    for (name, line), color in zip(series.items(), COLORS, strict=False):
        placed = [(left + x / most_x * width, top + height * (1 - y / most_y)) for x, y in sorted(line)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in placed]
        at = list(series).index(name)
        parts.append(f'<rect x="{left + width + 14}" y="{top + 6 + at * 20}" width="10" height="10" fill="{color}"/>')
        parts.append(_text(left + width + 30, top + 16 + at * 20, name))
    return _svg(top + height + 44, parts)
