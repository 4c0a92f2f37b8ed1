"""The bus while Redis dies, stalls, comes back, and loses patience with a slow subscriber."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from spooled_samples import IDS, clock, soon, until
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import LoopingCall

from mailfarm.backends import redis_bus, redis_topics
from mailfarm.backends.redis_bus import RedisBus
from mailfarm.backends.redis_link import RedisLink
from mailfarm.events import FiledAlike, MailboxClosed, Person, Summary


def closed(number=0, address="inbox@mailfarm.test"):
    return MailboxClosed(IDS.new(), "account", str(number), clock(), address)


@pytest.fixture
def opened(cache):
    """Opens buses on the server, and ends them."""
    open_ = []

    async def open_bus(within=5.0, confirm=20.0, user=""):
        link = RedisLink(cache.url.replace("//", f"//{user}"), reactor, name="cache", timeout=within)
        registry = CollectorRegistry()
        bus = RedisBus(link, reactor, registry, confirm=confirm)
        await link.start()
        await bus.start()
        bus.link, bus.value = link, registry.get_sample_value
        open_.append(bus)
        return bus

    async def close():
        for bus in open_:
            await bus.stop()
            await bus.link.stop()

    yield open_bus
    pytest_twisted.blockon(soon(close()))


def up(*buses):
    return lambda: all(bus.value("mailfarm_bus_up") for bus in buses)


def down(*buses):
    return lambda: not any(bus.value("mailfarm_bus_up") for bus in buses)


@pytest_twisted.ensureDeferred
async def test_it_is_back_when_redis_is_and_says_that_something_may_be_missing(cache, opened):
    one, other = await opened(), await opened()
    heard, missed = [], []
    await one.subscribe("box", heard.append, lambda: missed.append("box"))
    (await one.subscribe("gone", heard.append, lambda: missed.append("gone"))).stop()
    await until(up(one, other))
    assert missed == []
    cache.kill()
    await until(down(one, other))
    cache.start()
    await until(up(one, other))
    await until(lambda: missed)
    other.publish("box", event := closed())
    await until(lambda: heard)
    assert heard == [event]
    assert missed == ["box"]
    assert one.value("mailfarm_bus_returns_total") == 1


@pytest_twisted.ensureDeferred
async def test_while_redis_is_away_nobody_waits_and_what_is_told_is_told_later(cache, opened):
    bus = await opened()
    heard, missed = [], []
    await bus.subscribe("before", heard.append)
    await until(up(bus))
    cache.kill()
    await until(down(bus))
    assert bus.subscribe("meanwhile", heard.append, lambda: missed.append(1)).called
    events = [closed(number) for number in range(20)]
    for event in events:
        bus.publish("before", event)
    assert heard == []
    cache.start()
    await until(up(bus))
    await until(lambda: missed)
    bus.publish("meanwhile", last := closed())
    await until(lambda: last in heard)
    # Whoever publishes may be back before whoever listens: then these are gone, and that was said.
    assert [event for event in heard if event != last] in (events, [])


@pytest_twisted.ensureDeferred
async def test_redis_is_away_at_the_start(cache, opened):
    cache.kill()
    bus = await opened()
    heard = []
    began = time.monotonic()
    await bus.subscribe("box", heard.append)
    await bus.subscribe("box", heard.append)
    assert time.monotonic() - began < 5
    cache.start()
    await until(up(bus))
    bus.publish("box", closed())
    await until(lambda: len(heard) == 2)


@pytest_twisted.ensureDeferred
async def test_what_waits_for_redis_is_bounded_and_the_oldest_is_dropped(cache, opened):
    bus = await opened()
    heard = []
    await bus.subscribe("box", heard.append)
    await until(up(bus))
    cache.kill()
    await until(down(bus))
    for number in range(redis_bus.KEPT + 500):
        bus.publish("elsewhere", closed(number))
    assert len(bus._outbox) == redis_bus.KEPT
    assert bus.value("mailfarm_bus_dropped_total") == 500
    for number in range(400):
        bus.publish("box", closed(number, "x" * 100_000))
    assert bus._octets <= redis_bus.KEPT_OCTETS
    kept = len(bus._outbox)
    assert kept * 100_000 > 0.9 * redis_bus.KEPT_OCTETS
    cache.start()
    await until(up(bus))
    await until(lambda: not bus._outbox and not bus._sending)
    assert bus._octets == 0
    assert bus.value("mailfarm_bus_published_total") == kept
    await until(lambda: not heard or heard[-1].mailbox == "399")


@pytest_twisted.ensureDeferred
async def test_a_stalled_redis_is_left_and_found_again(cache, opened):
    bus = await opened(within=0.5, confirm=0.3)
    heard, missed = [], []
    await bus.subscribe("box", heard.append, lambda: missed.append(1))
    await until(up(bus))
    cache.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        await bus.subscribe("other", heard.append)
        assert time.monotonic() - began < 5
        await until(down(bus))
        assert bus.subscribe("third", heard.append).called
    finally:
        cache.signal(signal.SIGCONT)
    await until(up(bus))
    await until(lambda: missed)
    for topic in ("box", "other", "third"):
        bus.publish(topic, event := closed())
        await until(lambda event=event: event in heard)


@pytest_twisted.ensureDeferred
async def test_twenty_thousand_topics_at_once_and_again_after_a_restart(cache, opened):
    bus, other = await opened(within=20.0), await opened()
    heard, missed, passes = [], [], [0]

    def count():
        passes[0] += 1

    counting = LoopingCall(count)
    counting.start(redis_bus.MISSED_EVERY / 5)
    topics = [IDS.new() for _ in range(20_000)]
    subscribing = [bus.subscribe(topic, heard.append) for topic in topics[1000:]]
    subscribing += [bus.subscribe(topic, heard.append, lambda: missed.append(passes[0])) for topic in topics[:1000]]
    await gatherResults(subscribing)
    await until(up(bus, other))
    assert len(bus._topics) == 20_000
    assert bus.value("mailfarm_bus_topics") == 20_000
    cache.kill()
    await until(down(bus, other))
    cache.start()
    await until(up(bus, other))
    assert len(bus._topics) == 20_000
    some = topics[::500]
    for topic in some:
        other.publish(topic, closed())
    await until(lambda: len(heard) == len(some))
    # those who look again do not come all at once
    await until(lambda: len(missed) == 1000)
    counting.stop()
    assert max(Counter(missed).values()) <= redis_bus.MISSED_AT_ONCE


@pytest_twisted.ensureDeferred
async def test_a_storm_of_those_who_come_back_with_little_room_at_the_server(cache, opened):
    cache.options = (*cache.options, "--client-output-buffer-limit", "pubsub 96kb 64kb 5")
    cache.stop()
    cache.start()
    buses = [await opened() for _ in range(5)]
    heard = [[] for _ in buses]
    for bus, each in zip(buses, heard, strict=True):
        topics = [IDS.new() for _ in range(3000)]
        await gatherResults([bus.subscribe(topic, each.append) for topic in [*topics, "all"]])
    await until(up(*buses))
    cache.kill()
    await until(down(*buses))
    cache.start()
    await until(up(*buses))
    buses[0].publish("all", event := closed())
    await until(lambda: heard == [[event]] * 5)


@pytest_twisted.ensureDeferred
async def test_a_subscriber_that_redis_found_too_slow_comes_back_and_is_told(cache, opened):
    cache.options = (*cache.options, "--client-output-buffer-limit", "pubsub 1mb 512kb 5")
    cache.stop()
    cache.start()
    slow, other = await opened(within=30.0), await opened()
    heard, missed = [], []
    await slow.subscribe("box", heard.append, lambda: missed.append(1))
    await until(up(slow, other))
    transport = slow._topics._connection.transport
    transport.pauseProducing()  # as a process that is busy elsewhere

    cut = []

    def asked():
        def told(said):
            if said[1] == 0:
                cut.append(1)

        for _ in range(20):
            other.publish("box", closed(0, "x" * 50_000))
        other.link.command("PUBSUB", "NUMSUB", "mailfarm:bus:box").addCallback(told)
        return bool(cut)

    await until(asked)
    transport.resumeProducing()
    await until(lambda: missed)
    await until(up(slow))
    other.publish("box", event := closed())
    await until(lambda: event in heard)


def calls_of(cache, command):
    """How often the server was told a command."""
    found = re.search(rf"cmdstat_{command}:calls=(\d+)", cache.ask("info", "commandstats"))
    return int(found[1]) if found else 0


def large(mailboxes):
    """Events of one mail with a thousand recipients, so many of them here."""
    to = tuple(Person(f"Somebody With A Name {n}", f"somebody.{n}@department.mailfarm.test") for n in range(1000))
    made = FiledAlike("account", clock(), Summary("", "", 0, 1, "a@x", (), to[0], to, (), "s", "t", "<i>", 9, 0))
    for number in range(mailboxes):
        made.add(IDS.new(), IDS.new(), f"box{number}", number + 1, (f"{number}@x",), None)
    return made


@pytest_twisted.ensureDeferred
async def test_one_call_publishes_so_many_octets_however_much_of_them_is_alike(cache, opened):
    bus = await opened(within=30.0)
    heard = []
    await bus.subscribe("account:1", heard.append)
    await until(up(bus))
    made = large(200)
    octets = sum(map(len, made.heads)) + len(made.end) * len(made)
    bus.publish_alike(made, "account:1")
    await until(lambda: len(heard) == len(made))
    assert heard == [made.event(number) for number in range(len(made))]
    assert calls_of(cache, "evalsha") >= octets / (2 * redis_bus.AT_ONCE_OCTETS)
    assert bus._octets == 0


@pytest_twisted.ensureDeferred
async def test_what_is_alike_is_kept_once(cache, opened):
    bus = await opened()
    await until(up(bus))
    cache.kill()
    await until(down(bus))
    made = large(500)
    for _ in range(90):
        bus.publish_alike(made, "account:1")
    assert bus._events == 90 * 500
    assert 90 * len(made.end) < bus._octets < 90 * (len(made.end) + sum(map(len, made.heads)) + 500 * 100)
    assert bus.value("mailfarm_bus_dropped_total") == 0


@pytest.mark.parametrize("ready", [True, False])
@pytest_twisted.ensureDeferred
async def test_who_looks_again_and_again_stays_at_the_server_that_is_the_master(cache, monkeypatch, ready):
    monkeypatch.setattr(redis_topics, "BEAT", 0.02)
    link, registry = RedisLink(cache.url, reactor, name="cache"), CollectorRegistry()
    await link.start()
    assert not ready or await link.ready(20)  # the bus may come when the link is there
    bus = RedisBus(link, reactor, registry, confirm=20.0)
    await bus.start()
    try:
        await bus.subscribe("box", lambda event: None)
        await until(lambda: registry.get_sample_value("mailfarm_bus_up"))
        before = calls_of(cache, "info")
        await until(lambda: calls_of(cache, "info") > before + 100)
        assert registry.get_sample_value("mailfarm_bus_returns_total") == 0
    finally:
        await bus.stop()
        await link.stop()


@pytest.mark.parametrize(("may_ask", "returns"), [("+info", 0), ("", 1)])
@pytest_twisted.ensureDeferred
async def test_who_publishes_elsewhere_is_followed_and_elsewhere_is_another_server(cache, opened, may_ask, returns):
    rules = f"on nopass ~* &* -@all +ping +evalsha +eval +publish +subscribe +unsubscribe {may_ask}"
    cache.ask("acl", "setuser", "m", *rules.split())
    bus = await opened(user="m:any@")
    heard = []
    await bus.subscribe("box", heard.append)
    await until(up(bus))
    await until(lambda: bus.link.connected)
    before = bus.value("mailfarm_bus_returns_total")
    (lane,) = bus.link._lanes
    was = lane.connection
    bus.link.look_again("a test")
    await until(lambda: lane.connection not in (was, None))
    await until(lambda: bus.value("mailfarm_bus_returns_total") == before + returns)
    bus.publish("box", event := closed())
    await until(lambda: heard)
    assert heard == [event]
    assert bus.value("mailfarm_bus_returns_total") == before + returns


@pytest_twisted.ensureDeferred
async def test_what_was_told_just_before_the_end_is_sent(cache, opened):
    one, other = await opened(), await opened()
    heard = []
    await one.subscribe("box", heard.append)
    events = [closed(number) for number in range(1500)]
    for event in events:
        other.publish("box", event)
    await other.stop()
    await until(lambda: len(heard) == 1500)
    assert heard == events


@pytest_twisted.ensureDeferred
async def test_a_bus_that_stops_while_redis_is_away_does_not_wait_long(cache, opened):
    bus = await opened()
    await bus.subscribe("box", lambda event: None)
    await until(up(bus))
    cache.kill()
    await until(down(bus))
    bus.publish("box", closed())
    began = time.monotonic()
    await bus.stop()
    assert time.monotonic() - began < 5


@pytest_twisted.ensureDeferred
async def test_one_who_is_told_that_something_is_missing_and_fails_does_not_keep_it_from_the_others(cache, opened):
    from twisted.logger import globalLogPublisher

    bus = await opened()
    missed, logged = [], []

    def bad():
        raise ValueError("a bad listener")

    await bus.subscribe("box", lambda event: None, bad)
    await bus.subscribe("box", lambda event: None, lambda: missed.append(1))
    await until(up(bus))
    cache.kill()
    await until(down(bus))
    globalLogPublisher.addObserver(logged.append)
    try:
        cache.start()
        await until(lambda: missed)
    finally:
        globalLogPublisher.removeObserver(logged.append)
    assert any("a bad listener" in str(entry.get("log_failure")) for entry in logged)
