"""The tables and charts of ``make bench``."""

from __future__ import annotations

from typing import Any

import chart
import report
from targets import Line

Form = dict[str, Any]

HEAD = (
    "server", "at the 250 the message is", "accepted/s", "± %", "to smtp-sink", "readable/s", "to queue design",
    "dot→250 p50 ms", "p95", "p99", "CPU µs", "by process", "peak MiB", "generator", "errors",
)  # fmt: skip
LATENCY = ("rate", "server", "what", "p50 ms", "p95", "p99")
TARGETS = ("what", "target", "moonshot", "measured", "")
_WAYS = {
    "dot_ms": "last dot → 250",
    "committed_ms": "accepted → committed in Postgres",
    "announced_ms": "accepted → WebSocket frame (queue design: pub/sub)",
}

_CHARTS = {
    "bench": "4 KB mail: messages a second",
    "bench-cpu": "CPU of a message of 4 KB",
    "bench-latency": "p99 at a fixed rate",
}
_SHORT = {"dot_ms": "250", "committed_ms": "committed", "announced_ms": "announced"}


def markdown(results: Form, lines: list[Line]) -> str:
    """All of it."""
    parts = [
        report.about(results["machine"]),
        _conditions(results),
        "\n\n".join(f"![{_CHARTS[name]}]({name}.svg)" for name in pictures(results)),
        f"## Targets\n\n{report.table(TARGETS, [line.row() for line in lines])}",
    ]
    for one in results["scenarios"].values():
        parts.append(f"## {one['title']}\n\n{report.table(HEAD, rows(one['summary'], results['names']))}")
    if results["latency"]:
        parts.append(f"## At a fixed rate\n\n{report.table(LATENCY, latency_rows(results))}")
    if found := results.get("scale"):
        parts.append(
            "## Two of each\n\n"
            + report.table(
                ("what", "cores", "readable/s", "CPU µs a message"),
                [
                    ("one listener, one worker", 2, found["one"], found["one_cpu_us"]),
                    ("two listeners, two workers", min(4, found["cores"]), found["two"], found["two_cpu_us"]),
                ],
            )
        )
    if results["missing"]:
        left = "\n".join(f"- {name}: {why}" for name, why in results["missing"].items())
        parts.append(f"## Left out\n\n{left}")
    return "\n\n".join(parts)


def disturbed(others: float) -> str:
    """A warning where other programs used so many cores meanwhile, or nothing."""
    if others <= report.BUSY:
        return ""
    return f" Other programs used {others:.1f} cores of the machine meanwhile: rates and times are worse for it."


def _conditions(results: Form) -> str:
    ceiling, cores = results["ceiling"], ", ".join(map(str, results["cores"]))
    return (
        f"Everything shares cores {cores}: the servers, their stores and the generator. Rounds, taken in turn: "
        f"{results['rounds']}. Figures are medians, and ± is how far the rounds are apart. Every message that was "
        "acknowledged was found again, where the server keeps it. The generator by itself, against a sink that does "
        f"nearly nothing, sends {ceiling['kept']:,.0f} a second on kept connections, {ceiling['pipelined']:,.0f} with "
        f"PIPELINING and {ceiling['new']:,.0f} on a connection each; a message costs it {ceiling['us']:.0f} µs of CPU. "
        "*bound* marks a rate it has probably set itself." + disturbed(results["others"])
    )


def rows(summary: Form, names: Form) -> list[tuple[object, ...]]:
    """One scenario's."""
    return [
        (
            names[key][0], names[key][1], one["accepted_per_second"],
            None if one["spread"] is None else round(one["spread"] * 50), one["to_sink"], one["readable_per_second"],
            one["to_queue_design"], one["dot_ms"]["p50"], one["dot_ms"]["p95"], one["dot_ms"]["p99"],
            one["cpu_us_in_all"], ", ".join(f"{part} {value:,.0f}" for part, value in one["cpu_us"].items()),
            sum(one["peak_mib"].values()), f"{one['generator_busy']:.0%}{' bound' * one['bounded_by_generator']}",
            one["errors"],
        )
        for key, one in summary.items()
    ]  # fmt: skip


def latency_rows(results: Form) -> list[tuple[object, ...]]:
    """By rate, then server."""
    made: list[tuple[object, ...]] = []
    for name, one in results["latency"].items():
        key, _, rate = name.partition(" ")
        for way, title in _WAYS.items():
            made.append((int(rate), results["names"][key][0], title, *(one[way][p] for p in ("p50", "p95", "p99"))))
    return made


def short(results: Form) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """What the README shows: a server a row."""
    head = ("", "at the 250 the message is", "accepted/s", "readable/s", "CPU µs a message", "p99, dot → 250")
    kept = results["scenarios"].get("kept", {}).get("summary", {})
    made: list[tuple[object, ...]] = []
    for key, one in {**kept, **_developers(results)}.items():
        if key.endswith("-off"):
            continue
        late = one["dot_ms"]["p99"]
        made.append(
            (*results["names"][key], one["accepted_per_second"], one["readable_per_second"], one["cpu_us_in_all"],
             None if late is None else f"{late:.1f} ms")
        )  # fmt: skip
    return head, made


def _developers(results: Form) -> Form:
    found = results["scenarios"].get("dev", {}).get("summary", {})
    return {key: one for key, one in found.items() if key in ("dev", "maildev")}


def pictures(results: Form) -> dict[str, str]:
    """Charts by the name of their file: rates, CPU and, where they were measured, latencies."""
    made = {"bench": picture(results)}
    kept = results["scenarios"].get("kept", {}).get("summary", {})
    if kept:
        costs = [(results["names"][key][0], one["cpu_us_in_all"]) for key, one in kept.items()]
        made["bench-cpu"] = chart.bars("CPU of a message of 4 KB, all processes of a server together", "µs", costs)
    if results["latency"]:
        times = [
            (f"{results['names'][name.split()[0]][0]}, {name.split()[1]}/s, {_SHORT[way]}", one[way]["p99"])
            for name, one in results["latency"].items()
            for way in _WAYS
        ]
        made["bench-latency"] = chart.bars("p99 at a fixed rate", "ms", times)
    return made


def picture(results: Form) -> str:
    """Rates of 4 KB mail, kept connections: what is readable, or thrown away where nothing is kept."""
    bars = []
    kept = results["scenarios"].get("kept", {}).get("summary", {})
    for key, one in {**kept, **_developers(results)}.items():
        name, promise = results["names"][key]
        readable = one["readable_per_second"]
        what = "readable" if readable else "thrown away" if promise == "thrown away" else "synced"
        bars.append((f"{name}, {what}", readable or one["accepted_per_second"]))
    return chart.bars("4 KB mail, 50 kept connections, two cores for everything", "a second", bars)
