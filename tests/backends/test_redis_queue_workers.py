"""Several workers and processes at one queue on Redis: who gets what, and what counts as a try."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytest_twisted
from redis_house import Working, server
from spooled_samples import DEADLINE, IDS, LONG, soon, spooled, start
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from mailfarm.backends import queue_taking
from mailfarm.errors import QueueUnavailable
from mailfarm.ports import Depth


def worker(url, lease):
    """A process that takes one entry and waits to be told to go on."""
    command = [sys.executable, str(Path(__file__).with_name("taking_child.py")), url, str(lease)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest_twisted.ensureDeferred
async def test_a_worker_that_was_stopped_past_its_lease_ends_nothing(own):
    child = worker(own.url, 1.0)
    async with Working(own.url) as queue:
        mail = spooled()
        await queue.put(mail)
        assert child.stdout is not None
        assert child.stdin is not None
        assert (await deferToThread(child.stdout.readline)).strip() == mail.id
        child.send_signal(signal.SIGSTOP)
        (attempt,) = await soon(start(queue.take(1, LONG, DEADLINE)))
        assert (attempt.spooled.id, attempt.tries) == (mail.id, 2)
        child.send_signal(signal.SIGCONT)
        said, _ = await deferToThread(child.communicate, "go on\n", DEADLINE)
        assert said.split() == ["LeaseLost", "LeaseLost", "done"]
        assert (await queue.depth()).leased == 1
        await queue.done([attempt.fence])
        assert await queue.depth() == Depth(0, 0, 0, None)


@pytest_twisted.ensureDeferred
async def test_two_processes_share_the_work(own):
    async with Working(own.url) as one, Working(own.url) as other:
        ids = [IDS.new() for _ in range(300)]
        taking = [start(queue.take(300, LONG, 600.0)) for queue in (one, other)]
        await one.take(1, LONG)
        await gatherResults([start(one.put(spooled(id=id))) for id in ids])
        taken = []
        while len(taken) < 300:
            for queue in (one, other):
                taken += [attempt.spooled.id for attempt in await queue.take(10, LONG)]
            taken += [a.spooled.id for each in taking if each.called and each.result for a in each.result]
            taking = [each for each in taking if not each.called]
        assert sorted(taken) == sorted(ids)
        for each in taking:
            each.addErrback(lambda failure: failure.trap(CancelledError))
            each.cancel()
        assert own.ask("xinfo", "consumers", "mailfarm:{inbound}:entries", "workers").count("name") == 1


@pytest_twisted.ensureDeferred
async def test_a_put_in_one_process_wakes_a_worker_in_another_at_once(own):
    async with Working(own.url) as one, Working(own.url) as other:
        took = []
        for _ in range(20):
            waiting = start(other.take(1, LONG, 600.0))
            await other.take(1, LONG)
            await one.put(spooled())
            began = time.monotonic()
            (attempt,) = await soon(waiting)
            took.append(time.monotonic() - began)
            await other.done([attempt.fence])
        assert sorted(took)[10] < 0.2, "not by looking twice a second"


@pytest.mark.parametrize("shards", [1, 2])
@pytest_twisted.ensureDeferred
async def test_whoever_was_in_the_same_hands_as_a_killer_is_not_set_aside(component, shards):
    component("redis-server")
    with server() as first, server() as second:
        async with Working(*[first.url, second.url][:shards], max_tries=4) as queue:
            killer, *others = [spooled() for _ in range(8)]
            for mail in (killer, *others):
                await queue.put(mail)
            done = set()
            while len(done) < len(others) or not (await queue.depth()).aside:
                attempts = await soon(start(queue.take(10, 0.3, 0.5)))
                ids = [attempt.spooled.id for attempt in attempts]
                if killer.id not in ids:
                    await queue.done([attempt.fence for attempt in attempts])
                    done |= set(ids)
            assert done == {mail.id for mail in others}
            (entry,) = await queue.inspect("aside")
            assert entry.id == killer.id


async def away_for_longer_than_a_lease(queue, own, how):
    if how == "refusing":  # as behind Sentinel while the replica is away
        own.ask("config", "set", "min-replicas-to-write", "1")
    else:
        own.kill()
    ends = time.monotonic() + 1.0
    while time.monotonic() < ends:
        with pytest.raises(QueueUnavailable):
            await queue.take(1, 0.6)
        await deferLater(reactor, 0.05)
    if how == "refusing":
        own.ask("config", "set", "min-replicas-to-write", "0")
    else:
        own.start()


async def take_again(queue, lease):
    while True:
        try:
            if attempts := await queue.take(1, lease, DEADLINE):
                return attempts[0]
        except QueueUnavailable:
            await deferLater(reactor, 0.01)


@pytest.mark.parametrize("how", ["refusing", "killed"])
@pytest_twisted.ensureDeferred
async def test_a_lease_that_ended_because_the_server_was_away_is_no_try(own, how):
    async with Working(own.url, max_tries=2) as queue:
        mail = spooled()
        await queue.put(mail)
        assert (await take_again(queue, 0.6)).tries == 1
        for _ in range(3):
            await away_for_longer_than_a_lease(queue, own, how)
            attempt = await soon(start(take_again(queue, 0.6)))
            assert (attempt.spooled.id, attempt.tries) == (mail.id, 1)
    async with Working(own.url, max_tries=2) as queue:  # a process that starts excuses nobody
        assert (await soon(start(take_again(queue, 0.1)))).tries == 2
        assert list(await queue.take(1, LONG, 0.5)) == []
        (entry,) = await queue.inspect("aside")
        assert entry.reason == "the worker went away"


@pytest_twisted.ensureDeferred
async def test_a_take_that_was_cancelled_does_not_count_as_a_try(own):
    async with Working(own.url) as queue:
        await queue.put(spooled())
        for _ in range(3):
            taking = start(queue.take(1, LONG))
            taking.addErrback(lambda failure: failure.trap(CancelledError))
            taking.cancel()
            await taking
        (attempt,) = await soon(start(queue.take(1, LONG, DEADLINE)))
        assert attempt.tries == 1


@pytest_twisted.ensureDeferred
async def test_who_waits_in_an_empty_queue_knows_when_a_lease_ends(own, monkeypatch):
    monkeypatch.setattr(queue_taking, "LOOK", 600.0)
    async with Working(own.url) as queue:
        mail = spooled()
        await queue.put(mail)
        await queue.take(1, 0.2)
        (attempt,) = await soon(start(queue.take(1, LONG, 600.0)))
        assert (attempt.spooled.id, attempt.tries) == (mail.id, 2)
        waiting = start(queue.take(1, LONG, 600.0))
        await queue.extend(attempt.fence, 0.2)
        (attempt,) = await soon(waiting)
        await queue.take(1, LONG)
        await queue.fail(attempt.fence, "later", 0.2)
        (attempt,) = await soon(start(queue.take(1, LONG, 600.0)))
        assert attempt.tries == 4
