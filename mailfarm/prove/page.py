"""The report as one page of HTML that needs nothing else: charts are drawn as SVG in it, and it has no script."""

from __future__ import annotations

from html import escape

from .course import Course
from .report import KINDS, Report, Row, bound_of
from .traffic import COUNTS

_WIDTH = 960
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d5dae3; --paper: #fff;
  --acked: #2f7d4f; --refused: #c98a1b; --unknown: #8a5bb8; --bad: #b42318; --bar: #3b6ea8; --mark: #b4231822 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #3a4252; --paper: #14181f;
  --acked: #5fbf86; --refused: #e0ad4d; --unknown: #b794e0; --bad: #ff8a7a; --bar: #7fb0e8; --mark: #ff8a7a33 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1000px;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
p.soft, .soft { color: var(--soft) } .good { color: var(--acked) } .bad { color: var(--bad) }
.figures { display: flex; flex-wrap: wrap; gap: .6rem 2.4rem; margin: 1.2rem 0 }
.figures div { font-size: 1.5rem; font-variant-numeric: tabular-nums } .figures small { display: block;
  font-size: .8rem; color: var(--soft) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child, td.text, th.text { text-align: left } td.text { white-space: normal }
td { vertical-align: top } td small { display: block; font-weight: normal; line-height: 1.3; min-width: 15rem }
tr.total { font-weight: 600 } svg { width: 100%; min-width: 640px; height: auto; display: block; margin-bottom: .8rem }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif } svg .name { fill: var(--ink) }
.key span { margin-right: 1.2rem } .key i { display: inline-block; width: .8em; height: .8em; margin-right: .3em }
"""


def page(report: Report) -> str:
    """The whole page."""
    total = report.total
    word, style = ("proved", "good") if report.proved else ("not proved", "bad")
    figures = (
        ("acknowledged", total.acknowledged),
        ("lost", total.lost),
        ("ghosts", total.ghosts),
        ("duplicates", total.duplicates),
        ("unknown", total.unknown),
        ("faults injected", total.injected),
        ("95 % bound", bound_of(total, "–")),
        *([("not judged", total.not_judged)] if total.not_judged else []),
    )
    shown = "".join(f"<div>{escape(str(value))}<small>{name}</small></div>" for name, value in figures)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>mailfarm prove: '
        f'{word}</title><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>\n"
        f'<h1>mailfarm prove: <span class="{style}">{word}</span></h1>\n'
        f'<p class="soft">target {escape(report.target)}, seed {report.seed}, began {escape(report.began)}, '
        f"{report.seconds:.0f} s{', interrupted' if report.interrupted else ''}. "
        f"What this says and what it does not: <code>mailfarm help proving</code></p>\n"
        f'<div class="figures">{shown}</div>\n'
        + _findings(report)
        + "<h2>Faults</h2>\n"
        + _table(report)
        + "<h2>Seconds until mail was acknowledged and readable again</h2>\n"
        + _recovery([row for row in report.rows.values() if row.recovery])
        + "<h2>What clients were told</h2>\n"
        + _key()
        + "".join(_course(course, number) for number, course in enumerate(report.courses, 1))
        + _clients(report)
        + _consumers(report)
        + "</body></html>\n"
    )


def _findings(report: Report) -> str:
    if not report.findings:
        return ""
    rows = "".join(
        f'<tr><td class="bad">{escape(each.kind)}</td><td class="text">{escape(KINDS[each.kind])}</td>'
        f'<td class="text">{escape(each.fault)}</td><td class="text">{escape(each.what)}</td></tr>'
        for each in report.findings
    )
    return f'<h2>What is wrong</h2>\n<div class="wide"><table id="findings">{rows}</table></div>\n'


def _table(report: Report) -> str:
    names = ("fault", "injected", "acked", "lost", "altered", "ghosts", "dup.", "unknown", "refused", "bound",
             "p50 s", "max s")  # fmt: skip
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(_row(row) for row in report.rows.values())
    total = _row(report.total).replace("<tr>", '<tr class="total">', 1)
    return f'<div class="wide"><table id="faults"><tr>{head}</tr>{rows}{total}</table></div>\n'


def _row(row: Row) -> str:
    if row.not_run:
        return f"<tr>{_name(row, f'not run: {row.not_run}')}{'<td>–</td>' * 11}</tr>"
    numbers = (row.injected, row.acknowledged, row.lost, row.altered, row.ghosts, row.duplicates, row.unknown)
    times = ("–" if value is None else f"{value:.1f}" for value in (row.median, row.longest))
    cells = "".join(f"<td>{value}</td>" for value in (*numbers, row.refused, bound_of(row, "–"), *times))
    return f"<tr>{_name(row, *dict.fromkeys(row.remarks))}{cells}</tr>"


def _name(row: Row, *remarks: str) -> str:
    said = "; ".join(filter(None, [row.says, *remarks]))
    return f'<td class="text">{escape(row.name)}<small class="soft">{escape(said)}</small></td>'


def _recovery(rows: list[Row]) -> str:
    """A bar to the longest, a mark at the median, a line each."""
    if not rows:
        return '<p class="soft">Nothing was injected.</p>\n'
    most, left, height = max(max(row.recovery) for row in rows) or 1.0, 230, 22
    scale = (_WIDTH - left - 60) / most
    lines = []
    for number, row in enumerate(rows):
        top, longest, median = number * height, row.longest or 0.0, row.median or 0.0
        lines.append(
            f'<text class="name" x="0" y="{top + 15}">{escape(row.name[:32])}</text>'
            f'<rect x="{left}" y="{top + 4}" width="{max(longest * scale, 1):.1f}" height="{height - 9}" '
            f'style="fill:var(--bar)" opacity=".45"><title>{len(row.recovery)} times</title></rect>'
            f'<rect x="{left}" y="{top + 4}" width="{max(median * scale, 1):.1f}" height="{height - 9}" '
            'style="fill:var(--bar)"/>'
            f'<text x="{left + longest * scale + 6:.1f}" y="{top + 15}">{median:.1f} · {longest:.1f}</text>'
        )
    return (
        f'<div class="wide"><svg id="recovery" viewBox="0 0 {_WIDTH} {len(rows) * height}" role="img" '
        'aria-label="time to recover">'
        f'{"".join(lines)}</svg></div>\n<p class="soft">Dark: half of the times; light: the longest.</p>\n'
    )


def _key() -> str:
    names = (("acked", "acknowledged"), ("unknown", "unknown"), ("refused", "refused"))
    spans = "".join(f'<span><i style="background:var(--{each})"></i>{name}</span>' for each, name in names)
    return f'<p class="key soft">{spans}<span><i style="background:var(--mark)"></i>a fault</span></p>\n'


def _course(course: Course, number: int) -> str:
    """Stacked steps over time, with the faults behind them."""
    steps, height = len(course.acked), 120
    most = max(map(sum, zip(course.acked, course.unknown, course.refused, strict=True)), default=1) or 1
    wide = _WIDTH / max(steps, 1)
    marks = "".join(
        f'<rect x="{began / course.step * wide:.1f}" y="0" width="{max((healed - began) / course.step * wide, 1):.1f}" '
        f'height="{height}" style="fill:var(--mark)"><title>{escape(name)}</title></rect>'
        for began, healed, name in course.faults
    )
    bars, floors = [], [float(height)] * steps
    for name, values in (("acked", course.acked), ("unknown", course.unknown), ("refused", course.refused)):
        path = []
        for place, value in enumerate(values):
            if value:
                tall = value / most * height
                floors[place] -= tall
                path.append(f"M{place * wide:.1f} {floors[place]:.1f}h{wide:.1f}v{tall:.1f}h-{wide:.1f}z")
        bars.append(f'<path d="{"".join(path)}" style="fill:var(--{name})"/>')
    return (
        f'<div class="wide"><svg class="course" viewBox="0 0 {_WIDTH} {height + 18}" role="img" '
        f'aria-label="course of target {number}">'
        f'{marks}{"".join(bars)}<text x="0" y="{height + 14}">target {number}: {most} attempts in {course.step:g} s at '
        f'most</text><text x="{_WIDTH}" y="{height + 14}" text-anchor="end">{steps * course.step:.0f} s</text>'
        "</svg></div>\n"
    )


def _clients(report: Report) -> str:
    if not report.clients:
        return ""
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in COUNTS)
    rows = "".join(
        f"<tr><td>{escape(kind)}</td>{''.join(f'<td>{counted[name]}</td>' for name in COUNTS)}</tr>"
        for kind, counted in report.clients.items()
    )
    return (
        f'<h2>Clients</h2>\n<div class="wide"><table id="clients"><tr><th>sent to</th>{head}</tr>{rows}</table></div>\n'
        '<p class="soft">Messages: begun, left out as all clients were busy, given up, unfinished. Attempts: '
        "acked, refused, unknown.</p>\n"
    )


def _consumers(report: Report) -> str:
    if not report.consumers:
        return ""
    rows = "".join(
        f"<tr><td>{escape(kind)}</td>"
        + "".join(f"<td>{counted[name]}</td>" for name in ("consumers", "told", "again", "missed", "cuts"))
        + "</tr>"
        for kind, counted in report.consumers.items()
    )
    head = "<tr><th>events by</th><th>consumers</th><th>told</th><th>again</th><th>missed</th><th>cut</th></tr>"
    return f'<h2>Consumers of events</h2>\n<div class="wide"><table id="consumers">{head}{rows}</table></div>\n'
