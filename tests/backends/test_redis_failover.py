"""Behind Sentinel: what was acknowledged is on a replica, the new master is followed, nothing acknowledged is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack

import pytest
import pytest_twisted
from redis_house import Working, server
from servers import Sentinel, server_folder
from spooled_samples import LONG, soon, spooled, start, until
from twisted.internet.defer import gatherResults

from mailfarm.backends.redis_link import RedisAway
from mailfarm.errors import QueueUnavailable
from mailfarm.ports import CHUNK


class Farm:
    """A master, a replica, and three sentinels of which two must agree."""

    def __init__(self, ending):
        options = ("--repl-diskless-sync-delay", "0", "--min-replicas-to-write", "1")
        self.master, self.replica = (ending.enter_context(server(*options)) for _ in range(2))
        self.replica.follow(self.master)
        self.sentinels = []
        for _ in range(3):
            folder = server_folder()
            ending.callback(shutil.rmtree, folder)
            self.sentinels.append(ending.enter_context(Sentinel(folder, self.master, quorum=2)))
        first, *others = self.sentinels
        self.url = first.url(*[f"127.0.0.1:{other.port}" for other in others])

    def agreed(self):
        """Whether every sentinel knows the others and the replica: then there can be a failover."""
        return all(
            _fact(s, "num-other-sentinels") == "2" and _fact(s, "num-slaves") == "1" and _fact(s, "flags") == "master"
            for s in self.sentinels
        )


async def insisting(queue, work):
    """Do it, as often as it takes while the link changes over."""
    while True:
        try:
            return await work()
        except QueueUnavailable:
            await until(lambda: queue.unavailable is None)


def is_master(redis):
    try:
        return redis.ask("role").startswith("master")
    except subprocess.CalledProcessError:  # whoever changes its role closes its connections
        return False


def _fact(sentinel, name):
    lines = sentinel.ask("sentinel", "master", "farm").splitlines()
    return dict(zip(lines[::2], lines[1::2], strict=False)).get(name)


@pytest.fixture
def farm(component):
    component("redis-sentinel")
    with ExitStack() as ending:
        farm = Farm(ending)
        yield farm
        for each in (farm.master, farm.replica):
            if each.process is not None:
                each.signal(signal.SIGCONT)


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest_twisted.ensureDeferred
async def test_nothing_acknowledged_is_lost_when_the_master_is(farm, how):
    await until(farm.agreed)
    acknowledged, attempted, stop = [], [], []
    async with Working(farm.url, timeout=1.0) as queue:

        async def putter(number):
            while not stop:
                mail = spooled(os.urandom(2 * CHUNK if number == 0 else 1000))
                attempted.append(mail.id)
                try:
                    await queue.put(mail)
                    acknowledged.append(mail.id)
                except QueueUnavailable:
                    await until(lambda: queue.unavailable is None or stop)

        putters = [start(putter(number)) for number in range(10)]
        await until(lambda: len(acknowledged) > 200)
        before = len(acknowledged)
        if how == "killed":
            farm.master.kill()
        else:
            farm.master.signal(signal.SIGSTOP)
        # The new master has no replica, and so takes nothing, until the operator gives it one.
        await until(lambda: is_master(farm.replica))
        farm.replica.ask("config", "set", "min-replicas-to-write", "0")
        with server("--repl-diskless-sync-delay", "0") as third:
            third.follow(farm.replica)
            await until(lambda: len(acknowledged) > before + 50)
            stop.append(True)
            await soon(gatherResults(putters))
            taken = set()
            while attempts := await insisting(queue, lambda: queue.take(100, LONG)):
                taken |= {attempt.spooled.id for attempt in attempts}
        assert set(acknowledged) <= taken <= set(attempted)


@pytest_twisted.ensureDeferred
async def test_without_a_replica_nothing_is_acknowledged(farm):
    async with Working(farm.url, timeout=2.0) as queue:
        await queue.put(spooled())
        farm.replica.signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(QueueUnavailable, match="confirmed"):
            await queue.put(spooled())
        assert time.monotonic() - began < 2
        assert (await queue.depth()).waiting == 2, "it may be stored all the same"
        farm.replica.signal(signal.SIGCONT)
        await soon(insisting(queue, lambda: queue.put(spooled())))


@pytest_twisted.ensureDeferred
async def test_a_master_that_was_replaced_is_left_though_it_answers(farm):
    await until(farm.agreed)
    working = Working(farm.url)
    async with working as queue:
        await queue.put(spooled())
        farm.sentinels[0].ask("sentinel", "failover", "farm")
        (link,) = working.links
        await until(lambda: link.connected and link.open_to == ("127.0.0.1", farm.replica.port))
        await soon(insisting(queue, lambda: queue.put(spooled())))
        assert len(await queue.take(10, LONG)) >= 2


@pytest_twisted.ensureDeferred
async def test_a_sentinel_that_knows_nothing_is_told(farm):
    working = Working(farm.url.replace("/farm", "/barn"), ready=False)
    async with working:
        (link,) = working.links
        await until(lambda: "barn" in link.why)
        with pytest.raises(RedisAway, match="barn"):
            await link.command("PING")


@pytest_twisted.ensureDeferred
async def test_one_sentinel_is_enough_to_find_the_master(farm):
    for sentinel in farm.sentinels[1:]:
        sentinel.kill()
    async with Working(farm.url, timeout=2.0) as queue:
        await queue.put(spooled())
