"""Folding: mail that a client sends again, because it never heard that the first was taken, is that first one.

Off unless it is asked for: both are kept then, and the second bears ``duplicate_of`` (``mailboxes/copies.py``).

A client that was given 250 and says anything after it has heard it. So what may be folded is what ended its connection:
its content was complete, it was answered 250 or the client was gone by then, and not one octet came behind it. Only who
is remembered here is folded, once for each such ending, and it is answered what the first was answered, which the queue
had confirmed: nothing is lost by it, whatever is forgotten here. What is not remembered is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter

from mailfarm.inbound.headers import plain, read_section
from mailfarm.mail.envelope import Envelope
from mailfarm.mail.reply import Reply
from mailfarm.ports import CHUNK

AGE: Final = 3600.0
"""Seconds for which an ending is remembered: RFC 5321 §4.5.4.1 has clients wait half an hour before they try again."""
MOST: Final = 10_000
"""Endings that are remembered, some 5 MB; at this the oldest is forgotten."""


class Chunked(Protocol):
    """Content that can be read."""

    def chunks(self) -> AsyncIterator[bytes]: ...


def key_of(client: str, account: str, envelope: Envelope, mailboxes: Sequence[str], content: bytes) -> bytes:
    """What the first and the second have in common; ``content`` is the SHA-256 of it."""
    return sha256(repr((client, account, envelope, tuple(mailboxes))).encode() + content).digest()


class Folding:
    """The endings of one process. ``seconds`` is a clock that does not run backwards."""

    def __init__(self, seconds: Callable[[], float], registry: CollectorRegistry, most: int = MOST) -> None:
        self._seconds = seconds
        self._most = most
        self._endings: OrderedDict[bytes, tuple[float, Reply]] = OrderedDict()
        self._folded = Counter(
            "mailfarm_mx_folded", "Mail sent again that was folded into the first", registry=registry
        )

    def unheard(self, key: bytes, reply: Reply) -> None:
        """A connection has ended with this the last that happened on it."""
        self._endings[key] = self._seconds(), reply
        self._endings.move_to_end(key)
        if len(self._endings) > self._most:
            self._endings.popitem(last=False)

    async def again(self, key: bytes, content: Chunked) -> Reply | None:
        """What the first was answered, if this is the second; None: it is mail like any other. The ending is forgotten
        either way."""
        at, reply = self._endings.pop(key, (0.0, None))
        if reply is None or self._seconds() - at > AGE or not await _has_message_id(content):
            return None
        self._folded.inc()
        return reply

    def __len__(self) -> int:
        return len(self._endings)


async def _has_message_id(content: Chunked) -> bool:
    """Whether it has a Message-ID that is not empty, within its first ``CHUNK`` octets or so."""
    head = b""
    async for piece in content.chunks():
        head += piece
        if len(head) >= CHUNK or b"\n\r\n" in head:
            break
    return bool(plain(read_section(head).get("message-id")).strip("<>"))
