"""A TCP relay between one part and another that can be cut, stalled, slowed, led elsewhere.

::

    with Wires() as wires:                       # one thread for any number of wires
        wire = wires.wire(("127.0.0.1", 6379))   # connect to wire.host, wire.port instead
        wire.cut()                               # every connection gets RST; new ones pass
        wire.refuse()                            # the same, and new connects are refused
        wire.stall()                             # a black hole: nothing passes, no FIN, no RST; new connects hang
        wire.stall("down", connects="silent")    # answers alone are lost; new connects are accepted, and nothing comes
        wire.slow(delay=0.2, rate=10_000)        # each octet 0.2 s later, 10,000 of them a second each way
        wire.heal()                              # as it was; what was held back goes on its way
        wire.point(("127.0.0.1", 6380))          # new connections lead there
        wire.watch(Swallow)                      # what passes on a new connection is seen, and may end it

What a call says is so when it has returned. A stall keeps what it holds, as a network does that loses packets for a
while: healed, it hands everything on, also from a peer that has given up and hung up meanwhile. That is how an answer,
or the end of a lease, comes too late.

Way "up" leads from who connected to where the wire leads, "down" back.

Each way of a connection holds at most 256 KiB (``wire_link.HELD``); then nothing more is read, and the sender's own
window fills. A wire carries ``MOST`` connections.
"""

from __future__ import annotations

import collections
import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from .wire_link import Direction, Link, Tap, Way, reset

T = TypeVar("T")
Address = tuple[str, int]

MOST = 2000
"""Connections at a time on one wire. A connect above that gets RST."""
BACKLOG = 1000
"""Connections that wait to be taken while the thread is busy."""


class Wires:
    """The thread that serves all wires made by it. Close it when all who use them have ended."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.late: set[Way] = set()  # those whose next octets are not due yet
        self._wires: set[Wire] = set()
        self._asked: collections.deque[Callable[[], None]] = collections.deque()
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._ended = False
        self.selector.register(self._ear, selectors.EVENT_READ, self._heard)
        self._thread = threading.Thread(target=self._run, name="wires", daemon=True)
        self._thread.start()

    def wire(self, to: Address, name: str = "") -> Wire:
        """A new wire to ``to``. ``name`` is for people."""
        wire = Wire(self, to, name)
        self._wires.add(wire)
        return wire

    def do(self, work: Callable[[], T]) -> T:
        """Have the thread do ``work``; what it gave or raised."""
        if self._ended:
            raise RuntimeError("the wires are closed")
        done = threading.Event()
        outcome: list[Any] = [None, None]

        def asked() -> None:
            try:
                outcome[0] = work()
            except Exception as error:
                outcome[1] = error
            done.set()

        self._asked.append(asked)
        self._mouth.send(b"!")
        if not done.wait(30):
            raise TimeoutError("the thread of the wires does not answer")
        if outcome[1] is not None:
            raise outcome[1]
        given: T = outcome[0]
        return given

    def close(self) -> None:
        """Cut all and end the thread. Idempotent."""
        if self._ended:
            return
        for wire in tuple(self._wires):
            wire.close()
        self._ended = True
        self._mouth.send(b".")
        self._thread.join(30)
        self.selector.close()
        self._ear.close()
        self._mouth.close()

    def forget(self, wire: Wire) -> None:
        """It is closed."""
        self._wires.discard(wire)

    def _run(self) -> None:
        while not self._ended:
            due = min((way.due for way in self.late), default=None)
            found = self.selector.select(None if due is None else max(0.0, due - time.monotonic()))
            for key, mask in found:
                key.data(mask)
            now = time.monotonic()
            for way in [way for way in self.late if way.due <= now]:
                way.link.look()

    def _heard(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ear.recv(4096)
        while self._asked:
            self._asked.popleft()()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Wire:
    """One relay. ``host`` and ``port`` are where it listens, for as long as it lives."""

    def __init__(self, wires: Wires, to: Address, name: str) -> None:
        self.wires = wires
        self.to = to
        self.name = name
        self.accepted = 0
        """Connections taken so far."""
        self.octets: dict[Direction, int] = {"up": 0, "down": 0}
        """Octets handed on so far."""
        self.links: set[Link] = set()
        self.stalled: set[Direction] = set()
        self.delay = 0.0
        self.rate: float | None = None
        self.tap: Callable[[], Tap] | None = None
        self._connects = "refuse"
        self._filler: socket.socket | None = None
        self._listener: socket.socket | None = None
        # bound and never listening: it keeps the port ours while connects are refused
        self._keeper = _bound(("127.0.0.1", 0))
        self.host, self.port = self._keeper.getsockname()
        wires.do(lambda: self._open("pass"))

    @property
    def address(self) -> str:
        """``host:port``, for a URL."""
        return f"{self.host}:{self.port}"

    @property
    def open(self) -> int:
        """Connections there are now."""
        return len(self.links)

    def cut(self) -> int:
        """RST to both ends of every connection; how many there were."""
        return self.wires.do(self._cut)

    def refuse(self) -> None:
        """``cut``, and refuse new connects, until ``heal``."""

        def refuse() -> None:
            self._open("refuse")
            self._cut()

        self.wires.do(refuse)

    def stall(self, way: Direction | Literal["both"] = "both", connects: Literal["hang", "silent"] = "hang") -> None:
        """Hand nothing on, one way or both, until ``heal``, and tell nobody. New connects get no answer ("hang"), or
        are accepted and lead nowhere yet ("silent"); both as if the host were behind a firewall that drops packets."""

        def stall() -> None:
            self.stalled = {"up", "down"} if way == "both" else {way}
            self._open(connects)
            self._look()

        self.wires.do(stall)

    def slow(self, delay: float = 0.0, rate: float | None = None) -> None:
        """Hand everything on ``delay`` seconds later, and at most ``rate`` octets a second each way, until ``heal``."""

        def slow() -> None:
            self.delay, self.rate = delay, rate

        self.wires.do(slow)

    def heal(self) -> None:
        """Everything passes, that which was held first."""

        def heal() -> None:
            self.stalled = set()
            self.delay, self.rate = 0.0, None
            self._open("pass")
            self._look()

        self.wires.do(heal)

    def point(self, to: Address) -> None:
        """Lead new connections to ``to``. Those there are stay; ``cut`` ends them."""
        self.to = to

    def watch(self, tap: Callable[[], Tap] | None) -> None:
        """Have a new ``tap()`` see each connection that is made from now on; None: no more."""
        self.tap = tap

    def close(self) -> None:
        """Cut everything and listen no more. Idempotent."""

        def close() -> None:
            self._open("refuse")
            self._cut()
            self._keeper.close()

        self.wires.do(close)
        self.wires.forget(self)

    # ---- in the thread

    def _cut(self) -> int:
        links = tuple(self.links)
        for link in links:
            link.end()
        return len(links)

    def _look(self) -> None:
        for link in tuple(self.links):
            link.look()

    def _open(self, connects: str) -> None:
        """What becomes of new connects: pass, silent, hang, refuse."""
        if connects == self._connects:
            return
        if self._filler is not None:
            self._unfill()
        elif self._listener is not None:
            self.wires.selector.unregister(self._listener)
        listener, self._connects = self._listener, connects
        if connects == "refuse":
            if listener is not None:
                listener.close()
            self._listener = None
            return
        if listener is None:
            listener = self._listener = _bound((self.host, self.port))
            listener.listen(BACKLOG)
        if connects == "hang":
            self._fill()
        else:
            self.wires.selector.register(listener, selectors.EVENT_READ, lambda mask: self._accept())

    def _fill(self) -> None:
        """Linux drops SYNs while as many connections wait to be accepted as the listener allows: of none, one."""
        assert self._listener is not None
        self._accept()
        self._listener.listen(0)
        self._filler = socket.socket()
        self._filler.setblocking(False)
        self._filler.connect_ex((self.host, self.port))

    def _unfill(self) -> None:
        assert self._listener is not None
        assert self._filler is not None
        self._listener.listen(BACKLOG)
        self._accept(self._filler.getsockname())
        self._filler.close()
        self._filler = None

    def _accept(self, filler: Address | None = None) -> None:
        while self._listener is not None:
            try:
                client, where = self._listener.accept()
            except OSError:  # nobody more, or gone again
                return
            if where == filler or len(self.links) >= MOST:
                reset(client)
                continue
            self.accepted += 1
            link = Link(self, client)
            self.links.add(link)
            link.look()


def _bound(where: Address) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(where)
    return made
