"""Whether the Redis of a queue has room, and whether it is set up to keep what it is given.

The figures are looked up once a second, so that ``admit`` costs no round trip; what this process has put and ended
since is added to them. Mail is refused before its content when the server's memory is filled to four fifths: the rest
is for what is under way, whose content was already received.

At three quarters of any cap, and when mail would wait too long until it is filed (``queue_wait``), the queue is too far
behind. It tells from half of that on, and who lets mail in decides what follows (``inbound/pressure``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from mailfarm.errors import QueueBehind, QueueFull, QueueRefuses, QueueUnavailable, TooLarge

from .queue_wait import Ahead, Wait
from .redis_connection import Connection, RedisRefused
from .redis_link import RedisLink

SHARE = 0.8
"""The part of the server's maxmemory above which no more mail is admitted."""

BEHIND = 0.75
"""The part of each cap from which on less should come in."""

FRESH = 1.5
"""Seconds for which figures are good."""

_WANTED = {
    b"appendonly": (b"yes", "it keeps no append-only file: set `appendonly yes`"),
    b"appendfsync": (b"always", "it answers before it has synced: set `appendfsync always`"),
    b"no-appendfsync-on-rewrite": (
        b"no",
        "it does not sync while it rewrites its file: set `no-appendfsync-on-rewrite no`",
    ),
    b"maxmemory-policy": (b"noeviction", "it may throw entries away: set `maxmemory-policy noeviction`"),
}
_OLDEST = (7, 0)

_log = Logger()


class ServerCheck:
    """Asks a server whether it would keep mail. ``complaint`` says why it would not; empty when it would, or may not be
    asked. ``replicated`` is for a server that sentinels watch; ``max_size`` is the largest mail we take, in octets; 0
    for a process that takes none."""

    def __init__(self, name: str, replicated: bool, max_size: int = 0) -> None:
        self.complaint = ""
        self._name = name
        self._replicated = replicated
        self._max_size = max_size
        self._said = ""

    async def look(self, place: Connection | RedisLink) -> None:
        """Ask on a connection or a link. Raises RedisAway; what an ACL forbids is passed over, and logged once."""
        ask = place.send if isinstance(place, Connection) else place.command
        names = [*_WANTED, b"min-replicas-to-write", b"maxmemory"]
        unasked = ""
        config: dict[bytes, bytes] = {}
        try:
            flat = await ask("CONFIG", "GET", *names)
            config = dict(zip(flat[::2], flat[1::2], strict=False))
        except RedisRefused as error:
            unasked = str(error)
        wrong = [text for key, (good, text) in _WANTED.items() if config.get(key, good) != good]
        try:
            server = await ask("INFO", "server")
            version = _version(server)
            if version and version < _OLDEST:
                wrong.append("it is older than Redis 7.0")
        except RedisRefused:
            pass
        self.complaint = f"the Redis of the queue cannot be trusted with mail: {'; '.join(wrong)}" if wrong else ""
        advice = ""
        most = int(SHARE * int(config.get(b"maxmemory", b"0")))
        if self._replicated and config.get(b"min-replicas-to-write", b"1") == b"0":
            advice = "min-replicas-to-write is 0: a master that was cut off takes mail it cannot confirm; set it to 1"
        elif config.get(b"maxmemory") == b"0":
            advice = "maxmemory is not set: a full queue is noticed by the kernel, which ends it; set it"
        elif most and self._max_size > most:
            advice = (
                f"MAILFARM_MAX_SIZE is {self._max_size} octets, and {SHARE:.0%} of its maxmemory are {most}: larger "
                f"mail is answered 552; set maxmemory to {int(self._max_size / SHARE) + 1} at least, better to several "
                "times that, or lower MAILFARM_MAX_SIZE"
            )
        elif unasked:
            advice = f"whether it keeps what it is given could not be checked ({unasked})"
        self._say(self.complaint or advice)

    def _say(self, text: str) -> None:
        if text == self._said:
            return
        self._said = text
        if self.complaint:
            _log.error("{name}: {text}", name=self._name, text=text)
        elif text:
            _log.warn("{name}: {text}", name=self._name, text=text)
        else:
            _log.info("{name}: it is set up to keep mail now", name=self._name)


class RedisRoom:
    """Caps on entries and octets, and on the server's memory; ``max_wait`` is how many seconds mail may wait until
    it is filed, 0: any. ``seconds`` is a steady clock."""

    def __init__(self, seconds: Callable[[], float], max_entries: int, max_octets: int, max_wait: float = 0.0) -> None:
        self.max_entries = max_entries
        self.max_octets = max_octets
        self._max_wait = max_wait
        self._wait = Wait()
        self._seconds = seconds
        self._measured: float | None = None
        self._entries = 0
        self._octets = 0
        self._used = 0
        self._limit = 0
        self._full_until = 0.0

    @property
    def fresh(self) -> bool:
        """Whether the figures are recent enough to decide by."""
        return self._measured is not None and self._seconds() - self._measured < FRESH

    @property
    def wait(self) -> float:
        """Seconds until what is put now will be filed."""
        return self._wait.at(self._seconds())

    def measured(self, entries: int, octets: int, used: int, limit: int, ahead: Ahead) -> None:
        """What the server says now; ``limit`` 0 is none."""
        self._measured = self._seconds()
        self._wait.saw(self._measured, ahead)
        self._entries, self._octets, self._used, self._limit = entries, octets, used, limit

    def add(self, entries: int, octets: int) -> None:
        """So much was put since, or ended."""
        self._entries += entries
        self._octets += octets
        self._used += octets
        self._wait.put(max(entries, 0))

    def overflowed(self) -> None:
        """The server has just found no memory: for a second nobody else need try."""
        self._full_until = self._seconds() + 1.0

    def fits(self, size: int) -> None:
        """Raises TooLarge for what it could not even hold when it is empty, as far as that is known."""
        most = min(self.max_octets, int(SHARE * self._limit)) if self._limit else self.max_octets
        if size > most:
            raise TooLarge(f"{size} octets are more than the queue can ever hold, which is {most} (see its maxmemory)")

    def check(self, size: int) -> None:
        """Raises QueueFull, QueueBehind, TooLarge."""
        self.fits(size)
        if self._entries >= self.max_entries:
            raise QueueFull(f"the queue holds {self._entries} entries, which is its cap")
        if self._octets + size > self.max_octets:
            raise QueueFull(f"the queue holds {self._octets} octets of {self.max_octets}")
        if self._seconds() < self._full_until:
            raise QueueFull("the queue's Redis has just found no memory")
        if self._limit and self._used + size > SHARE * self._limit:
            used = f"{self._used} octets of {self._limit}"
            raise QueueFull(f"the queue's Redis uses {used}; mail is taken up to {SHARE:.0%} of them")
        filled = max(self._entries / self.max_entries, (self._octets + size) / self.max_octets)
        if self._limit:
            filled = max(filled, (self._used + size) / (SHARE * self._limit))
        by = filled / BEHIND
        late = self.wait / self._max_wait if self._max_wait else 0.0
        if max(by, late) < QueueBehind.HALF:
            return
        if by >= late:
            raise QueueBehind(f"the queue is filled to {filled:.0%}", by)
        text = f"mail waits {late * self._max_wait:.0f} s until it is filed, and {self._max_wait:g} s are allowed"
        raise QueueBehind(text, late, self._max_wait)


def _version(info: Any) -> tuple[int, ...]:
    for line in bytes(info).split(b"\r\n"):
        if line.startswith(b"redis_version:"):
            return tuple(int(part) for part in line.partition(b":")[2].split(b".")[:2] if part.isdigit())
    return ()


def unavailable(link: RedisLink, check: ServerCheck) -> QueueUnavailable | None:
    """Why nothing may be put now, if so."""
    if not link.connected:
        return (QueueRefuses if link.refused else QueueUnavailable)(f"{link} is away: {link.why}")
    if check.complaint:
        return QueueRefuses(check.complaint)
    return None
