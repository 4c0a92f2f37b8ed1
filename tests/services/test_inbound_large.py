"""Large mail in a cluster is filed once and as it came, whatever is killed."""

from __future__ import annotations

import hashlib
import os

import pytest
import pytest_twisted
from inbound_cluster import until

from mailfarm.inbound import pipeline
from mailfarm.mailboxes import messages


async def digest(house, message):
    """The SHA-256 of what is stored, which is what was accepted."""
    found, number = hashlib.sha256(), 0
    stored = await house.read(messages.find, house.account, message.id)
    while (chunk := await house.read(messages.read_chunk, stored.content, number)) is not None:
        found.update(chunk)
        number += 1
    assert found.digest() == stored.sha256
    return found.digest()


@pytest_twisted.ensureDeferred
async def test_a_message_of_fifty_megabytes_is_filed_as_it_came(cluster):
    house = cluster.house
    mailbox = await house.mailbox()
    content = b"Subject: large\r\n\r\n" + os.urandom(1 << 20) * 50
    await cluster.put(mailbox, content=content)
    await cluster.worker()
    await until(cluster.drained)
    (message,) = (await house.list(mailbox)).messages
    assert message.size == len(content)
    assert await digest(house, message) == hashlib.sha256(content).digest()


@pytest.mark.parametrize("killed", ["postgres", "queue", "worker"])
@pytest_twisted.ensureDeferred
async def test_large_mail_is_filed_once_and_as_it_came_whatever_is_killed(cluster, monkeypatch, killed):
    monkeypatch.setattr(pipeline, "LONGEST_PAUSE", 0.5)
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(2)]
    sent = set()
    for n in range(24):
        content = b"Subject: %d\r\n\r\n" % n + os.urandom(1_000_000)
        sent.add(hashlib.sha256(content).digest())
        await cluster.put(boxes[n % 2], content=content)

    async def some_filed():
        return sum([len((await house.list(box)).messages) for box in boxes]) > 2

    working = cluster.process(MAILFARM_INBOUND_LEASE="2")
    if killed != "worker":
        await cluster.worker(lease=2.0)
    await until(some_filed)
    if killed == "worker":
        working.kill()
        await cluster.worker(lease=2.0)
    else:
        server = cluster.postgres if killed == "postgres" else cluster.shards[0]
        server.kill()
        server.start()
    await until(cluster.drained)
    await cluster.check(boxes, 24)
    found = [await digest(house, message) for box in boxes for message in (await house.list(box)).messages]
    assert (len(found), set(found)) == (24, sent)
    assert (await cluster.queue.depth()).aside == 0
