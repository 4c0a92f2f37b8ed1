"""Waits without I/O, against a small model of the server's wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from driving import BOX, STATE, Clock, answer, drive, problem, summary

from mailfarm.sdk import Farm, Inbox
from mailfarm.sdk.errors import ApiError, CannotConnect, NoSuchMailbox, UnexpectedMessage, WaitTimeout
from mailfarm.sdk.verbs import Criteria, Verbs
from mailfarm.sdk.waits import GRACE, Waits
from mailfarm.sdk.wire import Failure, Request, Response, Server

ALL = Criteria()


class Model:
    """A mailbox whose messages arrive at their times, and the server's wait for them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.server = Server("http://127.0.0.1:8025", reached=True)
        self.waits = Waits(Verbs(self.server, self.clock), STATE)
        self.arrivals: list[tuple[float, dict[str, Any]]] = []
        self.trouble: list[Response | Failure] = []

    def arrives(self, *subjects: str, after: float = 0.0) -> None:
        for subject in subjects:
            self.arrivals.append((self.clock.now + after, summary(len(self.arrivals) + 1, subject)))

    def serve(self, request: Request) -> Response | Failure:
        if self.trouble:
            return self.trouble.pop(0)
        if request.path.endswith(BOX["id"]):
            return answer(200, BOX | {"messages": len(self._here(self.clock.now))})
        query = dict(request.query)
        assert request.path == f"/v1/mailboxes/{BOX['id']}/wait"
        assert request.timeout == pytest.approx(float(query["timeout"]) + GRACE)
        begin, span = self.clock.now, float(query["timeout"])
        moments = sorted({begin, *(at for at, _ in self.arrivals if begin < at <= begin + span), begin + span})
        for moment in moments:
            here = self._here(moment)
            found = [m for m in here if m["seq"] > int(query["after"]) and query.get("subject", "") in m["subject"]]
            self.clock.now = moment
            cursor = max((m["seq"] for m in here), default=0)
            members = {"messages": found, "cursor": cursor}
            if "count" in query and len(found) >= int(query["count"]):
                return answer(200, members)
            most = 0 if "none" in query else int(query.get("exact", 10**6))
            if len(found) > most:
                return problem(409, "too-many-messages", **members)
        if "none" in query or len(found) == int(query.get("exact", -1)):
            return answer(200, members)
        near = [
            {"message": m, "failed": ["subject"]} for m in here if m not in found and m["seq"] > int(query["after"])
        ]
        return problem(408, "wait-timed-out", criteria={}, near_misses=near, refusals=[], **members)

    def _here(self, moment: float) -> list[dict[str, Any]]:
        return [m for at, m in self.arrivals if at <= moment]

    def wait(self, count: int = 1, timeout: float = 10, after: int | None = None, **rest: Any) -> list[str]:
        exact = rest.pop("exact", False)
        steps = self.waits.wait_for_all(count, Criteria(**rest), timeout, after, exact)
        found, self.asked = drive(steps, self.serve, self.clock)
        return [each.id for each in found]

    def none(self, within: float, after: int | None = None, **rest: Any) -> None:
        _, self.asked = drive(self.waits.assert_none(Criteria(**rest), within, after), self.serve, self.clock)


@pytest.fixture
def model() -> Model:
    return Model()


def test_what_is_there_answers_at_once(model: Model) -> None:
    model.arrives("Reset")
    assert model.wait(subject="Reset") == ["m1"]
    assert model.clock.now == 1000.0
    assert len(model.asked) == 1


def test_each_is_handed_out_once(model: Model) -> None:
    model.arrives("Reset", "Welcome", "Reset")
    model.arrives("Reset", after=3)
    assert [model.wait(subject="Reset")[0] for _ in range(3)] == ["m1", "m3", "m4"]
    assert model.clock.now == 1003.0
    with pytest.raises(WaitTimeout):
        model.wait(subject="Reset", timeout=1)


def test_other_criteria_find_what_was_passed_over(model: Model) -> None:
    model.arrives("Welcome", "Reset")
    assert model.wait(subject="Reset") == ["m2"]
    assert model.wait(subject="Welcome") == ["m1"]
    with pytest.raises(WaitTimeout):
        model.wait(timeout=1)


def test_what_other_criteria_were_handed_is_not_handed_out_again(model: Model) -> None:
    model.arrives("Reset", "Welcome", "Reset again")
    assert model.wait(subject="Welcome") == ["m2"]
    assert model.wait() == ["m1"]
    assert model.wait() == ["m3"]
    assert model.waits.handed.after(ALL) == 3


def test_after_looks_at_everything_after_it(model: Model) -> None:
    model.arrives("Reset", "Reset")
    assert model.wait(subject="Reset") == ["m1"]
    assert model.wait(subject="Reset", after=0) == ["m1"]
    assert model.wait(subject="Reset", after=1) == ["m2"]
    with pytest.raises(WaitTimeout, match="after number 2"):
        model.wait(subject="Reset", after=2, timeout=1)
    with pytest.raises(WaitTimeout):  # what after= handed out counts as handed out
        model.wait(subject="Reset", timeout=1)


def test_several_come_together_and_the_rest_is_left(model: Model) -> None:
    model.arrives("a", "b")
    model.arrives("c", "d", after=2)
    assert model.wait(3) == ["m1", "m2", "m3"]
    assert model.wait() == ["m4"]


def test_several_count_only_what_was_not_handed_out(model: Model) -> None:
    model.arrives("a", "b", "c")
    assert model.wait(subject="b") == ["m2"]
    model.arrives("d", after=1)
    assert model.wait(3) == ["m1", "m3", "m4"]


def test_too_few_are_handed_back(model: Model) -> None:
    model.arrives("a", "b")
    with pytest.raises(WaitTimeout, match="2 of 3 messages") as caught:
        model.wait(3, timeout=1)
    assert [m.id for m in caught.value.messages] == ["m1", "m2"]
    assert model.wait(2) == ["m1", "m2"]


def test_exact_waits_to_the_end(model: Model) -> None:
    model.arrives("a")
    model.arrives("b", after=1)
    assert model.wait(2, timeout=5, exact=True) == ["m1", "m2"]
    assert model.clock.now == 1005.0


def test_exact_fails_at_once_on_one_more(model: Model) -> None:
    model.arrives("a", "b")
    model.arrives("c", after=2)
    with pytest.raises(UnexpectedMessage, match="exactly 2 messages") as caught:
        model.wait(2, timeout=60, exact=True)
    assert len(caught.value.messages) == 3
    assert model.clock.now == 1002.0


def test_exact_does_not_count_what_was_handed_out(model: Model) -> None:
    model.arrives("a", "b", "c")
    assert model.wait(subject="b") == ["m2"]
    assert model.wait(2, timeout=3, exact=True) == ["m1", "m3"]


def test_none_passes_and_fails(model: Model) -> None:
    model.none(2)
    assert model.clock.now == 1002.0
    model.arrives("Oops", after=1)
    with pytest.raises(UnexpectedMessage, match=r"no message with subject 'O' .* but 1 did\n.*'Oops'"):
        model.none(60, subject="O")
    assert model.clock.now == 1003.0


def test_none_does_not_count_what_was_handed_out(model: Model) -> None:
    model.arrives("a", "b")
    model.wait(subject="b")
    model.wait(subject="a")
    model.none(1)
    with pytest.raises(UnexpectedMessage):
        model.none(1, after=0)


def test_skip_existing(model: Model) -> None:
    model.arrives("old")
    BOX["cursor"] = 1
    try:
        drive(model.waits.skip_existing(), model.serve, model.clock)
    finally:
        BOX["cursor"] = 0
    model.none(1)
    model.arrives("new", after=1)
    assert model.wait() == ["m2"]


def test_a_long_wait_is_chained(model: Model) -> None:
    model.arrives("late", after=200)
    assert model.wait(timeout=1000) == ["m1"]
    assert [dict(r.query)["timeout"] for r in model.asked] == ["60.000"] * 4
    model.none(150, subject="x")
    assert [dict(r.query)["timeout"] for r in model.asked] == ["60.000", "60.000", "30.000"]
    model.arrives("b")
    assert model.wait(1, timeout=100, exact=True) == ["m2"]
    assert model.clock.now == 1450.0


@pytest.mark.parametrize(
    "trouble",
    [
        Failure("cut", sent=True),
        Failure("refused", sent=False),
        problem(503, "stopping"),
        answer(429, None),
        answer(502, None),
        answer(504, None),
        answer(408, None),
    ],
)
def test_trouble_is_borne_until_the_deadline(model: Model, trouble: Any) -> None:
    model.arrives("Reset", after=5)
    model.trouble = [trouble] * 5
    assert model.wait() == ["m1"]
    model.trouble = [trouble] * 1000
    began = model.clock.now
    with pytest.raises((CannotConnect, ApiError)):
        model.wait(timeout=20)
    assert model.clock.now == pytest.approx(began + 20, abs=0.1)


def test_one_last_look_after_trouble(model: Model) -> None:
    """The server was away for the end of the wait; what came meanwhile is there."""
    model.arrives("Reset", after=9)
    model.trouble = [Failure("cut", sent=True)] * 8  # pauses of 0.1 0.2 0.4 0.8 1.6 2 2 2 s, then one to the deadline
    assert model.wait(timeout=9.2) == ["m1"]


def test_retry_after_is_heeded(model: Model) -> None:
    model.arrives("Reset")
    model.trouble = [answer(503, None, **{"retry-after": "3"})]
    assert model.wait() == ["m1"]
    assert model.clock.now == 1003.0


def test_nobody_there_is_said_at_once(model: Model) -> None:
    model.server.reached = False
    model.trouble = [Failure("Connection refused", sent=False)] * 2
    with pytest.raises(CannotConnect, match=r"http://127.0.0.1:8025 .*is `mailfarm dev` running"):
        model.wait(timeout=1000)
    assert model.clock.now == 1000.0


def test_no_mailbox_is_no_timeout(model: Model) -> None:
    model.trouble = [problem(404, "not-found")]
    with pytest.raises(NoSuchMailbox):
        model.wait()


def test_a_wait_in_vain_says_what_came(model: Model) -> None:
    model.arrives("Welcome\x1b[2J", "Reset")
    model.wait(subject="Reset")
    with pytest.raises(WaitTimeout) as caught:
        model.wait(subject="Reset", timeout=0.5)
    text = str(caught.value)
    assert text.startswith("no message with subject 'Reset' reached t-1@mailfarm.test within 0.5 s\n")
    assert "The mailbox holds 2 messages." in text
    assert "1 message was handed out before" in text
    assert "\x1b" not in text
    with pytest.raises(WaitTimeout) as caught:
        model.wait(subject="Goodbye", timeout=0.5)
    assert "'Welcome\\x1b[2J' from App <app@example.org> to t-1@mailfarm.test at 12:00:00Z: not the subject" in str(
        caught.value
    )
    assert isinstance(caught.value, AssertionError)
    assert caught.value.in_mailbox == 2
    assert [miss.failed for miss in caught.value.near_misses] == [("subject",), ("subject",)]


def test_a_wait_in_vain_shows_refusals(model: Model) -> None:
    refusal = {
        "type": "refused",
        "id": "r",
        "account": "a",
        "at": "2026-01-31T12:00:01Z",
        "service": "mx",
        "client": "127.0.0.1",
        "address": "t-1@mailfarm.test",
        "sender": "",
        "code": 552,
        "enhanced": "5.3.4",
        "text": "Too large",
        "lines": ["C: MAIL FROM:<> SIZE=9", "S: 552 5.3.4 Too large"],
    }
    model.trouble = [problem(408, "wait-timed-out", messages=[], cursor=0, near_misses=[], refusals=[refusal])]
    with pytest.raises(WaitTimeout) as caught:
        model.wait(timeout=0)
    assert "The mailbox is empty: nothing has arrived at all." in str(caught.value)
    assert "552 5.3.4 Too large (to t-1@mailfarm.test from <>, client 127.0.0.1)" in str(caught.value)
    assert "    C: MAIL FROM:<> SIZE=9" in str(caught.value)
    assert caught.value.refusals[0].code == 552


def test_two_that_wait_at_once_never_share(model: Model) -> None:
    """The second was answered with a message that the first has just claimed: it goes on to the next."""
    model.arrives("a")
    first = model.waits.wait_for_all(1, ALL, 5, None)
    second = model.waits.wait_for_all(1, ALL, 5, None)
    asked = next(first)
    next(second)
    assert isinstance(asked, Request)
    both = model.serve(asked)
    model.arrives("b")
    with pytest.raises(StopIteration) as done:
        first.send(both)
    assert [m.id for m in done.value.value] == ["m1"]
    again = second.send(both)
    assert isinstance(again, Request)
    with pytest.raises(StopIteration) as done:
        second.send(model.serve(again))
    assert [m.id for m in done.value.value] == ["m2"]


def test_a_count_of_none_is_a_mistake(model: Model) -> None:
    with pytest.raises(ValueError, match="assert_none"):
        model.wait(0)


@pytest.mark.parametrize(
    "wrong", [{"timeout": "x"}, {"timeout": None}, {"count": 1.5}, {"count": True}, {"after": "1"}]
)
def test_wrong_types_are_mistakes(model: Model, wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(wrong))} must be a "):
        model.wait(**wrong)


def test_times_that_cannot_be_are_mistakes(model: Model) -> None:
    for timeout in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout must be 0 seconds or more"):
            model.wait(timeout=timeout)
        with pytest.raises(ValueError, match="within must be 0 seconds or more"):
            model.none(timeout)
    with pytest.raises(ValueError, match="after must be 0 or more, not -1"):
        model.wait(after=-1)


def test_a_wait_in_vain_keeps_the_problem(model: Model) -> None:
    with pytest.raises(WaitTimeout) as caught:
        model.wait(timeout=1)
    assert caught.value.problem["type"].endswith("wait-timed-out")
    assert caught.value.problem["status"] == 408


def test_a_failure_shows_the_callers_line_last(model: Model) -> None:
    """pytest leaves out frames that have ``__tracebackhide__``."""
    inbox = Inbox(Farm("http://127.0.0.1:9"), STATE)
    inbox._waits = model.waits
    inbox.farm._send = model.serve
    model.arrives("Hello")
    for verb in (
        lambda: inbox.wait_for(subject="x", timeout=1),
        lambda: inbox.wait_for_all(2, timeout=1),
        lambda: inbox.assert_none(within=1),
    ):
        with pytest.raises(AssertionError) as caught:
            verb()
        shown = [entry for entry in caught.traceback if not entry.ishidden(caught)]
        assert {Path(str(entry.path)).name for entry in shown} == {Path(__file__).name}
