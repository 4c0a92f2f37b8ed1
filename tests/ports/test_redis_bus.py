"""The Bus port on Redis keeps its contract, over several processes."""

from __future__ import annotations

import pytest
import pytest_twisted
from bus_contract import BusContract, alike, closed
from prometheus_client import CollectorRegistry
from spooled_samples import IDS, until
from twisted.internet import reactor

from mailfarm.backends.redis_bus import RedisBus
from mailfarm.backends.redis_link import RedisLink


class TestRedisBus(BusContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, redis):
        cls.redis = redis
        cls.links = {}

    async def open_bus(self):
        link = RedisLink(self.redis.url, reactor, name="cache")
        await link.start()
        bus = RedisBus(link, reactor, CollectorRegistry(), confirm=20.0)
        await bus.start()
        assert await link.ready(20.0), link.why  # tests ask the server too
        self.links[bus] = link
        return bus

    async def close_bus(self, bus):
        await bus.stop()
        await self.links.pop(bus).stop()

    async def channels(self, bus):
        return {name.removeprefix(b"mailfarm:bus:") for name in await self.links[bus].command("PUBSUB", "CHANNELS")}

    @pytest_twisted.ensureDeferred
    async def test_another_process_hears_it_too_and_once(self, bus):
        other = await self.open_bus()
        try:
            here, there = [], []
            await bus.subscribe("box", here.append)
            await other.subscribe("box", there.append)
            events = [closed() for _ in range(1200)]  # more than one call carries
            for event in events:
                bus.publish("box", event)
            await until(lambda: len(there) >= 1200 and len(here) >= 1200)
            assert here == there == events
        finally:
            await self.close_bus(other)

    @pytest_twisted.ensureDeferred
    async def test_redis_publishes_what_somebody_listens_to_and_no_more(self, bus):
        heard, seen = [], []
        await bus.subscribe("box7", heard.append)

        async def published():
            stats = await self.links[bus].command("INFO", "commandstats")
            found = [line for line in stats.decode().split() if line.startswith("cmdstat_publish:")]
            return int(found[0].partition("calls=")[2].partition(",")[0]) if found else 0

        before = await published()
        bus.publish_alike(alike(100), "account:1")
        await until(lambda: heard)
        assert await published() == before + 1
        # an operator who listens to a pattern hears everything
        watch = await self.links[bus].open(seen.append)
        watch.tell("PSUBSCRIBE", "mailfarm:bus:*")
        await watch.send("PING")
        bus.publish_alike(alike(100), "account:1")
        await until(lambda: len(seen) >= 200)
        watch.drop("done")
        assert sum(line[2] == b"mailfarm:bus:account:1" for line in seen if line[0] == b"pmessage") == 100

    @pytest_twisted.ensureDeferred
    async def test_redis_is_asked_for_what_somebody_listens_to_and_no_more(self, bus):
        one, two = IDS.new(), IDS.new()
        first = await bus.subscribe(one, lambda event: None)
        second = await bus.subscribe(one, lambda event: None)
        await bus.subscribe(two, lambda event: None)
        wanted = {one.encode(), two.encode()}
        assert wanted <= await self.channels(bus)
        first.stop()
        await bus.subscribe(IDS.new(), lambda event: None)  # whatever was asked before is done
        assert wanted <= await self.channels(bus)
        second.stop()
        await bus.subscribe(IDS.new(), lambda event: None)
        assert one.encode() not in await self.channels(bus)
        assert bus._listeners.keys() >= {two}

    @pytest_twisted.ensureDeferred
    async def test_coming_and_going_many_times_in_one_pass_ends_as_it_was_meant(self, bus):
        heard = []
        for _ in range(50):
            bus.subscribe("coming", heard.append).addCallback(lambda subscription: subscription.stop())
        for _ in range(50):
            last = bus.subscribe("staying", heard.append)
            last.addCallback(lambda subscription: subscription.stop())
        await bus.subscribe("staying", heard.append)
        bus.publish("coming", closed())
        bus.publish("staying", event := closed())
        await until(lambda: heard)
        assert heard == [event]

    @pytest_twisted.ensureDeferred
    async def test_what_a_newer_version_tells_is_passed_over(self, bus):
        heard = []
        topic = IDS.new()
        await bus.subscribe(topic, heard.append)
        for message in (b'{"type":"levitated","at":"2026-01-01T00:00:00Z"}', b"not JSON", b"\xff"):
            await self.links[bus].command("PUBLISH", f"mailfarm:bus:{topic}", message)
        bus.publish(topic, event := closed())
        await until(lambda: heard)
        assert heard == [event]
        assert bus._ignored._value.get() == 3

    @pytest_twisted.ensureDeferred
    async def test_who_does_not_wait_for_it_any_more_does_not_hear(self, bus):
        heard = []
        waiting = bus.subscribe("box", heard.append)
        waiting.addErrback(lambda failure: None)
        waiting.cancel()
        await bus.subscribe("box", heard.append)
        bus.publish("box", closed())
        await until(lambda: heard)
        assert len(heard) == 1

    @pytest_twisted.ensureDeferred
    async def test_any_text_is_a_topic(self, bus):
        for topic in ("", "account:ü", "a b\r\nc*?[", "\udcff"):
            heard = []
            await bus.subscribe(topic, heard.append)
            bus.publish(topic, event := closed())
            await until(lambda heard=heard: heard)
            assert heard == [event]

    @pytest_twisted.ensureDeferred
    async def test_what_is_not_an_event_is_no_harm(self, bus):
        from twisted.logger import globalLogPublisher

        logged = []
        globalLogPublisher.addObserver(logged.append)
        try:
            bus.publish("box", object())
        finally:
            globalLogPublisher.removeObserver(logged.append)
        assert any("could not be told" in str(entry.get("log_format")) for entry in logged)
