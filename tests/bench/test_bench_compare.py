"""What the comparison says follows from what was measured, and a peer that lost something is told on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import findings
import pytest
import readme
import replies
import summary
import targets
import ways
from corpus import corpus, halves, stamp
from measuring import generate, peak_mib
from peers.base import Missing, Peer, Sent
from sink import TrivialSink
from smtp_dialog import EXPECTED

ROOT = Path(__file__).resolve().parents[2]


def form(rate: float, filed: float | None = None, busy: float = 0.1) -> dict[str, Any]:
    """What one measurement leaves."""
    return {
        "accepted_per_second": rate, "readable_per_second": filed, "messages": int(rate), "seconds": 1.0,
        "dot_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0}, "cpu_us": {"one": 100.0, "two": 50.0},
        "peak_mib": {"one": 10.0, "two": 5.0}, "generator_us": 40.0, "generator_busy": busy, "others": 0.0,
        "errors": {}, "errors_total": 0,
    }  # fmt: skip


def test_medians_spread_and_ratios_are_within_each_round() -> None:
    sink = [form(1000.0), form(2000.0), form(500.0)]
    queue = [form(100.0, 50.0), form(100.0, 25.0), form(100.0, 50.0)]
    ours = [form(900.0, 200.0), form(1000.0, 200.0), form(500.0, 300.0)]
    one = summary.of_scenario({"sink": sink, "queue": queue, "cluster": ours})["cluster"]
    assert one["accepted_per_second"] == 900.0
    assert one["readable_per_second"] == 200.0
    assert one["to_sink"] == 0.9  # of 0.9, 0.5 and 1.0
    assert one["to_queue_design"] == 6.0  # of 4, 8 and 6
    assert one["spread"] == 0.5
    assert one["cpu_us_in_all"] == 150.0


def test_a_rate_that_the_generator_has_set_is_marked() -> None:
    (one,) = summary.of_scenario({"sink": [form(1000.0, busy=0.95)]}).values()
    assert one["bounded_by_generator"]
    (other,) = summary.of_scenario({"sink": [form(1000.0, busy=0.5)]}).values()
    assert not other["bounded_by_generator"]


def results() -> dict[str, Any]:
    runs = {
        "sink": [form(1000.0)], "edge": [form(950.0)], "mx": [form(590.0)], "queue": [form(100.0, 100.0)],
        "cluster": [form(500.0, 310.0)],
    }  # fmt: skip
    dev = {"dev": [form(500.0, 500.0)], "maildev": [form(90.0, 90.0)]}
    percentiles = {way: {"p50": 1.0, "p95": 2.0, "p99": 4.0} for way in ("dot_ms", "committed_ms", "announced_ms")}
    return {
        "machine": {
            "at": "2026-01-01T00:00:00+00:00", "cpu": "a CPU", "cores": 4, "kernel": "6", "python": "3.11",
            "load_average": 0.0, "cores_others_use": 0.0, "fdatasync_per_second": 1000,
        },
        "ceiling": {"kept": 20000.0, "pipelined": 30000.0, "new": 6000.0, "us": 45.0},
        "cores": [0, 1], "rounds": 1, "others": 1.5, "missing": {"MailDev": "not installed"},
        "names": {key: [key, "thrown away"] for key in (*runs, *dev)},
        "scenarios": {
            "kept": {"title": "4 KB", "summary": summary.of_scenario(runs), "runs": runs},
            "dev": {"title": "dev", "summary": summary.of_scenario(dev), "runs": dev},
        },
        "latency": {"cluster 200": {**percentiles, "errors": 0, "messages": 9}},
        "scale": {"cores": 4, "ratio": 1.8, "one": 100.0, "two": 180.0, "one_cpu_us": 1.0, "two_cpu_us": 1.0},
    }  # fmt: skip


def test_each_target_has_a_line_whatever_was_measured(tmp_path: Path) -> None:
    (tmp_path / "push.json").write_text(json.dumps({"targets": [{"measured": "80 ms", "met": True}]}))
    lines = targets.lines(results(), tmp_path)
    met = {line.what: line.met for line in lines}
    assert met["one edge process, queue that keeps nothing"] is True
    assert met["one edge process, synced, PROXY, limits, metrics"] is False
    assert met["the same without PROXY and limits"] is None
    assert met["accepted, committed in Postgres, announced"] is True
    assert met["mailfarm dev, accepted and readable"] is True
    assert met["p99 at 200/s, last dot → 250"] is False
    assert met["p99 at 200/s, accepted → committed"] is True
    assert met["p99 at 800/s, accepted → committed"] is None
    assert met["two edges and two workers on four cores"] is True
    assert met["one event to 5,000 WebSocket clients"] is True
    equal = results()
    equal["latency"]["queue 200"] = equal["latency"]["cluster 200"]
    beside = {line.what: line.met for line in targets.lines(equal, tmp_path)}
    assert beside["p99 at 200/s, accepted → committed"] is False  # below the peer's, not as slow
    empty = {"scenarios": {}, "latency": {}}
    assert len(targets.lines(empty, tmp_path / "none")) == len(lines)
    assert all(line.met is None for line in targets.lines(empty, tmp_path / "none"))


def test_what_other_scripts_left_is_read_and_what_is_odd_is_not(tmp_path: Path) -> None:
    rows = {
        "tls": [{"server": "edge", "case": "kept", "to the sink's": 1.2}, {"server": "sink"}],
        "idle": [{"sessions held": 20_000, "MiB per 1,000": 4.5, "p99": 20.0, "errors": 0}],
        "push": [{"case": "one at a time", "clients": 5000, "CPU ms an event": 80.0, "others max": 40.0}],
        "lists": [{"a column": "nobody knows"}],
    }
    for name, made in rows.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": made, "targets": []}))
    (tmp_path / "growth.json").write_text("not JSON")
    met = [line.met for line in targets.lines({"scenarios": {}, "latency": {}}, tmp_path)][-5:]
    assert met == [True, False, True, None, None]


def test_the_tables_name_who_is_left_out(tmp_path: Path) -> None:
    text = findings.markdown(results(), targets.lines(results(), tmp_path))
    assert "- MailDev: not installed" in text
    assert "p99" in text
    assert "used 1.5 cores" in text
    assert findings.disturbed(0.1) == ""
    pictures = findings.pictures(results())
    assert set(pictures) == {"bench", "bench-cpu", "bench-latency"}
    assert all(picture.startswith("<svg") for picture in pictures.values())


def test_the_readme_has_a_place_for_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(readme.README.read_text())
    monkeypatch.setattr(readme, "README", copy)
    readme.fill(results())
    once = copy.read_text()
    readme.fill(results())
    assert copy.read_text() == once
    assert "thrown away" in once
    copy.write_text("nothing")
    with pytest.raises(SystemExit, match="no place"):
        readme.fill(results())


def test_scenarios_are_asked_for_by_name() -> None:
    some, extra = ways.chosen(False, "kept,latency")
    assert [one.name for one in some] == ["kept"]
    assert extra == {"latency"}
    with pytest.raises(ValueError, match="no scenario nonsense"):
        ways.chosen(False, "nonsense")
    each = next(one for one in ways.SCENARIOS if one.name == "each-mailbox")
    assert each.words().count("--to") == each.copies == 100
    assert "--one-each" not in each.words()


def test_a_stamped_mail_differs_in_its_message_id_alone() -> None:
    for mail in corpus("4000", count=3):
        before, after = halves(mail.wire)
        stamped = before + stamp("abc", 7) + after
        assert len(stamped) == len(mail.wire)
        assert b"Message-ID: <abc-0000000000000007@" in stamped
        assert [a for a, b in zip(stamped.split(b"\r\n"), mail.wire.split(b"\r\n"), strict=True) if a != b] == [
            line for line in stamped.split(b"\r\n") if line.startswith(b"Message-ID")
        ]


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_reply_of_many_lines_is_whole_at_its_last(kind: str) -> None:
    code = EXPECTED[kind]
    reply = code + b"-one\r\n" + code + b" two\r\n"
    assert [replies.end_of(reply[:size]) for size in range(len(reply))] == [0] * len(reply)
    assert replies.end_of(reply + b"250 more\r\n") == len(reply)
    assert replies.fault(kind, reply) == ""
    assert "wrong code" in replies.fault(kind, b"999 no\r\n")
    assert "more than" in replies.fault(kind, b"x" * 5000, whole=False)


class Absent(Peer):
    def __init__(self) -> None:
        super().__init__("absent", "nothing")
        self.ended = 0

    def start(self) -> None:
        self._running.callback(self._end)
        raise Missing("it is not here")

    def _end(self) -> None:
        self.ended += 1


def test_a_peer_that_does_not_start_leaves_nothing_behind() -> None:
    peer = Absent()
    with pytest.raises(Missing), peer:
        pass
    assert peer.ended == 1


def test_what_was_sent_is_known_again_by_its_number() -> None:
    sent = Sent("abc", range(1000))
    assert len(sent.samples()) == 3
    mail = corpus("4000")[5]
    assert len(sent.content(205)) == len(mail.content)
    assert b"Message-ID: <abc-0000000000000205@" in sent.content(205)
    assert Sent("abc", []).samples() == []


def test_two_generators_at_once_keep_their_ledgers_apart() -> None:
    with TrivialSink() as port, ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(generate, port, ["--messages", str(count), "--sessions", "2"], f"t{count}", 60.0)
            for count in (20, 30)
        ]
        answers = [one.result() for one in both]
    for (form, sent), count in zip(answers, (20, 30), strict=True):
        assert form["messages"] == count
        assert (sent.label, sorted(sent.numbers)) == (f"t{count}", list(range(count)))
        assert sent.kind == "4000"
        assert form["began"] <= sent.last == form["ended"]


def test_when_the_last_was_accepted() -> None:
    assert Sent("x", [1, 2, 3], [3.0, 5.0, 4.0]).last == 5.0
    assert Sent("x", []).last == 0.0


def test_memory_of_a_process_is_known_and_of_none_is_none() -> None:
    assert peak_mib(os.getpid()) > 1
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert peak_mib(ended.pid) == 0.0


def test_a_mistake_in_the_command_line_is_one_line() -> None:
    command = [sys.executable, str(ROOT / "bench" / "compare.py"), "--only", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "no scenario nonsense" in done.stderr.splitlines()[-1]
