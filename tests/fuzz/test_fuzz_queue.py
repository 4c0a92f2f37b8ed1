"""The queues against a model: whatever workers, operators, crashes and the clock do, in any order.

The model is a list of entries and the rules of ``ports.Queue`` and ``docs/queue.md``; it is compared with the queue
after each step. Time passes on SQLite's clock, which is ours, and on Redis by moving the ends of leases and pauses.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from prometheus_client import CollectorRegistry
from servers import server_folder
from spooled_samples import DEADLINE, IDS, octets, spooled
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread

from mailfarm.backends.redis_link import RedisLink
from mailfarm.backends.redis_queue import RedisQueue
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue as SqliteQueue
from mailfarm.errors import LeaseLost, NotFound
from mailfarm.ports import CHUNK

MAX_TRIES = 4
LOST = "the worker went away"
LEASE = 15.0
PAUSE = 25.0
STEPS = st.sampled_from([10.0, 20.0, 40.0])
"""No two ends and no moment at which somebody looks ever meet: the server's own clock runs meanwhile."""


class OnSqlite:
    """A file, and a process that dies: its leases end with it."""

    leases_end_with_the_process = True

    async def open(self) -> None:
        self.folder = server_folder()
        self.now = 1_700_000_000_000_000
        self._start()

    def _start(self) -> None:
        self.engine = Engine(self.folder / "queue.sqlite", clock=lambda: self.now, deliver=reactor.callFromThread)
        self.queue = SqliteQueue(
            self.engine, "q", IDS, lambda: self.now, reactor=reactor, max_tries=MAX_TRIES, reserve=0
        )

    async def pass_by(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)

    async def crash(self) -> None:
        await self.engine.close()
        self._start()
        await self.queue.done(["1.nobodys"])  # behind what it does when it opens

    async def close(self) -> None:
        await self.engine.close()
        shutil.rmtree(self.folder)


class OnRedis:
    """A server that stays; another process goes on."""

    leases_end_with_the_process = False

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        self.name = IDS.new()
        self.link = RedisLink(self._url, reactor, connections=3)
        await self.link.start()
        assert await self.link.ready(DEADLINE)
        await self._start()

    async def _start(self) -> None:
        self.queue = RedisQueue(self.link, self.name, IDS, lambda: 0, reactor, CollectorRegistry(), max_tries=MAX_TRIES)
        await self.queue.start()

    async def pass_by(self, seconds: float) -> None:
        for name in ("leased", "due"):
            key = f"mailfarm:{{{self.name}}}:{name}"
            for number in await self.link.command("ZRANGE", key, "0", "-1"):
                await self.link.command("ZINCRBY", key, str(-int(seconds * 1_000_000)), number)

    async def crash(self) -> None:
        await self.queue.stop()
        await self._start()

    async def close(self) -> None:
        await self.queue.stop()
        await self.link.stop()


@dataclass
class Known:
    """An entry as the model knows it. ``ends``: of its lease, or of its pause, 0 for none."""

    id: str
    content: bytes
    state: str = "waiting"
    tries: int = 0
    fence: str = ""
    ends: float = 0.0
    reason: str = ""


class Machine(RuleBasedStateMachine):
    def __init__(self, store: Callable[[], Any]) -> None:
        super().__init__()
        self.store = store()
        self.entries: list[Known] = []
        self.fences: list[str] = []
        self.ended: list[str] = []
        self.now = 0.0

    def do(self, work: Any) -> Any:
        async def run() -> Any:
            return await work

        return blockingCallFromThread(reactor, lambda: Deferred.fromCoroutine(run()).addTimeout(DEADLINE, reactor))

    @property
    def queue(self) -> Any:
        return self.store.queue

    @initialize()
    def begin(self) -> None:
        self.do(self.store.open())

    def held(self, fence: str) -> Known | None:
        """The entry of a fence that is good: nobody else was given it, and it was not set aside."""
        return next((each for each in self.entries if each.fence == fence and each.state != "aside"), None)

    def some_fence(self) -> st.SearchStrategy[str]:
        """A good one as a rule, and now and then any that ever was."""
        good = [each.fence for each in self.entries if each.fence and each.state != "aside"]
        return st.sampled_from(good * 3 + self.fences) if good else st.sampled_from(self.fences)

    # rules

    @rule(size=st.sampled_from([0, 1, 100, CHUNK, CHUNK + 1]))
    def put(self, size: int) -> None:
        content = bytes([len(self.entries) % 251]) * size
        mail = spooled(content)
        self.do(self.queue.put(mail))
        self.entries.append(Known(mail.id, content))

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        """The same id twice is one entry, whatever has become of it."""
        known = data.draw(st.sampled_from(self.entries))
        self.do(self.queue.put(spooled(known.content, id=known.id)))

    @rule(limit=st.sampled_from([1, 2, 10]))
    def take(self, limit: int) -> None:
        for each in self.entries:
            if each.state == "leased" and each.ends <= self.now:
                each.state = "aside" if each.tries >= MAX_TRIES else "waiting"
                each.ends, each.reason = 0.0, LOST
            elif each.state == "waiting" and each.ends and each.ends <= self.now:
                each.ends = 0.0
        wanted = [each for each in self.entries if each.state == "waiting" and not each.ends][:limit]
        for at, each in enumerate(wanted):
            if each.tries >= 2 and each.reason == LOST:  # it may have killed its worker: it goes alone
                wanted = wanted[: at or 1]
                break
        attempts = self.do(self.queue.take(limit, LEASE))
        assert [attempt.spooled.id for attempt in attempts] == [each.id for each in wanted]
        for attempt, each in zip(attempts, wanted, strict=True):
            assert self.do(octets(attempt.spooled)) == each.content
            each.state, each.tries, each.fence, each.ends = "leased", each.tries + 1, attempt.fence, self.now + LEASE
            assert attempt.tries == each.tries
            self.fences.append(attempt.fence)

    @precondition(lambda self: self.fences)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        fence = data.draw(self.some_fence())
        known = self.held(fence)
        if known is None:
            with pytest.raises(LeaseLost):
                self.do(self.queue.extend(fence, LEASE))
        else:
            self.do(self.queue.extend(fence, LEASE))
            known.state, known.ends = "leased", self.now + LEASE

    @precondition(lambda self: self.fences)
    @rule(data=st.data(), many=st.integers(1, 3))
    def done(self, data: st.DataObject, many: int) -> None:
        fences = [data.draw(self.some_fence()) for _ in range(many)]
        self.do(self.queue.done(fences))
        for fence in fences:
            if (known := self.held(fence)) is not None:
                self.entries.remove(known)
                self.ended.append(known.id)

    @precondition(lambda self: self.fences)
    @rule(data=st.data(), after=st.sampled_from([0.0, PAUSE]))
    def fail(self, data: st.DataObject, after: float) -> None:
        fence = data.draw(self.some_fence())
        known = self.held(fence)
        if known is None:
            with pytest.raises(LeaseLost):
                self.do(self.queue.fail(fence, "no", after))
            return
        self.do(self.queue.fail(fence, "no", after))
        known.fence, known.reason = "", "no"
        aside = known.tries >= MAX_TRIES
        known.state, known.ends = ("aside", 0.0) if aside else ("waiting", self.now + after if after else 0.0)

    @precondition(lambda self: self.fences)
    @rule(data=st.data(), reason=st.sampled_from(["", "held"]), after=st.sampled_from([0.0, PAUSE]))
    def give_back(self, data: st.DataObject, reason: str, after: float) -> None:
        fence = data.draw(self.some_fence())
        known = self.held(fence)
        self.do(self.queue.give_back([fence], reason, after))
        if known is not None:
            known.state, known.fence, known.tries = "waiting", "", known.tries - 1
            known.ends, known.reason = (self.now + after if after else 0.0), reason or known.reason

    @precondition(lambda self: self.entries or self.ended)
    @rule(data=st.data(), verb=st.sampled_from(["requeue", "drop"]))
    def decide(self, data: st.DataObject, verb: str) -> None:
        id = data.draw(st.sampled_from([each.id for each in self.entries] + self.ended[-3:]))
        known = next((each for each in self.entries if each.id == id and each.state == "aside"), None)
        if known is None:
            with pytest.raises(NotFound):
                self.do(getattr(self.queue, verb)(id))
            return
        self.do(getattr(self.queue, verb)(id))
        if verb == "drop":
            self.entries.remove(known)
        else:
            known.state, known.tries, known.fence, known.reason, known.ends = "waiting", 0, "", "", 0.0

    @rule(seconds=STEPS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.store.pass_by(seconds))

    @rule()
    def a_worker_loses_all(self) -> None:
        """It takes what it can and is never heard of again, until each has had its tries."""
        for _ in range(MAX_TRIES):
            self.take(10)
            self.time_passes(20.0)

    @rule()
    def crash(self) -> None:
        self.do(self.store.crash())
        if self.store.leases_end_with_the_process:
            for each in self.entries:
                if each.state == "leased":
                    each.state = "aside" if each.tries >= MAX_TRIES else "waiting"
                    each.ends, each.reason = 0.0, LOST

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        if not hasattr(self.store, "queue"):
            return
        depth = self.do(self.queue.depth())
        counted = dict.fromkeys(("waiting", "leased", "aside"), 0)
        for each in self.entries:
            counted[each.state] += 1
        assert {"waiting": depth.waiting, "leased": depth.leased, "aside": depth.aside} == counted
        for state in counted:
            expected = [(e.id, e.tries, e.reason, len(e.content)) for e in self.entries if e.state == state]
            found = self.do(self.queue.inspect(state))
            assert [(e.id, e.tries, e.reason, e.size) for e in found] == expected
            assert all((e.until is None) == (not known.ends) for e, known in self._pairs(found))

    def _pairs(self, found: Any) -> list[tuple[Any, Known]]:
        known = {each.id: each for each in self.entries}
        return [(entry, known[entry.id]) for entry in found]

    def teardown(self) -> None:
        if hasattr(self.store, "queue"):
            self.do(self.store.close())


SETTINGS = settings(
    max_examples=max(1, settings().max_examples // 5),
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)


@pytest_twisted.ensureDeferred
async def test_sqlite() -> None:
    await deferToThread(run_state_machine_as_test, lambda: Machine(OnSqlite), settings=SETTINGS)


@pytest_twisted.ensureDeferred
async def test_redis(redis: Any) -> None:
    await deferToThread(run_state_machine_as_test, lambda: Machine(lambda: OnRedis(redis.url)), settings=SETTINGS)
