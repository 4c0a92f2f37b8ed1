"""The report: what it counts for whom, when it is a proof, and its page in a browser."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Chromium

from mailfarm.prove.command import write
from mailfarm.prove.faults import Fault, Tell
from mailfarm.prove.ledger import Attempt
from mailfarm.prove.oracle import Verdict, fates_of
from mailfarm.prove.page import page as page_of
from mailfarm.prove.report import Report
from mailfarm.prove.run import Injected, Proof
from mailfarm.prove.target import Target
from mailfarm.prove.traffic import COUNTS


class Nothing(Fault):
    family = "nothing"
    says = "nothing <at all>"

    def __init__(self, name: str, control: bool = False) -> None:
        self.name = name
        self.control = control

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        raise AssertionError


def attempt(number: int, outcome: Any = "acked") -> Attempt:
    return Attempt(f"m-{number}", "a@example.org", outcome, 250, "0" * 64, number, number + 0.5, "127.0.0.1:25")


def proof(*faults: Fault, there: int = 30) -> Proof:
    """Thirty messages, one a second, and a fault every ten seconds; the first ``there`` of them are there."""
    attempts = [attempt(number) for number in range(30)]
    found = Proof("processes", faults, attempts=attempts, verdict=Verdict(fates_of(attempts)))
    found.injected = [
        Injected(fault, number * 10.0, number * 10 + 3.0, 1.5 + number, told=["something"])
        for number, fault in enumerate(faults)
    ]
    for fate in found.verdict.fates.values():
        fate.copies = int(fate.id[2:]) < there
    return found


def test_a_message_counts_for_the_fault_that_began_last() -> None:
    report = Report("processes", 1)
    report.add(proof(Nothing("one"), Nothing("two"), Nothing("three"), there=25))
    rows = [(row.name, row.injected, row.acknowledged, row.lost, row.recovery) for row in report.rows.values()]
    assert rows == [("one", 1, 10, 0, [1.5]), ("two", 1, 10, 0, [2.5]), ("three", 1, 10, 5, [3.5])]
    assert [form["bound_95"] for form in report.form()["faults"]] == [0.3, 0.3, None]
    assert [line.split()[8] for line in report.text().splitlines()[2:5]] == ["0.3", "0.3", "-"]
    assert {(finding.kind, finding.fault) for finding in report.findings} == {("lost", "three")}
    assert not report.proved


def test_nothing_lost_is_a_proof_with_a_bound() -> None:
    report = Report("processes", 1)
    report.add(proof(Nothing("one")))
    assert report.proved
    assert report.total.bound == report.form()["bound_95"] == 0.1
    assert "0 lost of 30: at most 0.1 of it under these faults, with 95 % confidence (3/n)" in report.text()
    assert report.text().endswith("\nproved")


def test_a_control_must_lose_and_what_it_loses_is_no_finding() -> None:
    lost, kept = Report("processes", 1), Report("processes", 1)
    for report in (lost, kept):
        report.add(proof(Nothing("one")))
    of_control = proof(Nothing("control", control=True), there=20)
    of_control.consumers["sse 1"] = {"told": 20, "cuts": 0}
    of_control.verdict.missed["sse 1"] = ["a message that was lost"]
    lost.add(of_control)
    assert lost.consumers == {}
    kept.add(proof(Nothing("control", control=True)))
    assert lost.proved
    assert lost.total.lost == 0
    assert lost.total.says == "controls left out"
    assert lost.form()["faults"][1]["bound_95"] is None
    assert not kept.proved
    assert [(finding.kind, finding.fault) for finding in kept.findings] == [("control", "control")]


def test_a_control_alone_proves_what_it_can_and_nothing_at_all_proves_nothing() -> None:
    report = Report("processes", 1)
    assert not report.proved
    report.add(proof(Nothing("control", control=True), there=20))
    assert report.proved
    report.not_run(Nothing("one"), "no strace")
    assert not report.proved
    assert "no fault was injected but controls\nNOT proved" in report.text()


def test_a_fault_whose_turn_did_not_come_is_not_run() -> None:
    report, one, two = Report("processes", 1), Nothing("one"), Nothing("two")
    cut = proof(one, two)
    cut.injected.pop()
    report.add(cut)
    assert "not run: two: the time was over" in report.text()
    assert report.rows["one"].not_run == ""
    report.add(proof(two))
    report.not_run(one, "the time was over")
    assert [row.name for row in report.left_out] == []
    assert report.rows["one"].remarks == report.rows["two"].remarks == ["not as often as it should: the time was over"]


def test_there_is_no_bound_for_what_was_lost_and_none_above_all() -> None:
    report, lost = Report("processes", 1), Report("processes", 1)
    one = proof(Nothing("one"))
    one.verdict.fates = dict(list(one.verdict.fates.items())[:1])
    report.add(one)
    lost.add(proof(Nothing("one"), there=29))
    assert report.form()["bound_95"] == 1.0
    assert lost.form()["bound_95"] is None


def test_what_could_not_be_injected_is_said_and_counts_if_all_is_required() -> None:
    report = Report("processes", 1)
    report.add(proof(Nothing("one")))
    report.not_run(Nothing("two"), "no strace")
    assert "not run: two: no strace" in report.text()
    assert report.proved
    report.require_all = True
    assert not report.proved


def test_what_could_not_be_read_is_not_judged_and_voids_the_proof() -> None:
    report, one = Report("processes", 1), proof(Nothing("one"), there=20)
    one.verdict.unread = {"a@example.org": "nobody answers"}
    for fate in one.verdict.fates.values():
        fate.read = False
    report.add(one)
    said = report.text()
    assert [(finding.kind, finding.what) for finding in report.findings] == [
        ("unread", "a@example.org: nobody answers; acknowledged, and not judged: m-20, m-21, m-22, m-23, m-24, m-25, "
                   "m-26, m-27, m-28, m-29")]  # fmt: skip
    assert (report.total.lost, report.total.not_judged, report.total.bound) == (0, 10, 3 / 20)
    assert "10 not judged" in said
    assert "0 lost of 20" in said
    assert report.form()["faults"][0]["not_judged"] == 10
    assert "<div>10<small>not judged</small></div>" in page_of(report)
    assert not report.proved


def test_what_clients_counted_is_shown_and_who_is_never_heard_is_found() -> None:
    report, one = Report("processes", 1), proof(Nothing("one"))
    none = dict.fromkeys(COUNTS, 0)
    one.traffic.clients = {
        "mx": none | {"begun": 30, "acked": 28, "given_up": 2, "left_out": 7},
        "submission": none | {"begun": 15, "no_session": 15, "refused": 15},
    }
    report.add(one)
    assert [finding.kind for finding in report.findings] == ["silent"]
    assert "SILENT (one): submission: 15 messages were begun, 15 found no session" in report.text()
    assert "clients of mx: 30 begun, 7 left out, 0 without a session, 2 given up, 0 unfinished" in report.text()
    assert report.form()["clients"] == one.traffic.clients
    assert "<td>mx</td><td>30</td><td>7</td><td>0</td><td>2</td>" in page_of(report)
    report.add(proof(Nothing("two")))
    assert report.clients["mx"]["begun"] == 30


def test_what_broke_or_was_missed_is_found() -> None:
    report = Report("processes", 1)
    broken = proof(Nothing("one"))
    broken.broke = "TimeoutError: not healthy"
    broken.verdict.missed = {"sse x": list(range(30))}
    broken.verdict.mistold = {"sse x": ["change 3, message a: it is change 4"]}
    broken.verdict.gaps = {"a@example.org": [4]}
    broken.verdict.strays = ["x in a@example.org: not recognised"]
    report.add(broken)
    assert [finding.kind for finding in report.findings] == ["broke", "stray", "gap", "missed", "mistold"]
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more" in report.text()


@pytest.fixture(scope="module")
def chromium(component: Callable[[str], Path]) -> Iterator[Chromium]:
    browser = Chromium(component(next((n for n in ("chromium", "chromium-browser") if shutil.which(n)), "chromium")))
    yield browser
    browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_stands_alone_and_draws_what_the_report_says(chromium: Chromium, tmp_path: Path, scheme: Any) -> None:
    report = Report("processes", 1)
    report.add(proof(Nothing("one"), Nothing("two<script>alert(1)</script>"), there=25))
    report.not_run(Nothing("three"), "no <b>strace</b>")
    report.consumers["sse"] = {"consumers": 2, "told": 30, "again": 1, "missed": 0, "cuts": 3}
    write(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["total"]["lost"] == 5

    def look() -> None:
        asked: list[str] = []
        said: list[str] = []
        context = chromium.browser.new_context(color_scheme=scheme, viewport={"width": 1100, "height": 900})
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        url = (tmp_path / "report.html").as_uri()
        page.goto(url)
        assert page.locator("h1").inner_text() == "mailfarm prove: not proved"
        assert page.locator("#faults tr").count() == 5
        assert "two<script>alert(1)</script>" in page.locator("#faults").inner_text()
        assert "not run: no <b>strace</b>" in page.locator("#faults").inner_text()
        assert page.locator("#findings tr").count() == 5
        assert "acknowledged, and not readable" in page.locator("#findings").inner_text()
        bars = page.locator("#recovery rect")
        assert bars.count() == 4
        widths = [box["width"] for box in (bars.nth(n).bounding_box() for n in (0, 2)) if box]
        assert widths[1] / widths[0] == pytest.approx(2.5 / 1.5, rel=0.02)
        course = page.locator("svg.course")
        assert course.count() == 1
        assert course.locator("rect").count() == 2
        assert len(course.locator("path").first.get_attribute("d") or "") > 100
        assert page.locator("#consumers tr").nth(1).inner_text().split() == ["sse", "2", "30", "1", "0", "3"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert min(page.locator("svg").nth(n).bounding_box()["width"] for n in range(2)) >= 640
        assert page.locator("script").count() == 0
        assert asked == [url]
        assert said == []
        context.close()

    chromium.run(look)
