"""Taking responsibility: content that is complete becomes a queue entry, and only then is 250 said.

RFC 5321 §6.1: with 250 after the final dot the mail is ours, and neither a crash nor a shortage that could be foreseen
may lose it. So the queue confirms first. What it does not confirm is answered with 4yz; the client sends it again, and
if it had been stored all the same it comes twice (RFC 1047), which the spool id cannot know.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from mailfarm.errors import QueueBehind, QueueFull, TooLarge
from mailfarm.ids import Ids
from mailfarm.mail.envelope import Envelope
from mailfarm.mail.received import received
from mailfarm.mail.reply import Reply
from mailfarm.ports import CHUNK, Content, Origin, Spooled

from .pressure import PAUSE, Pressure, Sender

PUTTING: Final = 128 * 1024 * 1024
"""Octets of content in memory for the queue, of all messages that it is asked to keep at the same time. While a queue
is slow they gather; past this, mail is refused."""
AT_ONCE: Final = 5 * CHUNK
"""Octets of one message that are in memory for the queue at most: it takes large content in pieces."""

SAID_AGAIN: Final = 10_000_000
"""Microseconds for which refusals for the same reason are counted and not logged: thousands come in a second."""
REASONS: Final = 100
"""That are remembered for that; at one more all are forgotten."""
_NUMBERS: Final = re.compile(r"\d+")

NO_ROOM = Reply(452, "4.3.1", "There is no room for this message now; try again later")
TOO_LARGE = Reply(552, "5.3.4", "Message is larger than the queue here can ever hold")
UNCONFIRMED = Reply(451, "4.3.0", "The message could not be stored safely; send it again later")
NOT_NOW = Reply(451, "4.3.0", "Mail cannot be stored now; try again later")
# RFC 3463 §3.4: 4.3.2 is for excessive load
BEHIND = Reply(451, "4.3.2", "More mail comes in than can be filed; try again in a minute")
OVER_SHARE = Reply(451, "4.3.2", "More mail comes in than can be filed; you have had your share, try again in a minute")


class Intake(Protocol):
    """Where mail goes that is accepted: what is needed of the queue, or of who files at once (``embedded``)."""

    def admit(self, size: int) -> Awaitable[None]:
        """As ``Queue.admit``."""

    def put(self, spooled: Spooled) -> Awaitable[None]:
        """As ``Queue.put``: return only when the mail would survive a crash. The same id twice is the same mail."""


class HashedContent(Content, Protocol):
    """Content that knows its SHA-256, 32 octets."""

    @property
    def sha256(self) -> bytes: ...


class Accept:
    """The last step of a transaction, for one service.

    ``hostname`` is ours, for the trace header; ``clock`` gives microseconds; ``trouble`` is told what the client is
    not: which error stood behind a 4yz. ``incoming`` raises QueueFull when content of so many octets (0: unknown) could
    not be kept while it comes in. ``pressure`` says whose turn it is while the queue is behind; ``pause`` returns after
    so many seconds. Raises ValueError for a host name that cannot stand in a header.
    """

    def __init__(
        self,
        queue: Intake,
        ids: Ids,
        clock: Callable[[], int],
        hostname: str,
        trouble: Callable[[str, Exception], None],
        pressure: Pressure,
        incoming: Callable[[int], None] = lambda size: None,
        pause: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self._queue = queue
        self._ids = ids
        self._clock = clock
        self._hostname = hostname
        self._trouble = trouble
        self._incoming = incoming
        self._pause = pause
        self._putting = 0
        self._said: dict[str, tuple[int, int]] = {}  # when each reason was last said, and how often not since
        self.pressure = pressure
        # a name that cannot stand in a header is found now, not with the first mail
        received(helo="", client="", by=hostname, protocol="ESMTP", id="0", now=0)

    async def room(self, size: int, sender: Sender, *, count: bool = True) -> Reply | None:
        """Before content comes: None if ``size`` octets (0: unknown) would find room and ``sender`` has its turn, else
        what to say. Without ``count`` it is only asked, ahead of the time when it counts."""
        try:
            self._incoming(size)
            self._check_putting(min(size, AT_ONCE))
            try:
                await self._queue.admit(size)
            except QueueBehind as error:
                self.pressure.behind(error)
            if not self.pressure.may(sender, count=count):
                if self._pause is not None:
                    await self._pause(PAUSE)
                return BEHIND if self.pressure.closed else OVER_SHARE
        except QueueFull as error:
            self._refused(error)
            return TOO_LARGE if isinstance(error, TooLarge) else NO_ROOM
        except Exception as error:
            self._refused(error)
            return NOT_NOW
        return None

    def _refused(self, error: Exception) -> None:
        """Say so, now and then. Reasons are the same but for their numbers."""
        now, reason = self._clock(), _NUMBERS.sub("", repr(error))
        last, more = self._said.get(reason, (0, 0))
        if last and abs(now - last) < SAID_AGAIN:
            self._said[reason] = last, more + 1
            return
        if len(self._said) >= REASONS:
            self._said.clear()
        self._said[reason] = now, 0
        before = f" ({more} more like it since it was said last)" if more else ""
        self._trouble(f"mail is refused before its content{before}", error)

    async def take(
        self, envelope: Envelope, content: HashedContent, origin: Origin, account: str, mailboxes: Sequence[str]
    ) -> Reply:
        """Put the mail into the queue; ``mailboxes`` are those of the envelope's recipients, in order.

        250 only when the queue has confirmed. ``content`` is closed, whatever happens. Raises nothing.
        """
        id = self._ids.new()
        now = self._clock()
        held = min(content.size, AT_ONCE)
        self._putting += held
        try:
            self._check_putting(0)
            trace = received(
                helo=origin.helo,
                client=origin.client,
                by=self._hostname,
                protocol=origin.protocol,
                id=id,
                now=now,
                tls=origin.tls,
            )
            await self._queue.put(
                Spooled(id, account, now, envelope, origin, tuple(mailboxes), trace, content.sha256, content)
            )
        except QueueFull as error:
            self._trouble(f"message {id} found no room", error)
            return TOO_LARGE if isinstance(error, TooLarge) else NO_ROOM
        except Exception as error:  # unknown means temporary: it may or may not be stored
            self._trouble(f"message {id} was not confirmed", error)
            return UNCONFIRMED
        finally:
            content.close()
            self._putting -= held
        return Reply(250, "2.0.0", f"spooled as {id}")

    def _check_putting(self, octets: int) -> None:
        if self._putting + octets > PUTTING:
            raise QueueFull(f"{self._putting} octets of content wait for the queue to confirm them")
