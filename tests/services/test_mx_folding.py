"""MAILFARM_MX_FOLD: mail sent again by a client that never heard our 250 is the first one; anything else is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from loopback import Client, connect, wait_until
from prometheus_client import CollectorRegistry
from smtp_house import ALL, FREE, House, house
from twisted.internet.defer import Deferred

from mailfarm.config import MxSettings
from mailfarm.errors import QueueUnavailable
from mailfarm.mail.reply import Reply
from mailfarm.services.mx import folding
from mailfarm.services.mx.folding import AGE, Folding

ensure = pytest_twisted.ensureDeferred
FOLDING = MxSettings(listen=FREE, fold=True)
CONTENT = "Message-ID: <1@client.test>\r\nSubject: hello\r\n\r\nhello\r\n"


async def upto_data(
    port: int,
    recipients: tuple[str, ...] = ("inbox@mailfarm.test",),
    sender: str = "a@client.test",
    before: bytes = b"",
) -> Client:
    client = await connect(port)
    client.send(before)
    assert (await client.reply()).startswith("220 ")
    await client.say("EHLO client.test")
    assert (await client.say(f"MAIL FROM:<{sender}>")).startswith("250 ")
    for recipient in recipients:
        assert (await client.say(f"RCPT TO:<{recipient}>")).startswith("250 ")
    assert (await client.say("DATA")).startswith("354 ")
    return client


async def unheard(mx: Any, content: str = CONTENT, **rest: Any) -> str:
    """Send, and lose the connection before the answer is heard: our 250 is on its way. What it said."""
    client = await upto_data(mx.listening["mx"].port, **rest)
    reply = await client.say(content + ".")
    await client.close()
    await wait_until(lambda: len(mx.folding) == 1)
    return reply


async def again(mx: Any, content: str = CONTENT, **rest: Any) -> str:
    client = await upto_data(mx.listening["mx"].port, **rest)
    reply = await client.say(content + ".")
    await client.say("QUIT")
    await client.ended()
    return reply


def folded(h: House) -> float:
    return h.registry.get_sample_value("mailfarm_mx_folded_total") or 0.0


async def count(h: House) -> int:
    return (await h.queue.depth()).waiting


@ensure
async def test_a_client_that_never_heard_250_and_sends_again_is_answered_as_before(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx(settings=FOLDING)
        first = await unheard(mx)
        assert first.startswith("250 2.0.0 spooled as ")
        assert await unheard(mx, content=CONTENT) == first  # lost once more: it may come a third time
        assert await again(mx) == first
        assert (await count(h), folded(h)) == (1, 2)
        ((spooled, content),) = await h.spooled()
        assert first.endswith(spooled.id)
        assert content == CONTENT.encode()
        assert await again(mx) != first  # it was heard this time: what comes now is another
        assert (await count(h), len(mx.folding)) == (1, 0)


@ensure
async def test_a_client_that_was_gone_before_250_was_said_is_folded_too(tmp_path: Path) -> None:
    class Slow:
        """The queue, which takes its time."""

        def __init__(self, queue: Any) -> None:
            self._queue = queue
            self.wait: Deferred[None] | None = None
            self.waiting = False
            self.fails = False

        def admit(self, size: int) -> Any:
            return self._queue.admit(size)

        async def put(self, spooled: Any) -> None:
            if self.wait is not None:
                self.waiting = True
                await self.wait
            if self.fails:
                raise QueueUnavailable("it is away")
            await self._queue.put(spooled)

    async with house(tmp_path) as h:
        slow = Slow(h.queue)
        mx = await h.mx(settings=FOLDING, queue=slow)
        for fails in (False, True):
            slow.wait, slow.waiting, slow.fails = Deferred(), False, fails
            client = await upto_data(mx.listening["mx"].port)
            client.send(CONTENT + ".\r\n")
            await wait_until(lambda: slow.waiting)
            open_sessions = h.registry.get_sample_value("mailfarm_mx_sessions_open")
            assert open_sessions == 1
            await client.close()
            await wait_until(lambda: h.registry.get_sample_value("mailfarm_mx_sessions_open") == 0)
            slow.wait.callback(None)
            slow.wait, slow.fails = None, False
            if not fails:
                await wait_until(lambda: len(mx.folding) == 1)
            assert len(mx.folding) == (0 if fails else 1)  # what was not confirmed is sent again for good reason
            await again(mx)
        assert (await count(h), folded(h)) == (2, 1)


@ensure
@pytest.mark.parametrize(
    ("second", "rest"),
    [
        (CONTENT.replace("hello\r\n", "hallo\r\n"), {}),
        (CONTENT + "\r\n", {}),
        (CONTENT, {"recipients": ("other@mailfarm.test",)}),
        (CONTENT, {"recipients": ("inbox@mailfarm.test", "other@mailfarm.test")}),
        (CONTENT, {"recipients": ("inbox+tag@mailfarm.test",)}),
        (CONTENT, {"recipients": ("theirs@mailfarm.test",)}),
        (CONTENT, {"sender": "b@client.test"}),
        (CONTENT, {"before": b"PROXY TCP4 198.51.100.9 192.0.2.1 4711 25\r\n"}),
    ],
    ids=["content", "one-line-more", "recipient", "recipients", "tag", "account", "sender", "client"],
)
async def test_what_is_not_the_same_is_kept(tmp_path: Path, second: str, rest: dict[str, Any]) -> None:
    async with house(tmp_path) as h:
        mine = {"before": b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 25\r\n"}
        mx = await h.mx(settings=MxSettings(listen=FREE, fold=True, proxy_from=ALL, proxy_v1=True))
        await h.mailbox("other@mailfarm.test")
        await h.mailbox("theirs@mailfarm.test", account=await h.another_account())
        await unheard(mx, **mine)
        await again(mx, second, **(mine | rest))
        assert (await count(h), folded(h)) == (2, 0)
        await again(mx, **mine)
        assert (await count(h), folded(h)) == (2, 1)  # and the one that is the same still is


@ensure
@pytest.mark.parametrize(
    "content",
    [
        "Subject: none\r\n\r\nhello\r\n",
        "Message-ID:\r\n\r\nhello\r\n",
        "Message-ID: <>\r\n\r\nhello\r\n",
        "Subject: in the body\r\n\r\nMessage-ID: <1@client.test>\r\n",
        "\r\nMessage-ID: <1@client.test>\r\n",
    ],
)
async def test_mail_without_a_message_id_is_kept(tmp_path: Path, content: str) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx(settings=FOLDING)
        await unheard(mx, content)
        await again(mx, content)
        assert (await count(h), folded(h)) == (2, 0)


@ensure
@pytest.mark.parametrize("last", ["QUIT\r\n", "RSET\r\n", "NOOP\r\n", "x", "\r\n"])
@pytest.mark.parametrize("behind", [False, True], ids=["after 250", "behind the dot"])
async def test_a_client_that_said_anything_has_heard_its_250(tmp_path: Path, last: str, behind: bool) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx(settings=FOLDING)
        client = await upto_data(mx.listening["mx"].port)
        client.send(CONTENT + ".\r\n" + (last if behind else ""))
        assert (await client.reply()).startswith("250 ")
        if not behind:
            client.send(last)
            if last == "x":
                client.transport.loseConnection()
            else:
                await client.reply()
        if last == "QUIT\r\n" or (last == "x" and not behind):
            await client.ended()
        else:
            await client.close()
        await wait_until(lambda: h.registry.get_sample_value("mailfarm_mx_sessions_open") == 0)
        assert len(mx.folding) == 0
        await again(mx)
        assert (await count(h), folded(h)) == (2, 0)


@ensure
async def test_what_was_refused_is_no_first(tmp_path: Path) -> None:
    class Away:
        def __init__(self, queue: Any) -> None:
            self.admit = queue.admit
            self._put = queue.put
            self.away = True

        async def put(self, spooled: Any) -> None:
            if self.away:
                raise QueueUnavailable("away")
            await self._put(spooled)

    async with house(tmp_path) as h:
        away = Away(h.queue)
        mx = await h.mx(settings=FOLDING, queue=away)
        client = await upto_data(mx.listening["mx"].port)
        assert (await client.say(CONTENT + ".")).startswith("451 ")
        await client.close()
        await wait_until(lambda: h.registry.get_sample_value("mailfarm_mx_sessions_open") == 0)
        away.away = False
        assert len(mx.folding) == 0
        await again(mx)
        assert await count(h) == 1


@ensure
async def test_it_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx()
        assert mx.folding is None
        for _ in range(2):
            client = await upto_data(mx.listening["mx"].port)
            await client.say(CONTENT + ".")
            await client.close()
        assert await count(h) == 2


class Head:
    """Content in pieces of one octet."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def chunks(self) -> Any:
        for octet in self.data:
            yield bytes([octet])


REPLY = Reply(250, "2.0.0", "spooled as 1")


@ensure
async def test_an_ending_is_forgotten_when_its_time_is_over_and_at_the_cap() -> None:
    now = [0.0]
    kept = Folding(lambda: now[0], CollectorRegistry(), most=3)
    kept.unheard(b"a", REPLY)
    now[0] = AGE
    assert await kept.again(b"a", Head(CONTENT.encode())) is REPLY
    kept.unheard(b"a", REPLY)
    now[0] += AGE + 0.1
    assert await kept.again(b"a", Head(CONTENT.encode())) is None
    for key in (b"a", b"b", b"c", b"a", b"d"):
        kept.unheard(key, REPLY)
    assert len(kept) == 3
    assert await kept.again(b"b", Head(CONTENT.encode())) is None
    assert await kept.again(b"a", Head(CONTENT.encode())) is REPLY
    assert folding.MOST == 10_000
