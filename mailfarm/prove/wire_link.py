"""One connection through a wire: two sockets, and a way from each to the other. Run by the thread of ``wire.Wires``."""

from __future__ import annotations

import collections
import contextlib
import errno
import selectors
import socket
import struct
import time
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from .wire import Wire

Direction = Literal["up", "down"]

CHUNK = 64 * 1024
"""Octets that are read at once."""
HELD = 256 * 1024
"""Octets that each way holds; then nothing more is read, and the sender's own window fills."""
_SLICE = 0.05  # seconds of a slowed way's rate that are read at once
_RST = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close() sends RST


class Tap(Protocol):
    """Sees what passes on one connection. ``passes`` gives what goes on instead, or None: the connection is cut."""

    def passes(self, way: Direction, data: bytes) -> bytes | None:
        """``data`` is what came at once, at most CHUNK octets."""


class Link:
    """A connection and its continuation. ``client`` has connected to us, ``server`` is where the wire leads."""

    def __init__(self, wire: Wire, client: socket.socket) -> None:
        self.wire = wire
        self.tap = wire.tap() if wire.tap is not None else None
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client = client
        self.server = socket.socket()
        self.server.setblocking(False)
        self.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._state: Literal["new", "connecting", "open", "ended"] = "new"
        self._masks: dict[socket.socket, int] = {}
        self.up = Way(self, "up", client, self.server)
        self.down = Way(self, "down", self.server, client)

    def look(self) -> None:
        """Do what can be done now, and wait for what cannot."""
        if self._state == "new" and not self.wire.stalled:
            self._state = "connecting"
            if self.server.connect_ex(self.wire.to) not in (0, errno.EINPROGRESS):
                self.end()
        if self._state == "open":
            self.up.flush()
            self.down.flush()
        if self._state != "ended":
            self._await()

    def _await(self) -> None:
        connecting = self._state == "connecting" and not self.wire.stalled
        opened = self._state == "open"
        for sock, out, back in ((self.client, self.up, self.down), (self.server, self.down, self.up)):
            mask = selectors.EVENT_READ if opened and out.hungry else 0
            if (opened and back.ready) or (connecting and sock is self.server):
                mask |= selectors.EVENT_WRITE
            self._listen(sock, mask)

    def _listen(self, sock: socket.socket, mask: int) -> None:
        before = self._masks.get(sock, 0)
        self._masks[sock] = mask
        if before == mask:
            return
        if not before:
            self.wire.wires.selector.register(sock, mask, lambda found: self._happened(sock, found))
        elif not mask:
            self.wire.wires.selector.unregister(sock)
        else:
            self.wire.wires.selector.modify(sock, mask, lambda found: self._happened(sock, found))

    def _happened(self, sock: socket.socket, mask: int) -> None:
        if self._state == "ended":
            return
        if self._state == "connecting":
            if self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.end()
                return
            self._state = "open"
        elif mask & selectors.EVENT_READ:
            (self.up if sock is self.client else self.down).read()
        self.look()

    def over(self) -> None:
        """Both ways have told their end."""
        if self.up.told and self.down.told:
            self.end()

    def other(self, way: Way) -> Way:
        """The way back."""
        return self.down if way is self.up else self.up

    def end(self) -> None:
        """Forget it; whoever has not heard FIN yet gets RST. Idempotent."""
        if self._state == "ended":
            return
        self._state = "ended"
        self.wire.links.discard(self)
        for sock, way in ((self.client, self.down), (self.server, self.up)):
            self._listen(sock, 0)
            sock.close() if way.told else reset(sock)
        self.wire.wires.late -= {self.up, self.down}


class Way:
    """What goes from ``source`` to ``sink``. ``due`` is when the next of it may."""

    def __init__(self, link: Link, name: Direction, source: socket.socket, sink: socket.socket) -> None:
        self.link = link
        self._name = name
        self._source, self._sink = source, sink
        self._held: collections.deque[tuple[float, bytes]] = collections.deque()
        self._octets = 0
        self._last = 0.0
        self._end: Literal["", "fin", "reset"] = ""
        self._nobody = False  # who should read it has gone
        self._broken = False  # the source has gone, and has not said goodbye
        self.told = False

    @property
    def stalled(self) -> bool:
        """Nothing is read and nothing handed on."""
        return self._name in self.link.wire.stalled

    @property
    def hungry(self) -> bool:
        """There is room for more."""
        return not self._end and not self.stalled and self._octets < HELD

    @property
    def ready(self) -> bool:
        """Something may be handed on as soon as the sink takes it."""
        return bool(self._held) and not self.stalled and self._held[0][0] <= time.monotonic()

    @property
    def due(self) -> float:
        """When the next of it may be handed on."""
        return self._held[0][0] if self._held else self._last

    def read(self) -> None:
        """Take what there is."""
        wire = self.link.wire
        some = min(CHUNK, HELD - self._octets)
        if wire.rate is not None:
            some = max(1, min(some, int(wire.rate * _SLICE)))
        try:
            data = self._source.recv(some)
        except BlockingIOError:
            return
        except OSError:
            self._end = "reset"
            return
        now = time.monotonic()
        self._last = max(self._last, now + wire.delay) if wire.delay or wire.rate is not None else self._last
        if not data:
            self._end = "reset" if self._broken else "fin"
            return
        if self.link.tap is not None:
            passed = self.link.tap.passes(self._name, data)
            if passed is None:
                self.link.end()
                return
            data = passed
        if data and not self._nobody:
            if wire.rate is not None:
                self._last += len(data) / wire.rate
            self._held.append((self._last, data))
            self._octets += len(data)

    def flush(self) -> None:
        """Hand on what is due, and then the end, if it has come to that."""
        late = self.link.wire.wires.late
        late.discard(self)
        if self.stalled or self.told:
            return
        while self.ready:
            due, data = self._held.popleft()
            try:
                sent = self._sink.send(data)
            except BlockingIOError:
                self._held.appendleft((due, data))
                return
            except OSError:
                self._lost()
                return
            self._octets -= sent
            self.link.wire.octets[self._name] += sent
            if sent < len(data):
                self._held.appendleft((due, data[sent:]))
                return
        if self._held or (self._end and self._last > time.monotonic()):
            late.add(self)
        elif self._end == "reset":
            self.link.end()
        elif self._end == "fin":
            self.told = True
            with contextlib.suppress(OSError):
                self._sink.shutdown(socket.SHUT_WR)
            self.link.over()

    def _lost(self) -> None:
        """The sink is gone. Whoever sends to it hears of it by the way back, when that is not stalled."""
        self._held.clear()
        self._octets = 0
        self._nobody = True
        self.link.other(self)._broken = True


def reset(sock: socket.socket) -> None:
    """Close it with RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    sock.close()
