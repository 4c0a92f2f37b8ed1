"""Requests stand in line where the API shares its process with listeners."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from farm_api import Browser, pump
from prometheus_client import CollectorRegistry
from running import Running, get
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from mailfarm.net.problems import Problem
from mailfarm.services.api import line as lines
from mailfarm.services.api.line import MOST, PATIENCE, REST, Line

ensure = pytest_twisted.ensureDeferred


class Asked:
    """A request, and the work on it: it ends when the test says so."""

    def __init__(self, line: Line, method: bytes = b"GET") -> None:
        self.method = method
        self.give_way: Any = None
        self.begun = False
        self.work: Deferred[str] = Deferred()
        self.answer = Deferred.fromCoroutine(line.answer(self, self._begin))
        self.problems: list[Any] = []
        self.answer.addErrback(lambda failure: self.problems.append(failure.value))

    def _begin(self) -> Deferred[str]:
        self.begun = True
        return self.work


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def line(clock: Clock) -> Line:
    return Line(clock, CollectorRegistry())


def test_who_finds_nobody_in_line_is_answered_at_once(line: Line, clock: Clock) -> None:
    for _ in range(3):
        asked = Asked(line)
        assert asked.begun
        asked.work.callback("well")
        assert asked.answer.result == "well"
    assert not clock.getDelayedCalls()


def test_one_is_worked_on_at_a_time_and_the_next_begins_a_moment_later(line: Line, clock: Clock) -> None:
    first, second, third = (Asked(line) for _ in range(3))
    assert (first.begun, second.begun, len(line)) == (True, False, 2)
    clock.advance(0.005)
    first.work.callback("well")
    assert not second.begun  # what has come in meanwhile goes first
    late = Asked(line)
    assert not late.begun
    clock.advance(0.005 * REST)
    assert (second.begun, third.begun, late.begun) == (True, False, False)
    second.work.callback("well")
    clock.advance(0)
    assert (third.begun, late.begun) == (True, False)


def test_one_that_takes_long_is_not_waited_for(line: Line, clock: Clock) -> None:
    slow, second = Asked(line), Asked(line)
    clock.advance(PATIENCE)
    clock.advance(PATIENCE * REST)
    assert second.begun
    slow.work.callback("late")
    assert slow.answer.result == "late"
    third = Asked(line)
    assert not third.begun  # the end of the slow one is not the end of the second
    second.work.callback("well")
    clock.advance(0)
    assert third.begun


def test_one_that_only_waits_gives_way(line: Line, clock: Clock) -> None:
    waits, second = Asked(line), Asked(line)
    waits.give_way()
    clock.advance(0)
    assert second.begun


def test_one_that_changes_something_waits_for_the_disk_with_others(line: Line, clock: Clock) -> None:
    changes = [Asked(line, b"POST") for _ in range(3)]
    for _ in changes:
        clock.advance(0)
    assert all(each.begun for each in changes)
    assert not any(each.answer.called for each in changes)


def test_who_fails_or_goes_away_holds_nobody_up(line: Line, clock: Clock) -> None:
    first, gone, third, fourth = (Asked(line) for _ in range(4))
    gone.answer.cancel()
    assert isinstance(gone.problems[0], CancelledError)
    assert not gone.begun
    first.work.errback(ValueError("no"))
    assert isinstance(first.problems[0], ValueError)
    clock.advance(0)
    assert third.begun
    third.answer.cancel()
    clock.advance(0)
    assert fourth.begun
    fourth.work.callback("well")
    assert len(line) == 0


def test_a_line_that_is_too_long_is_answered_503(line: Line) -> None:
    asked = [Asked(line) for _ in range(MOST + 1)]
    assert len(line) == MOST
    refused = Asked(line)
    [problem] = refused.problems
    assert isinstance(problem, Problem)
    assert (problem.kind.name, problem.kind.status, problem.headers) == ("busy", 503, {"Retry-After": "1"})
    assert not refused.begun
    assert not asked[-1].problems


class Watched:
    """A database, and how many reads of it were under way at once."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self._under_way = self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def read(self, work: Any, *, once: bool = False) -> Any:
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        return self._database.read(work, once=once).addBoth(self._over)

    def _over(self, result: Any) -> Any:
        self._under_way -= 1
        return result


@pytest.mark.parametrize("shared", [True, False])
@ensure
async def test_beside_listeners_one_request_is_under_way_and_by_itself_any(farm, shared, monkeypatch):
    monkeypatch.setattr(lines, "PATIENCE", 1000.0)
    database = Watched(farm.database)
    ask = Browser(farm.api(database=database, shared=shared))
    path = f"/v1/mailboxes/{(await ask('POST', '/v1/mailboxes', {})).json['id']}/messages"
    asked = [ask.start("GET", path) for _ in range(10)]
    ask.agent.flush()
    for each in asked:
        assert (await ask.finish("GET", path, each)).status == 200
    assert (database.most == 1) == shared


@ensure
async def test_waits_and_streams_hold_up_nobody_in_line(farm, monkeypatch):
    monkeypatch.setattr(lines, "PATIENCE", 1000.0)
    ask = Browser(farm.api(shared=True))
    box = (await ask("POST", "/v1/mailboxes", {})).json
    path = f"/v1/mailboxes/{box['id']}"
    waiting = ask.start("GET", f"{path}/wait?timeout=20")
    streaming = ask.start("GET", f"{path}/events?after=0", accept="text/event-stream")
    await pump(lambda: len(farm.feeds) == 2, ask.agent.flush)
    assert (await ask("GET", path)).status == 200
    id = await farm.file(box)
    found = (await ask.finish("GET", f"{path}/wait", waiting)).json
    assert [one["id"] for one in found["messages"]] == [id]
    streaming.cancel()


def test_a_mailfarm_dev_has_such_a_line() -> None:
    with Running(MAILFARM_LOG_LEVEL="error") as running:
        assert "\nmailfarm_api_in_line 0.0\n" in get(f"{running.url}/metrics")[1]
