"""What happened over time as SVG: panels one above the other with one axis of seconds, a few lines in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from chart import number

_WIDTH, _LEFT, _RIGHT, _HIGH, _BETWEEN, _TOP = 760, 70, 16, 110, 46, 54
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1b1f24}.t{font-weight:600;font-size:15px}.g{stroke:#8884;fill:none}"
    ".a{stroke:#2563a8;fill:none;stroke-width:1.6}.b{stroke:#c2571a;fill:none;stroke-width:1.6}.m{fill:#c2571a22}"
    ".ta{fill:#2563a8}.tb{fill:#c2571a}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e8eb}.a{stroke:#6fa8dc}.b{stroke:#f0a36b}.ta{fill:#6fa8dc}"
    ".tb{fill:#f0a36b}}"
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One or two lines with the same unit; a value that is None is a gap."""

    title: str
    unit: str
    lines: Sequence[tuple[str, Sequence[float | None]]]


def timeline(title: str, panels: Sequence[Panel], marks: Sequence[tuple[float, float, str]] = ()) -> str:
    """A picture. ``marks`` are (from, to, what): stretches of time that are shaded."""
    seconds = max(len(values) for panel in panels for _, values in panel.lines)
    height = _TOP + len(panels) * (_HIGH + _BETWEEN)
    wide = _WIDTH - _LEFT - _RIGHT

    def x(second: float) -> float:
        return _LEFT + wide * second / max(seconds - 1, 1)

    told = "; ".join(
        f"{panel.title}: {name} at most {number(max((v for v in values if v is not None), default=0.0))} {panel.unit}"
        for panel in panels
        for name, values in panel.lines
    )
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
        f'role="img" aria-label="{escape(title)}. {escape(told)}">',
        f'<style>{_STYLE}</style><text class="t" x="8" y="24">{escape(title)}</text>',
    ]
    for place, panel in enumerate(panels):
        top = _TOP + place * (_HIGH + _BETWEEN)
        most = max((v for _, values in panel.lines for v in values if v is not None), default=0.0) or 1.0
        for begin, end, what in marks:
            out.append(
                f'<rect class="m" x="{x(begin):.1f}" y="{top}" width="{x(end) - x(begin):.1f}" height="{_HIGH}"/>'
            )
            if place == 0:
                out.append(f'<text x="{x(begin):.1f}" y="{top - 20}">{escape(what)}</text>')
        out.append(f'<text x="{_LEFT}" y="{top - 5}">{escape(panel.title)}, {escape(panel.unit)}</text>')
        for part in (0.0, 0.5, 1.0):
            y = top + _HIGH * (1 - part)
            out.append(f'<path class="g" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(most * part)}</text>')
        for turn, (name, values) in enumerate(panel.lines):
            kind = "ab"[turn % 2]
            path, pen = [], "M"
            for second, value in enumerate(values):
                if value is None:
                    pen = "M"
                    continue
                path.append(f"{pen}{x(second):.1f} {top + _HIGH * (1 - value / most):.1f}")
                pen = "L"
            out.append(f'<path class="{kind}" d="{"".join(path)}"/>')
            out.append(
                f'<text class="t{kind}" x="{_WIDTH - _RIGHT - 130 * (len(panel.lines) - 1 - turn)}" y="{top - 5}" '
                f'text-anchor="end">{escape(name)}</text>'
            )
    for part in range(5):
        shown = (seconds - 1) * part / 4
        out.append(f'<text x="{x(shown):.1f}" y="{height - 22}" text-anchor="middle">{shown:.0f} s</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
