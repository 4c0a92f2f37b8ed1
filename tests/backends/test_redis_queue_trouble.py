"""The queue on Redis when Redis is killed, stalled, full, emptied, or set up to lose mail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
import pytest_twisted
from redis_house import Working, calls, server, start
from servers import free_port
from spooled_samples import DEADLINE, IDS, octets, soon, spooled, until
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from mailfarm.backends import queue_taking, redis_queue, redis_queue_puts
from mailfarm.errors import LeaseLost, QueueFull, QueueUnavailable
from mailfarm.net.tls import dev_certificate
from mailfarm.ports import CHUNK, Depth

LONG = 60.0


@pytest.fixture
def own(component):
    component("redis-server")
    with server() as redis:
        yield redis
        if redis.process is not None:
            redis.signal(signal.SIGCONT)


async def take_all(queue, count=None):
    """Everything that is there, or until so many are."""
    taken = []
    while attempts := await queue.take(100, LONG, DEADLINE if count and len(taken) < count else 0.0):
        taken += attempts
    return taken


# Away and back


@pytest_twisted.ensureDeferred
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(own):
    acknowledged, unknown = [], []

    async with Working(own.url) as queue:

        async def putter(number):
            while len(unknown) < 20:
                mail = spooled(os.urandom(300_000 if number == 0 else 2000))
                try:
                    await queue.put(mail)
                    acknowledged.append(mail.id)
                except QueueUnavailable:
                    unknown.append(mail.id)
                    return

        putters = [start(putter(number)) for number in range(20)]
        await until(lambda: len(acknowledged) > 200)
        own.kill()
        await soon(DeferredList(putters, fireOnOneErrback=True))
        with pytest.raises(QueueUnavailable):
            await queue.admit(0)
        with pytest.raises(QueueUnavailable):
            await queue.put(spooled())
        with pytest.raises(QueueUnavailable):
            await queue.depth()
        own.start()
        began = time.monotonic()
        await until(lambda: queue.unavailable is None)
        assert time.monotonic() - began < 2, "a server that is back is used again soon"
        taken = {attempt.spooled.id for attempt in await take_all(queue)}
        assert set(acknowledged) <= taken <= {*acknowledged, *unknown}
        await queue.put(spooled())


@pytest_twisted.ensureDeferred
async def test_a_stalled_server_is_451_in_time_and_works_again(own):
    async with Working(own.url, timeout=0.5) as queue:
        await queue.put(spooled())
        own.signal(signal.SIGSTOP)
        began = time.monotonic()
        puts = [start(queue.put(spooled(os.urandom(size)))) for size in (10, 10, 2 * CHUNK)]
        for put in puts:
            with pytest.raises(QueueUnavailable):
                await put
        assert time.monotonic() - began < 3
        with pytest.raises(QueueUnavailable):
            await queue.admit(0)
        with pytest.raises(QueueUnavailable):
            await queue.take(1, LONG, 600.0)
        own.signal(signal.SIGCONT)
        await until(lambda: queue.unavailable is None)
        await queue.put(spooled())
        assert len(await take_all(queue)) >= 2


@pytest_twisted.ensureDeferred
async def test_a_server_that_was_never_there():
    working = Working(f"redis://127.0.0.1:{free_port()}", ready=False)
    async with working as queue:
        for work in (queue.admit(0), queue.put(spooled()), queue.take(1, LONG), queue.depth(), queue.done(["1.x"])):
            with pytest.raises(QueueUnavailable):
                await work
        assert working.metric("mailfarm_queue_up") == 0


@pytest_twisted.ensureDeferred
async def test_a_waiting_worker_outlives_a_restart_of_the_server(own):
    async with Working(own.url) as queue:
        waiting = start(queue.take(1, LONG, 600.0))
        await queue.take(1, LONG)
        own.kill()
        with pytest.raises(QueueUnavailable):
            await soon(waiting)
        own.start()
        await until(lambda: queue.unavailable is None)
        waiting = start(queue.take(1, LONG, 600.0))
        mail = spooled()
        await queue.put(mail)
        (attempt,) = await soon(waiting)
        assert attempt.spooled.id == mail.id


# Full


@pytest_twisted.ensureDeferred
async def test_a_server_without_memory_is_full_and_can_be_emptied(component):
    component("redis-server")
    with server("--maxmemory", "12mb") as redis:
        working = Working(redis.url)
        async with working as queue:
            await queue.admit(0)
            with pytest.raises(QueueFull, match="mail is taken up to 80%"):
                await queue.admit(20_000_000)
            stored = 0
            said = ""
            while not said:
                try:
                    await queue.put(spooled(os.urandom(100_000)))
                    stored += 1
                except QueueFull as error:
                    said = str(error)
            assert "maxmemory" in said
            with pytest.raises(QueueFull):
                await queue.put(spooled(os.urandom(4 * CHUNK)))
            with pytest.raises(QueueFull):
                await queue.admit(0)
            await until(lambda: working.metric("mailfarm_queue_memory_share") > 0.8)
            taken = await take_all(queue)
            assert len(taken) == stored
            await queue.extend(taken[0].fence, LONG)
            await queue.fail(taken[0].fence, "again")
            await queue.done([attempt.fence for attempt in taken])
            assert len(await take_all(queue)) == 1

            async def admitted():
                while True:
                    try:
                        return await queue.admit(1000)
                    except QueueFull:
                        await until(lambda: True)

            await soon(admitted())
            await queue.put(spooled(os.urandom(100_000)))
            assert working.metric("mailfarm_queue_puts_total", outcome="full") == 2


@pytest_twisted.ensureDeferred
async def test_asking_for_room_costs_no_round_trip(own):
    async with Working(own.url) as queue:
        await queue.admit(0)
        before = calls(own)
        for _ in range(2000):
            await queue.admit(4096)
        after = calls(own)
        assert after.get("evalsha", 0) - before.get("evalsha", 0) < 20


# Large content


def pieces(redis):
    """The keys of large content."""
    return redis.ask("keys", "*:pieces:*").split()


class Halting:
    """Content whose end does not come."""

    size = 8 * CHUNK

    def __init__(self):
        self.rest = Deferred()

    async def chunks(self):
        for _ in range(5):
            yield os.urandom(CHUNK)
        await self.rest

    def close(self): ...


@pytest_twisted.ensureDeferred
async def test_large_content_without_an_entry_ends_by_itself_and_with_one_never_does(own):
    async with Working(own.url) as queue:
        await queue.put(spooled(os.urandom(3 * CHUNK)))
        (kept,) = pieces(own)
        assert own.ask("ttl", kept) == "-1"
        halting = Halting()
        putting = start(queue.put(replace(spooled(), content=halting)))
        putting.addErrback(lambda failure: failure.trap(OSError))
        await until(lambda: [own.ask("hlen", key) for key in pieces(own) if key != kept] == ["5"])
    halting.rest.errback(OSError("the process went away in the middle"))
    (left,) = [key for key in pieces(own) if key != kept]
    assert 0 < int(own.ask("ttl", left)) <= 600
    async with Working(own.url) as queue:
        (attempt,) = await take_all(queue)
        await queue.done([attempt.fence])
        assert pieces(own) == [left], "its content goes with the entry"


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest_twisted.ensureDeferred
async def test_content_that_cannot_be_read_leaves_nothing(own, after):
    async with Working(own.url) as queue:
        with pytest.raises(OSError, match="the file is gone"):
            await queue.put(spooled(os.urandom(8 * CHUNK), fail_after=after))
        await until(lambda: not pieces(own))
        assert await queue.depth() == Depth(0, 0, 0, None)


@pytest_twisted.ensureDeferred
async def test_a_large_put_that_is_cancelled_leaves_nothing(own):
    async with Working(own.url) as queue:
        putting = start(queue.put(spooled(os.urandom(40 * CHUNK))))
        putting.addErrback(lambda failure: failure.trap(CancelledError))
        await until(lambda: pieces(own))
        putting.cancel()
        await until(lambda: not pieces(own))


# What others do to it


@pytest_twisted.ensureDeferred
async def test_scripts_and_groups_and_everything_may_be_gone(own):
    async with Working(own.url) as queue:
        kept = spooled()
        await queue.put(kept)
        (leased,) = await queue.take(1, LONG)
        new = spooled()
        await queue.put(new)
        own.ask("script", "flush")
        own.ask("xgroup", "destroy", "mailfarm:{inbound}:entries", "workers")
        assert [attempt.spooled.id for attempt in await take_all(queue)] == [new.id], "what is leased stays leased"
        assert (await queue.depth()).leased == 2
        await queue.done([leased.fence])
        own.ask("flushall")
        assert await queue.depth() == Depth(0, 0, 0, None)
        assert await take_all(queue) == []
        await queue.put(kept)
        (again,) = await take_all(queue)
        with pytest.raises(LeaseLost):
            await queue.extend(leased.fence, LONG)
        await queue.done([again.fence])


@pytest_twisted.ensureDeferred
async def test_an_entry_nobody_can_read_is_set_aside(own):
    async with Working(own.url) as queue:
        good = spooled()
        await queue.put(good)
        name = "mailfarm:{inbound}"
        own.ask("xadd", f"{name}:entries", "7", "i", "bad", "t", "1", "z", "3", "f", "{}", "c", "abc")
        own.ask("hset", f"{name}:ids", "bad", "7")
        own.ask("hset", f"{name}:counts", "number", "7", "octets", "100")
        assert [attempt.spooled.id for attempt in await take_all(queue)] == [good.id]

        async def aside():
            while not await queue.inspect("aside"):
                pass
            return await queue.inspect("aside")

        (entry,) = await soon(aside())
        assert (entry.id, entry.sender, "not spooled mail" in entry.reason) == ("bad", "", True)
        await queue.drop("bad")


@pytest_twisted.ensureDeferred
async def test_what_a_newer_version_has_put_waits_for_it_and_is_never_set_aside(own, monkeypatch):
    """In an update listeners may be ahead of workers."""
    monkeypatch.setattr(redis_queue, "NEWER_PAUSE", 0.01)
    real = redis_queue_puts.to_form
    async with Working(own.url) as queue:
        monkeypatch.setattr(redis_queue_puts, "to_form", lambda spooled: real(spooled).replace(b'"v":1', b'"v":2'))
        newer = [spooled() for _ in range(3)]
        for mail in newer:
            await queue.put(mail)
        monkeypatch.setattr(redis_queue_puts, "to_form", real)
        good = spooled()
        await queue.put(good)
        (attempt,) = await queue.take(10, LONG)
        assert attempt.spooled.id == good.id
        await queue.done([attempt.fence])
        for _ in range(10):  # more often than there are tries
            assert list(await queue.take(10, LONG, 0.02)) == []
        entries = await queue.inspect("waiting")
        assert {entry.id for entry in entries} == {mail.id for mail in newer}
        assert {entry.tries for entry in entries} == {0}
        assert all("version 2" in entry.reason for entry in entries)
        read = redis_queue.from_form
        monkeypatch.setattr(
            redis_queue, "from_form", lambda form, content: read(form.replace(b'"v":2', b'"v":1'), content)
        )
        taken = []
        while len(taken) < 3:  # by a newer worker
            taken += await soon(start(queue.take(10, LONG, DEADLINE)))
        assert {attempt.tries for attempt in taken} == {1}


@pytest_twisted.ensureDeferred
async def test_fields_that_a_newer_version_has_added_are_passed_over(own, monkeypatch):
    real = redis_queue_puts.to_form

    def more(spooled):
        raw = orjson.loads(real(spooled))
        for each in (raw, raw["envelope"], raw["origin"], *raw["envelope"]["recipients"]):
            each["added"] = {"by": "a newer one"}
        return orjson.dumps(raw)

    async with Working(own.url) as queue:
        monkeypatch.setattr(redis_queue_puts, "to_form", more)
        mail = spooled()
        await queue.put(mail)
        (attempt,) = await queue.take(10, LONG)
        assert (attempt.spooled.envelope, attempt.spooled.origin) == (mail.envelope, mail.origin)


@pytest.mark.parametrize(
    ("setting", "value", "good", "says"),
    [
        ("appendonly", "no", "yes", "appendonly yes"),
        ("appendfsync", "everysec", "always", "appendfsync always"),
        ("no-appendfsync-on-rewrite", "yes", "no", "no-appendfsync-on-rewrite no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction", "noeviction"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_server_that_would_lose_mail_is_refused_until_it_is_mended(component, setting, value, good, says):
    component("redis-server")
    with server(f"--{setting}", value) as redis:
        working = Working(redis.url)
        async with working as queue:
            for work in (queue.admit(0), queue.put(spooled()), queue.depth()):
                with pytest.raises(QueueUnavailable, match=says):
                    await work
            assert working.metric("mailfarm_queue_up") == 0
            redis.ask("config", "set", setting, good)
            await until(lambda: queue.unavailable is None)
            await queue.put(spooled())
            await until(lambda: working.metric("mailfarm_queue_up") == 1)


@pytest_twisted.ensureDeferred
async def test_over_tls_with_a_user_that_may_do_little(component, tmp_path):
    """CONFIG, INFO and PUBLISH are not allowed: it cannot be checked, and there are no hints; the work is done."""
    component("redis-server")
    pair = dev_certificate(tmp_path / "tls", "localhost", datetime.now(UTC))
    port = free_port()
    options = [
        *("--tls-port", str(port), "--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)),
        *("--tls-auth-clients", "no", "--user", "farm", "on", ">secret", "~mailfarm:*", "resetchannels"),
        *("+@all", "-@admin", "-@dangerous"),
    ]
    with server(*options):
        url = f"rediss://farm@localhost:{port}"
        async with Working(url, password="secret", ca=str(pair.certificate)) as queue:
            waiting = start(queue.take(1, LONG, 600.0))
            await queue.take(1, LONG)
            async with Working(url, password="secret", ca=str(pair.certificate)) as other:
                mail = spooled(os.urandom(2 * CHUNK))
                await other.put(mail)
            (attempt,) = await soon(waiting)
            assert await octets(attempt.spooled) == await octets(mail)
            await queue.done([attempt.fence])
            await queue.admit(0)
            assert await queue.depth() == Depth(0, 0, 0, None)


# Workers


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
async def test_who_only_puts_listens_for_nothing_and_has_three_connections(own):
    def clients():
        return [line for line in own.ask("client", "list").splitlines() if "cmd=client" not in line]

    async with Working(own.url) as queue:
        await queue.admit(0)
        for _ in range(3):
            await queue.put(spooled())
        await queue.depth()
        assert own.ask("pubsub", "channels") == ""
        assert len(clients()) == 3
        taken = []
        while len(taken) < 3:
            taken += await queue.take(10, LONG)
        await until(lambda: own.ask("pubsub", "channels") != "")
        assert len(clients()) == 4


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


# Ends that go with a take


@pytest_twisted.ensureDeferred
async def test_an_end_whose_answer_is_lost_may_be_told_again(own):
    async with Working(own.url, timeout=0.5) as queue:
        first, second = spooled(), spooled()
        await queue.put(first)
        (attempt,) = await queue.take(1, LONG)
        await queue.put(second)
        own.signal(signal.SIGSTOP)
        ending = start(queue.done([attempt.fence], 600.0))
        with pytest.raises(QueueUnavailable):
            await queue.take(1, 0.1)
        with pytest.raises(QueueUnavailable):
            await ending
        own.signal(signal.SIGCONT)
        await until(lambda: queue.unavailable is None)
        await queue.done([attempt.fence])
        (again,) = await soon(start(queue.take(10, LONG, DEADLINE)))
        assert again.spooled.id == second.id, "leased to nobody, or not at all; the first one has ended once"
        await queue.done([attempt.fence, again.fence])
        assert await queue.depth() == Depth(0, 0, 0, None)


@pytest_twisted.ensureDeferred
async def test_what_the_server_had_not_ended_when_it_was_killed_comes_again(own):
    async with Working(own.url, timeout=0.5) as queue:
        mail = spooled()
        await queue.put(mail)
        (old,) = await queue.take(1, 0.1)
        ending = start(queue.done([old.fence], 600.0))
        own.kill()
        with pytest.raises(QueueUnavailable):
            await queue.take(1, LONG)
        with pytest.raises(QueueUnavailable):
            await ending
        own.start()
        await until(lambda: queue.unavailable is None)
        (again,) = await soon(start(queue.take(1, LONG, DEADLINE)))
        assert again.spooled.id == mail.id
        with pytest.raises(LeaseLost):
            await queue.extend(old.fence, LONG)
        ending = start(queue.done([old.fence], 600.0))
        assert list(await queue.take(1, LONG)) == []
        await ending
        assert (await queue.depth()).leased == 1, "another has it now"


@pytest_twisted.ensureDeferred
async def test_an_end_that_another_worker_overtook_ends_nothing(own):
    async with Working(own.url) as queue, Working(own.url) as other:
        await queue.put(spooled())
        (old,) = await queue.take(1, 0.05)
        (new,) = await soon(start(other.take(1, LONG, DEADLINE)))
        ending = start(queue.done([old.fence], 600.0))
        assert list(await queue.take(1, LONG)) == []
        await ending
        assert (await queue.depth()).leased == 1
        await other.done([new.fence])
        assert await queue.depth() == Depth(0, 0, 0, None)


@pytest_twisted.ensureDeferred
async def test_a_queue_that_stops_keeps_no_end_back(own):
    async with Working(own.url) as queue:
        await queue.put(spooled())
        (attempt,) = await queue.take(1, LONG)
        ending = start(queue.done([attempt.fence], 600.0))
        await queue.stop()
        assert ending.called
        assert await queue.depth() == Depth(0, 0, 0, None)


@pytest_twisted.ensureDeferred
async def test_a_thousand_ends_and_one_are_two_calls(own, monkeypatch):
    working = Working(own.url)
    async with working as queue:
        await gatherResults([start(queue.put(spooled())) for _ in range(1001)])
        taken = await take_all(queue, 1001)
        endings = [start(queue.done([attempt.fence], 600.0)) for attempt in taken]
        await queue.take(1, LONG)
        assert sum(ending.called for ending in endings) == 1000
        await queue.take(1, LONG)
        await gatherResults(endings)
        assert working.metric("mailfarm_queue_done_total") == 1001
        assert await queue.depth() == Depth(0, 0, 0, None)


# What it costs


@pytest_twisted.ensureDeferred
async def test_a_worker_asks_once_for_each_entry_that_comes_by_itself(own, monkeypatch):
    """Taking it is one call with the end of the one before. Nobody asks whether there is more when nobody was told."""
    monkeypatch.setattr(queue_taking, "LOOK", 600.0)
    working = Working(own.url)

    def asked(call):
        return working.metric("mailfarm_queue_call_seconds_count", call=call)

    async with working as queue, Working(own.url) as listener:
        filed = []

        async def worker():
            while True:
                for attempt in await queue.take(10, LONG, 600.0):
                    filed.append(attempt.spooled.id)
                    start(queue.done([attempt.fence], 600.0))

        workers = [start(worker()) for _ in range(2)]
        await until(lambda: own.ask("pubsub", "numsub", "mailfarm:{inbound}:entries:hint").split()[-1] == "1")
        await listener.put(spooled())
        await until(lambda: filed)
        before = asked("take")
        for number in range(20):
            await listener.put(spooled())
            await until(lambda number=number: len(filed) > number + 1)
        assert asked("take") - before == 20
        assert asked("done") == 0
        assert working.metric("mailfarm_queue_done_total") == 20
        for each in workers:
            each.addErrback(lambda failure: failure.trap(CancelledError))
            each.cancel()


@pytest_twisted.ensureDeferred
async def test_an_end_is_good_when_the_lease_is_over_and_the_next_take_is_told_it_first(own):
    async with Working(own.url) as queue:
        await queue.put(spooled())
        (attempt,) = await queue.take(1, 0.05)
        over = time.monotonic() + 0.1
        await until(lambda: time.monotonic() > over)
        ending = start(queue.done([attempt.fence], 600.0))
        assert list(await queue.take(10, LONG)) == [], "it has ended, and is not handed out again"
        await ending
        assert await queue.depth() == Depth(0, 0, 0, None)


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


@pytest_twisted.ensureDeferred
async def test_what_is_put_in_one_pass_is_one_call(own):
    working = Working(own.url)
    async with working as queue:
        await queue.put(spooled())
        before = working.metric("mailfarm_queue_put_entries_count")
        await gatherResults([start(queue.put(spooled())) for _ in range(150)])
        assert working.metric("mailfarm_queue_put_entries_count") - before == 1
        assert working.metric("mailfarm_queue_puts_total", outcome="stored") == 151


@pytest_twisted.ensureDeferred
async def test_depth_costs_the_same_with_ten_thousand_entries(own):
    async with Working(own.url) as queue:

        async def cost():
            own.ask("config", "resetstat")
            for _ in range(10):
                await queue.depth()
            ran = calls(own)
            ran.pop("config|resetstat", None)
            return sum(ran.values())

        await gatherResults([start(queue.put(spooled())) for _ in range(10)])
        few = await cost()
        await gatherResults([start(queue.put(spooled())) for _ in range(10_000)])
        attempts = await queue.take(500, LONG)
        await queue.fail(attempts[3].fence, "later", LONG)
        assert (await queue.depth()).waiting == 10_010 - len(attempts) + 1
        assert await cost() < few + 60, "the figures are read once a second too"
        assert len(await queue.inspect("waiting", 20)) == 20


def traced(command):
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@pytest_twisted.ensureDeferred
async def test_the_answer_comes_after_the_sync(own, component, tmp_path):
    """What the server's system calls say: the entry is written, then synced, and only then is the put answered."""
    seen = tmp_path / "calls"
    command = [str(component("strace")), "-f", "-s", "1000000", "-e", "trace=write,writev,sendto,fdatasync,fsync"]
    async with Working(own.url) as queue:
        await queue.put(spooled())
        tracing = traced([*command, "-o", str(seen), "-p", str(own.process.pid)])
        try:
            await until(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{own.process.pid}/status").read_text())
            mails = [spooled(os.urandom(size)) for size in (10, 2000, CHUNK + 1)]
            await gatherResults([start(queue.put(mail)) for mail in mails])
        finally:
            tracing.terminate()
            tracing.wait()
    lines = seen.read_text().splitlines()
    answers = [number for number, line in enumerate(lines) if "stored" in line and "XADD" not in line]
    assert answers
    for mail in mails:
        (written,) = [number for number, line in enumerate(lines) if "XADD" in line and mail.id in line][:1]
        synced = next(number for number, line in enumerate(lines) if number > written and "sync(" in line)
        answered = next(number for number in answers if number > written)
        assert written < synced < answered
