"""The ratios as one SVG picture: bars around 1, a line from the smallest to the largest round. No plotting library."""

from __future__ import annotations

from xml.sax.saxutils import escape

from bench.paths import ALL_PATHS, BASELINES, Group, Path
from bench.ratios import Spread
from bench.report import ratio_of
from bench.results import Results
from bench.works import ALL_WORKS

__all__ = ["as_svg"]

_BAR, _GAP, _LABEL, _WIDTH, _TOP = 16, 4, 190, 420, 40
_COLOURS = {"meshless": "#1b6ca8", "haproxy": "#888888", "stunnel": "#b08d57", "nginx": "#5a9c5a"}


def as_svg(results: Results) -> str:
    """A picture of every ratio of the run but the bare sockets', which would dwarf the rest."""
    panels = []
    for group in (Group.SAME_NODE, Group.CROSS_NODE):
        for work in ALL_WORKS:
            rows = [
                (path, found)
                for path in ALL_PATHS
                if path.group is group and (found := ratio_of(results, path, work.name)) is not None
            ]
            if rows:
                panels.append((f"{group.value}: {work.describes}", BASELINES[group], rows))
    most = max((found.high for _, _, rows in panels for _, found in rows), default=1.0)
    parts = []
    y = _TOP
    for title, base, rows in panels:
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{escape(title)}, ratio to {escape(base)}</text>')
        y += 10
        for path, found in rows:
            parts.extend(_row(path, found, y, _WIDTH / most))
            y += _BAR + _GAP
        y += 28
    one = _LABEL + _WIDTH / most
    parts.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{_TOP}" y2="{y - 28}" stroke="#444" stroke-dasharray="3 3"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LABEL + _WIDTH + 80}" height="{y}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _row(path: Path, found: Spread, y: float, scale: float) -> list[str]:
    middle = y + _BAR / 2
    colour = next((colour for name, colour in _COLOURS.items() if path.name.startswith(name)), "#888888")
    return [
        f'<text x="8" y="{middle + 4}">{escape(path.name)}</text>',
        f'<rect x="{_LABEL}" y="{y}" width="{found.median * scale:.1f}" height="{_BAR}" fill="{colour}"/>',
        (
            f'<line x1="{_LABEL + found.low * scale:.1f}" x2="{_LABEL + found.high * scale:.1f}" '
            f'y1="{middle}" y2="{middle}" stroke="black"/>'
        ),
        f'<text x="{_LABEL + found.high * scale + 6:.1f}" y="{middle + 4}">{found.median:.2f}</text>',
    ]
