"""The way to Redis: what a URL may say, deadlines, coming back, TLS with ACL users, and nothing secret in sight."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from datetime import UTC, datetime
from hashlib import sha1

import pytest
import pytest_twisted
from redis_house import server
from servers import Redis, free_port, server_folder
from spooled_samples import DEADLINE, until
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogPublisher

from mailfarm.backends.redis_connection import READ, READ_MORE, Packed
from mailfarm.backends.redis_link import RedisAway, RedisLink, RedisRefused, Script
from mailfarm.backends.redis_subscriber import RedisSubscriber
from mailfarm.backends.redis_url import parse
from mailfarm.net.tls import dev_certificate

SECRET = "correct-horse-battery"


class Linked:
    """A link for the length of a test."""

    def __init__(self, url, *, ready=True, **options):
        self.link = RedisLink(url, reactor, **options)
        self._ready = ready

    async def __aenter__(self):
        await self.link.start()
        if self._ready:
            assert await self.link.ready(DEADLINE), self.link.why
        return self.link

    async def __aexit__(self, *_):
        await self.link.stop()


async def fails(call):
    """The error of a call, and the seconds it took."""
    began = time.monotonic()
    with pytest.raises(RedisAway) as raised:
        await call
    return raised.value, time.monotonic() - began


# URLs


@pytest.mark.parametrize(
    ("url", "said", "hosts", "database"),
    [
        ("redis://cache", "redis://cache:6379/0", (("cache", 6379),), 0),
        ("redis://127.0.0.1:7000/3", "redis://127.0.0.1:7000/3", (("127.0.0.1", 7000),), 3),
        ("redis://[::1]:7000/", "redis://[::1]:7000/0", (("::1", 7000),), 0),
        ("REDISS://me@a.b", "rediss://a.b:6379/0", (("a.b", 6379),), 0),
        (
            "redis+sentinel://a;b:1;[::1]/farm/2",
            "redis+sentinel://a:26379;b:1;[::1]:26379/farm/2",
            (("a", 26379), ("b", 1), ("::1", 26379)),
            2,
        ),
    ],
)
def test_a_url_in_its_parts(url, said, hosts, database):
    parsed = parse(url)
    assert (str(parsed), parsed.hosts, parsed.database) == (said, hosts, database)


def test_user_and_password_may_be_quoted():
    parsed = parse("redis://m%40il:p%2Fw%3A@host")
    assert (parsed.user, parsed.password) == ("m@il", "p/w:")
    assert parsed.with_password("other").password == "other"
    assert parsed.with_password("").password == "p/w:"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "begins with one of redis://"),
        ("http://host", "begins with one of"),
        ("redis:host", "begins with one of"),
        ("redis://", "not host or host:port"),
        ("redis://ho st", "not host or host:port"),
        ("redis://host:99999", "not a port"),
        ("redis://host:0", "not a port"),
        ("redis://host/zero", "number of a database"),
        ("redis://host/1/2", "more in a Redis URL"),
        ("redis://host?ssl=true", "no query"),
        ("redis://a;b", "several hosts"),
        ("redis+sentinel://a;b", "name of the master"),
        ("redis+sentinel://a;b/", "name of the master"),
        ("redis+sentinel://a;/farm", "not host or host:port"),
    ],
)
def test_a_wrong_url_is_told_in_a_sentence(url, says):
    with pytest.raises(ValueError, match=says) as raised:
        RedisLink(url.replace("://", f"://me:{SECRET}@") if "host" in url else url, reactor)
    assert SECRET not in str(raised.value)


def test_a_wrong_ca_file_is_told_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        RedisLink("rediss://host", reactor, ca=str(tmp_path / "none.pem"))
    broken = tmp_path / "broken.pem"
    for text in ("hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        broken.write_text(text)
        with pytest.raises(ValueError, match="no certificate"):
            RedisLink("rediss://host", reactor, ca=str(broken))


def test_the_password_is_nowhere_in_sight():
    link = RedisLink(f"redis://me:{SECRET}@host", reactor, password=SECRET)
    for text in (repr(link), str(link), repr(link.url), str(link.url), link.why):
        assert SECRET not in text


# Calls


@pytest_twisted.ensureDeferred
async def test_replies_are_raw(redis):
    async with Linked(redis.url, connections=2) as link:
        key = f"raw-{time.time_ns()}"
        assert await link.command("SET", key, b"0042\xff") == b"OK"
        assert await link.command("GET", key, lane=1) == b"0042\xff"
        assert await link.command("GET", "no such key") is None
        assert await link.command("HSET", f"{key}h", "a", 1, "b", 2.5) == 2
        assert await link.command("HGETALL", f"{key}h") == [b"a", b"1", b"b", b"2.5"]


@pytest.mark.parametrize("size", [READ - 7, READ, READ + 1, READ_MORE - 9, READ_MORE, READ_MORE + 1, 4 * READ_MORE + 5])
@pytest_twisted.ensureDeferred
async def test_large_replies_are_as_they_were_sent_and_small_ones_behind_them_too(redis, size):
    value = os.urandom(size)
    async with Linked(redis.url) as link:
        key = f"large-{time.time_ns()}"
        await link.command("SET", key, value, "EX", 60)
        for _ in range(2):
            many = [link.command("GET", key) for _ in range(3)]
            assert [await each for each in many] == [value] * 3
            assert await link.command("ECHO", "small") == b"small"


@pytest_twisted.ensureDeferred
async def test_an_error_of_the_server_says_its_code(redis):
    async with Linked(redis.url) as link:
        with pytest.raises(RedisRefused) as raised:
            await link.command("HGET")
        assert raised.value.code == "ERR"
        with pytest.raises(ValueError, match="cannot be sent"):
            await link.command("GET", "\ud800")
        with pytest.raises(ValueError, match="surrogates"):
            await link.evalsha(Script("echo", "return ARGV[1]", "0" * 40), ["k"], ["\ud800"])
        with pytest.raises(ValueError, match="surrogates"):
            await link.transaction(("SET", "k", "\ud800"))
        assert await link.command("PING") == b"PONG"


@pytest_twisted.ensureDeferred
async def test_a_script_that_the_server_forgot_is_sent_again(redis):
    text = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
    script = Script("add", text, sha1(text.encode()).hexdigest())
    async with Linked(redis.url) as link:
        key = f"script-{time.time_ns()}"
        for turn in range(3):
            assert await link.evalsha(script, (key,), (2,)) == 2 * (turn + 1)
            await link.command("SCRIPT", "FLUSH")


@pytest_twisted.ensureDeferred
async def test_of_a_transaction_all_is_done_or_nothing(own):
    async with Linked(own.url) as link:
        assert await link.transaction(("SET", "a", b"\x00\r\n"), ("EXPIRE", "a", 60)) == [b"OK", 1]
        assert await link.transaction(("SET", "long", [b"in ", b"", b"\x00" * 300_000, b" parts"])) == [b"OK"]
        assert await link.command("GET", "long") == b"in " + b"\x00" * 300_000 + b" parts"
        assert await link.transaction(("SET", "none", [])) == [b"OK"]
        assert await link.command("GET", "none") == b""
        with pytest.raises(RedisRefused) as raised:
            await link.transaction(("SET", "b", 1), ("SET", "c"))
        assert raised.value.code == "ERR", "the first error, not that of EXEC"
        assert await link.command("EXISTS", "b") == 0
        with pytest.raises(RedisRefused) as raised:
            await link.transaction(("INCR", "a"))
        assert raised.value.code == "ERR"
        own.ask("config", "set", "maxmemory", "1")
        with pytest.raises(RedisRefused) as raised:
            await link.transaction(("HSET", "d", 0, b"x"), ("EXPIRE", "d", 60))
        assert raised.value.code == "OOM"
        own.kill()
        error, _ = await fails(link.transaction(("SET", "e", 1)))
        assert not isinstance(error, RedisRefused)


# Trouble


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_not_there_fails_calls_at_once():
    async with Linked(f"redis://127.0.0.1:{free_port()}", ready=False) as link:
        error, took = await fails(link.command("PING"))
        assert not isinstance(error, RedisRefused)
        assert took < 1
        await until(lambda: "refused" in link.why)
        error, took = await fails(link.command("PING"))
        assert "127.0.0.1" in str(error)
        assert took < 1


@pytest_twisted.ensureDeferred
async def test_a_host_with_no_address_is_told_and_stops_cleanly():
    async with Linked("redis://nowhere.invalid", ready=False, timeout=2.0) as link:
        await until(lambda: link.why != "it was not connected yet")
        await fails(link.command("PING"))


@pytest_twisted.ensureDeferred
async def test_what_is_in_flight_when_the_server_is_killed_fails_and_it_comes_back(own):
    async with Linked(own.url, connections=2) as link:
        blocked = link.command("BLPOP", "nothing", 0, timeout=60)
        own.kill()
        _, took = await fails(blocked)
        assert took < 5
        await until(lambda: not link.connected)
        await fails(link.command("PING"))
        own.start()
        back = time.monotonic()
        assert await link.ready(DEADLINE)
        assert time.monotonic() - back < 1.5
        assert await link.command("PING", lane=1) == b"PONG"


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_stopped_fails_calls_in_time_and_comes_back(own):
    async with Linked(own.url, timeout=0.5) as link:
        own.signal(signal.SIGSTOP)
        began = time.monotonic()
        calls = [link.command("PING") for _ in range(3)]
        for call in calls:
            await fails(call)
        assert 0.4 < time.monotonic() - began < 3
        await until(lambda: "in time" in link.why or "no connection" in link.why)
        _, took = await fails(link.command("PING"))
        assert took < 0.4, "while it is away, calls fail at once"
        own.signal(signal.SIGCONT)
        assert await link.ready(DEADLINE)
        assert await link.command("PING") == b"PONG"


@pytest_twisted.ensureDeferred
async def test_a_call_may_be_cancelled_and_the_next_gets_its_own_answer(redis):
    async with Linked(redis.url) as link:
        cancelled = link.command("ECHO", "one")
        cancelled.addErrback(lambda failure: None)
        cancelled.cancel()
        assert await link.command("ECHO", "two") == b"two"


@pytest_twisted.ensureDeferred
async def test_stopping_ends_what_is_in_flight():
    folder = server_folder()
    with Redis(folder) as server:
        async with Linked(server.url) as link:
            blocked = link.command("BLPOP", "nothing", 0, timeout=60)
        await fails(blocked)
        await fails(link.command("PING"))
    shutil.rmtree(folder)


@pytest.mark.parametrize("where", ["a server that does not answer", "no way there", "a name", "a server that is there"])
@pytest_twisted.ensureDeferred
async def test_a_link_that_is_stopped_while_it_connects_connects_no_more(redis, where):
    accepted = []

    class Dumb(Protocol):
        def connectionMade(self):
            accepted.append(self)

    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Dumb))
    with socket.socket() as full, socket.socket() as filling:
        # a backlog that is full drops what comes, so that connecting takes its time
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        filling.connect(full.getsockname())
        url = {
            "a server that does not answer": f"redis://127.0.0.1:{port.getHost().port}",
            "no way there": f"redis://127.0.0.1:{full.getsockname()[1]}",
            "a name": f"redis://localhost:{full.getsockname()[1]}",
            "a server that is there": redis.url,
        }[where]
        before = set(reactor.getDelayedCalls())
        link = RedisLink(url, reactor, timeout=30.0)
        await link.start()
        if where == "a server that does not answer":
            await until(lambda: accepted)
        await link.stop()
        # one that goes on has a timer at any moment: to connect, to be answered, or until it tries again
        await until(lambda: not set(reactor.getDelayedCalls()) - before)
        assert not link.connected
        assert len(accepted) <= 1
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_something_that_is_not_redis_is_left():
    class Http(Protocol):
        def dataReceived(self, data):
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Http))
    async with Linked(f"redis://127.0.0.1:{port.getHost().port}", ready=False) as link:
        await until(lambda: "RESP" in link.why)
        assert not link.connected
    await port.stopListening()


# Hearing


@pytest_twisted.ensureDeferred
async def test_a_subscriber_comes_back_and_says_so(own):
    heard, again = [], []
    async with Linked(own.url) as link:
        subscriber = RedisSubscriber(
            link, lambda channel, payload: heard.append((channel, payload)), lambda: again.append(1)
        )
        await subscriber.start()
        await subscriber.subscribe(b"one")
        await link.command("PUBLISH", "one", b"\xff")
        await until(lambda: heard == [(b"one", b"\xff")])
        own.kill()
        await until(lambda: not subscriber.connected)
        own.start()
        await until(lambda: len(again) == 2)
        assert await link.ready(DEADLINE)
        await subscriber.subscribe(b"two")
        subscriber.unsubscribe(b"one")
        assert await link.command("PUBLISH", "two", "x") == 1
        await until(lambda: heard[1:] == [(b"two", b"x")])
        waiting = subscriber.subscribe(b"three")
        await waiting
        await subscriber.stop()


@pytest_twisted.ensureDeferred
async def test_a_subscriber_leaves_a_server_that_is_stopped(own):
    async with Linked(own.url, timeout=0.4) as link:
        subscriber = RedisSubscriber(link, lambda channel, payload: None)
        await subscriber.start()
        await subscriber.subscribe(b"one")
        own.signal(signal.SIGSTOP)
        await until(lambda: not subscriber.connected)
        own.signal(signal.SIGCONT)
        await until(lambda: subscriber.connected)
        await subscriber.stop()


# TLS and users


class Guarded:
    """A server that takes TLS only, with a user of its own for the queue."""

    def __init__(self, folder):
        pair = dev_certificate(folder / "tls", "localhost", datetime.now(UTC))
        self.ca = str(pair.certificate)
        self.port = free_port()
        self.redis = Redis(
            folder,
            *("--tls-port", str(self.port), "--tls-cert-file", self.ca, "--tls-key-file", str(pair.key)),
            *("--tls-auth-clients", "no", "--bind", "127.0.0.1", "127.0.0.2"),
            *("--user", "default", "off", "sanitize-payload"),
            *(
                "--user",
                "farm",
                "on",
                f">{SECRET}",
                "~mailfarm:*",
                "&mailfarm:*",
                "+@all",
                "-@admin",
                "-config",
                "-info",
            ),
        )


@pytest.fixture
def guarded(component):
    component("redis-server")
    folder = server_folder()
    server = Guarded(folder)
    with server.redis:
        yield server
    shutil.rmtree(folder)


@pytest_twisted.ensureDeferred
async def test_tls_with_a_user_and_a_password(guarded):
    url = f"rediss://farm@localhost:{guarded.port}"
    logged = []
    globalLogPublisher.addObserver(logged.append)
    async with Linked(url, password=SECRET, ca=guarded.ca, connections=2) as link:
        assert await link.command("SET", "mailfarm:a", "b") == b"OK"
        with pytest.raises(RedisRefused) as raised:
            await link.command("SET", "others", "b")
        assert raised.value.code == "NOPERM"
    async with Linked(url, password="wrong", ca=guarded.ca, ready=False) as link:
        await until(lambda: "WRONGPASS" in link.why)
    globalLogPublisher.removeObserver(logged.append)
    assert SECRET not in repr(logged)


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_is_not_trusted_or_of_another_name_is_refused(guarded):
    async with Linked(f"rediss://farm@localhost:{guarded.port}", password=SECRET, ready=False) as link:
        await until(lambda: "certificate verify failed" in link.why)
    url = f"rediss://farm@127.0.0.2:{guarded.port}"  # the certificate names 127.0.0.1
    async with Linked(url, password=SECRET, ca=guarded.ca, ready=False) as link:
        await until(lambda: "VerificationError" in link.why)


@pytest_twisted.ensureDeferred
async def test_plain_text_to_a_port_that_wants_tls_never_hangs(guarded):
    async with Linked(f"redis://localhost:{guarded.port}", ready=False, timeout=1.0) as link:
        await until(lambda: link.why != "it was not connected yet")
        assert not link.connected


@pytest_twisted.ensureDeferred
async def test_waiting_for_a_link_ends():
    async with Linked(f"redis://127.0.0.1:{free_port()}", ready=False) as link:
        waiting = Deferred.fromCoroutine(link.ready(0.05))
        assert await waiting is False


@pytest_twisted.ensureDeferred
async def test_arguments_that_are_packed_already_stand_behind_the_others(redis):
    text = "return {#KEYS, #ARGV, ARGV[1], ARGV[2], ARGV[3]}"
    script = Script("count", text, sha1(text.encode()).hexdigest())
    large = bytes(range(256)) * 1000
    async with Linked(redis.url) as link:
        for _ in range(2):  # first as text, then by its digest
            args = (7, Packed(2, [b"$0\r\n\r\n$256000\r\n", large, b"\r\n"]))
            assert await link.evalsha(script, ["one", "two"], args) == [2, 3, b"7", b"", large]
        assert await link.command("PING") == b"PONG"


@pytest.mark.parametrize(
    ("options", "password", "why"),
    [
        (("--requirepass", "right"), "wrong", "WRONGPASS"),
        (("--requirepass", "right"), "", "NOAUTH"),
        ((), "none-is-asked-for", "ERR AUTH"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_server_that_refuses_us_is_told_from_one_that_is_away(component, options, password, why):
    component("redis-server")
    with server(*options) as redis:
        link = RedisLink(redis.url, reactor, password=password, timeout=2.0)
        await link.start()
        try:
            await until(lambda: link.refused)
            assert why in link.why
            redis.kill()
            await until(lambda: not link.refused)
            assert not link.connected
        finally:
            await link.stop()
