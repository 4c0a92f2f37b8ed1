"""Curves as SVG, without a library, in the manner of ``chart.py``: panels one below the other, each with what grows on
a logarithmic axis, and the value at each point beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from chart import number

_WIDTH, _HIGH, _LEFT, _RIGHT, _TOP, _GAP = 760, 150, 60, 90, 60, 60
_COLOURS = ("#2563a8", "#b45309", "#15803d")
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1b1f24}.t{font-weight:600;font-size:15px}.a{stroke:#8a9099}"
    "path{fill:none;stroke-width:2}@media(prefers-color-scheme:dark){text{fill:#e6e8eb}}"
)


@dataclass(frozen=True, slots=True)
class Panel:
    """``lines`` are (label, values), each with a value for every one of ``names``, which say what stands at ``at``.
    ``steep``: values are on a logarithmic axis too."""

    title: str
    unit: str
    at: Sequence[float]
    names: Sequence[str]
    lines: Sequence[tuple[str, Sequence[float]]]
    steep: bool = False


def curves(panels: Sequence[Panel]) -> str:
    """The picture."""
    height = len(panels) * (_TOP + _HIGH + _GAP) - _GAP + 40
    said = "; ".join(_said(panel) for panel in panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
        f'role="img" aria-label="{escape(said)}"><style>{_STYLE}</style>',
    ]
    for place, panel in enumerate(panels):
        lines += _drawn(panel, place * (_TOP + _HIGH + _GAP))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _said(panel: Panel) -> str:
    told = (
        f"{label} " + ", ".join(f"{name} {number(value)}" for name, value in zip(panel.names, values, strict=True))
        for label, values in panel.lines
    )
    return f"{panel.title}, {panel.unit}: " + "; ".join(told)


def _drawn(panel: Panel, top: int) -> list[str]:
    bottom = top + _TOP + _HIGH
    across = _scale([math.log10(max(x, 0.1)) for x in panel.at], _LEFT, _WIDTH - _RIGHT)
    every = [value for _, values in panel.lines for value in values]
    up = [math.log10(value) for value in every] if panel.steep else [0.0, *every]
    low, high = min(up), max(up) or 1.0

    def y(value: float) -> float:
        return bottom - _HIGH * ((math.log10(value) if panel.steep else value) - low) / ((high - low) or 1.0)

    lines = [
        f'<text class="t" x="8" y="{top + 24}">{escape(panel.title)}, {escape(panel.unit)}</text>',
        f'<line class="a" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom + 12}" y2="{bottom + 12}"/>',
    ]
    lines += [
        f'<text x="{x:.0f}" y="{bottom + 30}" text-anchor="middle">{escape(name)}</text>'
        for x, name in zip(across, panel.names, strict=True)
    ]
    for (label, values), colour in zip(panel.lines, _COLOURS, strict=False):
        places = [(x, y(value)) for x, value in zip(across, values, strict=True)]
        way = " L".join(f"{x:.1f} {at:.1f}" for x, at in places)
        lines.append(f'<path d="M{way}" stroke="{colour}"/>')
        for (x, at), value in zip(places, values, strict=True):
            lines.append(f'<circle cx="{x:.1f}" cy="{at:.1f}" r="3.5" fill="{colour}"/>')
            lines.append(f'<text x="{x:.1f}" y="{at - 8:.1f}" text-anchor="middle">{number(value)}</text>')
        lines.append(f'<text x="{_WIDTH - _RIGHT + 10}" y="{places[-1][1] + 4:.1f}">{escape(label)}</text>')
    return lines


def _scale(values: Sequence[float], start: float, end: float) -> list[float]:
    low, high = min(values), max(values)
    return [start + (end - start) * (value - low) / ((high - low) or 1.0) for value in values]
