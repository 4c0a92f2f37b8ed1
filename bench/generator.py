"""The load generator's engine: one process, one epoll loop, many SMTP sessions.

A closed loop (no rate) begins the next message when a session's last was answered; the rate is then the server's. In an
open loop messages are due at fixed times whatever the server does, and one that had to wait for a free session has
waited: its latency counts from when it was due (no "coordinated omission").
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from abc import ABC, abstractmethod
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from connection import Connection
from corpus import Mail, halves, stamp
from smtp_dialog import Dialog, Options, proxy_header

MOST_ERRORS = 50
"""After so many a run ends."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send where. Ends after ``messages`` or ``seconds``, whichever is given. ``rate`` 0 is a closed loop.

    ``label``, at most eight characters, and the message's number are the left side of its Message-ID, so that each is
    different and a reader can tell which ones are there. Without one, mails are sent as they are.
    """

    host: str
    port: int
    options: Options = Options()
    sessions: int = 50
    messages: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    size: str = "4000"
    seed: int = 5321
    timeout: float = 30.0
    label: str = ""


@dataclass(slots=True)
class Result:
    """What came of it. ``dot`` and ``whole`` are seconds, one a message; ``began`` and ``ended`` are monotonic.

    ``numbers`` are those of the messages that were answered 250, and ``accepted`` when that was (monotonic)."""

    messages: int = 0
    octets: int = 0
    began: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0
    dot: array[float] = field(default_factory=lambda: array("d"))
    whole: array[float] = field(default_factory=lambda: array("d"))
    numbers: array[int] = field(default_factory=lambda: array("L"))
    accepted: array[float] = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: Result) -> None:
        """Take in what another process did at the same time."""
        self.began = min(self.began or other.began, other.began)
        self.ended = max(self.ended, other.ended)
        self.messages += other.messages
        self.octets += other.octets
        self.cpu += other.cpu
        self.dot.extend(other.dot)
        self.whole.extend(other.whole)
        self.numbers.extend(other.numbers)
        self.accepted.extend(other.accepted)
        self.errors.update(other.errors)

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / max(self.ended - self.began, 1e-9)

    def form(self) -> dict[str, Any]:
        """The JSON that is printed."""
        return {
            "messages": self.messages,
            "began": self.began,
            "ended": self.ended,
            "seconds": round(self.ended - self.began, 3),
            "messages_per_second": round(self.rate, 1),
            "mib_per_second": round(self.octets / max(self.ended - self.began, 1e-9) / 2**20, 2),
            "dot_ms": percentiles(self.dot),
            "whole_ms": percentiles(self.whole),
            "generator_cpu_seconds": round(self.cpu, 3),
            "generator_cpu_us_per_message": round(self.cpu / max(self.messages, 1) * 1e6, 1),
            "errors": dict(self.errors.most_common(10)),
            "errors_total": sum(self.errors.values()),
        }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, in milliseconds, by nearest rank; empty if there are none."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    last = len(ordered) - 1
    ranks = {f"p{p}": ordered[min(last, -(-p * len(ordered) // 100) - 1)] for p in (50, 95, 99)}
    return {name: round(value * 1000, 3) for name, value in {**ranks, "max": ordered[-1]}.items()}


class Engine(ABC):
    """Runs a plan in this process on an epoll loop of its own: what is sent when. How is what its subclasses know."""

    def __init__(self, plan: Plan, mails: Sequence[Mail]) -> None:
        self._plan = plan
        self._mails = mails
        self._halves = [halves(mail.wire) for mail in mails] if plan.label else []
        self._poll = select.epoll()
        self._sessions: dict[int, Any] = {}
        self._idle: deque[Any] = deque()
        self._begun = self._running = self._faults = 0
        self._result = Result()
        self._stop_at = float("inf")
        self._started = False

    def run(self, start: Callable[[], None] | None = None) -> Result:
        """Send everything and return what came of it. ``start`` is called, and waited for, before the clock starts."""
        plan, result = self._plan, self._result
        if plan.options.kept or plan.rate:
            self._open_all(min(plan.sessions, plan.messages or plan.sessions))
        if start:
            start()
        cpu = time.process_time()
        result.began = result.ended = time.monotonic()
        self._started = True
        if plan.seconds:
            self._stop_at = result.began + plan.seconds
        if plan.rate:
            self._open_loop()
        else:
            self._closed_loop()
        result.cpu = time.process_time() - cpu
        for session in list(self._sessions.values()):
            self._quit(session)
            self._close(session)
        self._poll.close()
        return result

    def _open_all(self, count: int) -> None:
        """Connections are made, greeted and authenticated before the clock starts."""
        deadline = time.monotonic() + self._plan.timeout
        while len(self._idle) < count and time.monotonic() < deadline and self._faults < MOST_ERRORS:
            self._connect_up_to(count)
            self._turn(0.2)

    def _closed_loop(self) -> None:
        plan = self._plan
        while self._faults < MOST_ERRORS:
            if self._more(now := time.monotonic()):
                while self._idle and self._more(now):
                    self._begin(self._idle.popleft(), now)
                left = plan.messages - self._begun + self._running if plan.messages else plan.sessions
                self._connect_up_to(min(plan.sessions, left))
            elif not self._running:
                return
            self._turn(0.2)

    def _open_loop(self) -> None:
        """Messages are due at fixed times; one that has to wait for a free session has waited."""
        plan, began = self._plan, self._result.began
        due: deque[float] = deque()
        number = 0
        total = plan.messages or int(plan.seconds * plan.rate)
        while self._faults < MOST_ERRORS:
            now = time.monotonic()
            while number < total and (at := began + number / plan.rate) <= now:
                due.append(at)
                number += 1
            while due and self._idle:
                self._begin(self._idle.popleft(), now, due.popleft())
            if number == total and not due and not self._running:
                return
            self._connect_up_to(plan.sessions)
            wait = min(0.2, began + number / plan.rate - now) if number < total else 0.2
            # epoll counts milliseconds; select, asked about the one descriptor, is exact
            if wait > 0:
                select.select([self._poll], [], [], wait)
            self._turn(0)

    def _more(self, now: float) -> bool:
        return now < self._stop_at and (not self._plan.messages or self._begun < self._plan.messages)

    def _connect_up_to(self, count: int) -> None:
        while len(self._sessions) < count and self._faults < MOST_ERRORS:
            self._connect()

    def _error(self, what: str) -> None:
        self._result.errors[what] += 1
        self._faults += 1

    @abstractmethod
    def _turn(self, wait: float) -> None:
        """Work on what happens within so many seconds."""

    @abstractmethod
    def _connect(self) -> None:
        """One more session; or an error more."""

    @abstractmethod
    def _begin(self, session: Any, now: float, due: float = 0.0) -> None:
        """The next message, on an idle session."""

    @abstractmethod
    def _quit(self, session: Any) -> None:
        """Say so, if the session is at rest."""

    @abstractmethod
    def _close(self, session: Any) -> None:
        """Forget it."""


class Load(Engine):
    """Any session: with TLS and AUTH too."""

    def __init__(self, plan: Plan, mails: Sequence[Mail]) -> None:
        super().__init__(plan, mails)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False  # a test server's own certificate, on this machine
        self._context.verify_mode = ssl.CERT_NONE

    def _turn(self, wait: float) -> None:
        now = time.monotonic()
        events = self._poll.poll(wait)
        if not events:
            self._look_for_stalled(now)
        now = time.monotonic()
        sessions = self._sessions
        for fd, event in events:
            session = sessions.get(fd)
            if session is None:
                continue
            if event & select.EPOLLOUT:
                self._flush(session, now)
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and session.sock.fileno() >= 0:
                self._read(session)

    # --- one session ------------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        plan, options = self._plan, self._plan.options
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        now = time.monotonic()
        error = sock.connect_ex((plan.host, plan.port))
        if error not in (0, errno.EINPROGRESS):
            sock.close()
            self._error(f"connect: {os.strerror(error)}")
            return
        header = b""
        if options.source:
            header = proxy_header(options.source, 1024 + len(self._sessions) % 60_000, (plan.host, plan.port))
        session = Connection(Dialog(options), sock, header)
        session.moved = session.begun = now
        self._sessions[sock.fileno()] = session
        session.watching = select.EPOLLIN | select.EPOLLOUT
        self._poll.register(sock.fileno(), session.watching)
        if options.security == "tls":
            session.start_tls(self._context)

    def _begin(self, session: Connection, now: float, due: float = 0.0) -> None:
        mail = self._mails[self._begun % len(self._mails)]
        wire = mail.wire
        if self._halves:
            before, after = self._halves[self._begun % len(self._mails)]
            wire = before + stamp(self._plan.label, self._begun) + after
        session.number = self._begun
        self._begun += 1
        self._running += 1
        session.busy = True
        session.idle = False
        session.mail_size = len(mail.content)
        session.dot_at = 0.0
        # on a connection of its own a message's time includes the connection
        session.due = due or (now if self._plan.options.kept else session.begun)
        session.dialog.begin(wire)
        self._flush(session, now)

    def _read(self, session: Connection) -> None:
        try:
            data = session.receive()
        except OSError as error:
            self._fault(session, f"connection: {error.strerror or error}")
            return
        now = session.moved = time.monotonic()
        dialog = session.dialog
        if data is None:
            dialog.lost()
            if dialog.fault:
                self._fault(session, dialog.fault)
            else:
                self._close(session)
            return
        if data:
            dialog.received(data)
        if dialog.accepted and session.busy and not session.dot_at:
            dialog.fault = "the content was answered before it was sent"
        if dialog.fault:
            self._fault(session, dialog.fault)
            return
        if dialog.accepted and session.busy:
            session.busy = False
            self._running -= 1
            self._count(session, now)
        if dialog.secure and not session.handshaking:
            session.start_tls(self._context)
        elif dialog.finished:
            self._close(session)
            return
        self._flush(session, now)
        if dialog.ready and not session.busy and not session.idle:
            if self._started and not self._plan.rate and self._more(now):
                self._begin(session, now)
            else:
                session.idle = True
                self._idle.append(session)

    def _count(self, session: Connection, now: float) -> None:
        result = self._result
        result.messages += 1
        result.octets += session.mail_size
        result.ended = now
        result.dot.append(now - session.dot_at)
        result.whole.append(now - session.due)
        result.numbers.append(session.number)
        result.accepted.append(now)

    def _flush(self, session: Connection, now: float) -> None:
        before = time.monotonic()
        try:
            session.flush()
        except OSError as error:
            self._fault(session, f"connection: {error.strerror or error}")
            return
        if session.dialog.content_sent and not session.pending and not session.dot_at:
            session.dot_at = before
        wanted = select.EPOLLIN | (select.EPOLLOUT if session.pending else 0)
        if wanted != session.watching:
            session.watching = wanted
            session.moved = now
            self._poll.modify(session.sock.fileno(), wanted)

    def _quit(self, session: Connection) -> None:
        if not session.dialog.fault and session.dialog.ready:
            session.dialog.quit()
            self._flush(session, time.monotonic())

    # --- ends -------------------------------------------------------------------------------------------------------
    def _look_for_stalled(self, now: float) -> None:
        for session in list(self._sessions.values()):
            if not session.idle and now - session.moved > self._plan.timeout:
                session.dialog.timed_out()
                self._fault(session, session.dialog.fault)

    def _fault(self, session: Connection, what: str) -> None:
        self._error(what)
        if session.busy:
            session.busy = False
            self._running -= 1
        self._close(session)

    def _close(self, session: Connection) -> None:
        fd = session.sock.fileno()
        if fd < 0:
            return
        self._sessions.pop(fd, None)
        if session.idle:
            self._idle.remove(session)
        self._poll.unregister(fd)
        session.sock.close()
