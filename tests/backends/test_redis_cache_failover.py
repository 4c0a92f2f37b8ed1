"""Limits and the bus when another server is the master: behind Sentinel, where the old one stalls, and behind one name
for master and replica, where the old one keeps its connections."""

from __future__ import annotations

import shutil
import signal
import time

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from servers import Redis, Sentinel, server_folder
from spooled_samples import until
from twisted.internet import reactor
from twisted.protocols.portforward import ProxyFactory

from mailfarm.backends.memory import MemoryLimiter
from mailfarm.backends.redis_bus import RedisBus
from mailfarm.backends.redis_limiter import RedisLimiter
from mailfarm.backends.redis_link import RedisLink
from mailfarm.events import MailboxClosed
from mailfarm.limits import Limit
from mailfarm.ports import Charge

SLOW = Limit(3, 3600.0)


@pytest_twisted.ensureDeferred
async def test_limits_and_the_bus_go_on_at_the_new_master(component):
    component("redis-sentinel")
    folders = [server_folder() for _ in range(3)]
    options = ("--appendonly", "no", "--repl-diskless-sync-delay", "0")
    with Redis(folders[0], *options) as master, Redis(folders[1], *options) as replica:
        replica.follow(master)
        with Sentinel(folders[2], master) as sentinel:
            link = RedisLink(sentinel.url(), reactor, name="cache", timeout=20.0)
            registry = CollectorRegistry()
            limiter = RedisLimiter(link, MemoryLimiter(time.monotonic), reactor, registry, timeout=20.0, probe=0.05)
            bus = RedisBus(link, reactor, registry, confirm=20.0)
            await link.start()
            assert await link.ready(20)
            await limiter.start()
            await bus.start()
            try:
                heard, missed = [], []
                await bus.subscribe("box", heard.append, lambda: missed.append(1))
                assert await limiter.hold("p", 2) is not None
                assert await limiter.charge([Charge("k", SLOW, 3)]) is None
                await until(lambda: registry.get_sample_value("mailfarm_bus_up"))
                await until(lambda: replica.ask("exists", "mailfarm:limit:place:p") == "1")
                master.signal(signal.SIGSTOP)
                try:
                    await until(lambda: link.connected and replica.ask("role").startswith("master") and missed)
                    await until(lambda: not limiter.local)
                    bus.publish("box", event := MailboxClosed("e", "account", "box", 1, "inbox@mailfarm.test"))
                    await until(lambda: event in heard)
                    assert (await limiter.charge([Charge("k", SLOW)])) is not None
                    assert await limiter.hold("p", 2) is not None
                    assert await limiter.hold("p", 2) is None
                    assert replica.ask("zcard", "mailfarm:limit:place:p") == "2"
                finally:
                    master.signal(signal.SIGCONT)
            finally:
                await bus.stop()
                await limiter.stop()
                await link.stop()
    for folder in folders:
        shutil.rmtree(folder)


@pytest.mark.parametrize("limits", [True, False])  # a charge is refused by what is a replica now; publishing is not
@pytest_twisted.ensureDeferred
async def test_the_bus_goes_to_the_new_master_that_the_same_name_leads_to(component, limits):
    component("redis-server")
    folders = [server_folder() for _ in range(2)]
    options = ("--appendonly", "no", "--repl-diskless-sync-delay", "0")
    with Redis(folders[0], *options) as old, Redis(folders[1], *options) as new:
        new.follow(old)
        name = ProxyFactory("127.0.0.1", old.port)
        port = reactor.listenTCP(0, name, interface="127.0.0.1")
        parts, buses, limiters = [], [], []
        registries = [CollectorRegistry() for _ in range(2)]
        try:
            for registry in registries:
                link = RedisLink(f"redis://127.0.0.1:{port.getHost().port}", reactor, name="cache", timeout=20.0)
                bus = RedisBus(link, reactor, registry, confirm=20.0)
                limiter = RedisLimiter(link, MemoryLimiter(time.monotonic), reactor, registry, timeout=20.0)
                await link.start()
                assert await link.ready(20)
                parts += [link, limiter, bus]
                buses.append(bus)
                limiters.append(limiter)
                await limiter.start()
                await bus.start()
            hears, tells = buses
            heard, missed = [], []
            await hears.subscribe("box", heard.append, lambda: missed.append(1))
            tells.publish("box", MailboxClosed("e", "account", "box", 1, "inbox@mailfarm.test"))
            await until(lambda: heard)
            new.ask("replicaof", "no", "one")
            name.port = new.port
            old.follow(new)
            if limits:
                for limiter in limiters:
                    await limiter.charge([Charge("k", SLOW)])
            await until(lambda: missed)
            heard.clear()

            def told():
                tells.publish("box", MailboxClosed("f", "account", "box", 1, "inbox@mailfarm.test"))
                return heard

            await until(told)
            assert new.ask("pubsub", "numsub", "mailfarm:bus:box").split()[-1] == "1"
            assert registries[0].get_sample_value("mailfarm_bus_returns_total") == 1
        finally:
            for part in reversed(parts):
                await part.stop()
            await port.stopListening()
    for folder in folders:
        shutil.rmtree(folder)
