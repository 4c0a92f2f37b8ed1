"""A bar chart as SVG, without a library: readable by day and by night, and by those who are read to."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _BAR, _GAP, _LEFT, _RIGHT, _TOP = 760, 20, 10, 300, 110, 44
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1b1f24}.t{font-weight:600;font-size:15px}.b{fill:#2563a8}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e8eb}.b{fill:#6fa8dc}}"
)


def bars(title: str, unit: str, values: Sequence[tuple[str, float]]) -> str:
    """One bar for each of ``values``, (label, value), from the top; ``unit`` stands behind each value."""
    most = max((value for _, value in values), default=0.0) or 1.0
    height = _TOP + len(values) * (_BAR + _GAP)
    said = f"{title}: " + "; ".join(f"{label} {number(value)} {unit}" for label, value in values)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
        f'role="img" aria-label="{escape(said)}">',
        f'<style>{_STYLE}</style><text class="t" x="8" y="24">{escape(title)}</text>',
    ]
    for place, (label, value) in enumerate(values):
        top = _TOP + place * (_BAR + _GAP)
        wide = max((_WIDTH - _LEFT - _RIGHT) * value / most, 1.0)
        lines += [
            f'<text x="{_LEFT - 8}" y="{top + 15}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="b" x="{_LEFT}" y="{top}" width="{wide:.1f}" height="{_BAR}" rx="3"/>',
            f'<text x="{_LEFT + wide + 6:.1f}" y="{top + 15}">{number(value)} {escape(unit)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def number(value: float) -> str:
    """As many digits as matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
