"""The queue on Redis when Redis is killed, stalled, full, emptied, or set up to lose mail."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
import pytest_twisted
from redis_house import Working, server, take_all
from servers import free_port
from spooled_samples import DEADLINE, LONG, octets, soon, spooled, start, until
from twisted.internet.defer import DeferredList, gatherResults

from mailfarm.backends import redis_queue, redis_queue_puts
from mailfarm.errors import LeaseLost, QueueFull, QueueUnavailable, TooLarge
from mailfarm.net.tls import dev_certificate
from mailfarm.ports import CHUNK, Depth

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
            with pytest.raises(TooLarge, match="can ever hold, which is 10066329"):
                await queue.admit(20_000_000)
            with pytest.raises(QueueFull, match="mail is taken up to 80%"):
                await queue.admit(10_000_000)
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


# What its system calls say


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
