"""The generator's inner loop for plain SMTP, as cheap as Python can: it shares the cores with what it measures.

``generator.Load`` speaks TLS and AUTH, by way of ``dialog``; this speaks neither, and sends the same in half the CPU.
What keeps it honest: a reply is compared, octet for octet, with one of the same kind that was checked in full
(``replies``); one that differs is checked in full itself. So is every answer to the final dot. The result and its
promises are those of ``generator``: nothing is counted that was not answered 250.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Final

import replies
from corpus import Mail, stamp
from generator import Engine, Plan
from smtp_dialog import proxy_header

_READ: Final = 8192
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_EHLO: Final = b"EHLO load.shop.example\r\n"
_EARLY: Final = "the content was answered before it was sent"


class Session:
    """One connection. ``state`` is the kind of reply that is due, "batch" for those to MAIL, RCPT and DATA together, or
    empty. ``left`` are the RCPT lines to come, last first."""

    __slots__ = (
        "begun",
        "busy",
        "dot_at",
        "due",
        "fd",
        "idle",
        "left",
        "moved",
        "number",
        "pending",
        "recv",
        "rest",
        "send",
        "sock",
        "state",
    )

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.recv, self.send = sock.recv, sock.send
        self.state = "greeting"
        self.left: list[bytes] = []
        self.pending = self.rest = b""
        self.busy = self.idle = False
        self.begun = self.moved = now
        self.due = self.dot_at = 0.0
        self.number = 0


class Swift(Engine):
    """Runs a plan without TLS and AUTH. Used as ``generator.Load``."""

    def __init__(self, plan: Plan, mails: Sequence[Mail]) -> None:
        super().__init__(plan, mails)
        options = plan.options
        self._known: dict[str, bytes] = {}
        self._connected = 0
        self._mail = b"MAIL FROM:<%b>\r\n" % options.sender.encode()
        to = [b"RCPT TO:<%b>\r\n" % address.encode() for address in options.recipients]
        self._groups = [[line] for line in to] if options.one_each else [to[::-1]]
        self._batches = [b"".join([self._mail, *group[::-1], b"DATA\r\n"]) for group in self._groups]
        self._waits = ("mail", *["rcpt"] * len(self._groups[0]), "data")

    def _turn(self, wait: float) -> None:
        sessions, known, clock = self._sessions, self._known, time.monotonic
        events = self._poll.poll(wait)
        if not events:
            self._look_for_stalled(clock())
        for fd, event in events:
            session = sessions.get(fd)
            if session is None:
                continue
            if event & _OUT:
                self._flush(session)
                if not event & _IN:
                    continue
            try:
                data = session.recv(_READ)
            except BlockingIOError:
                continue
            except OSError as error:
                self._fault(session, f"connection: {error.strerror or error}")
                continue
            now = session.moved = clock()
            state = session.state
            if data != known.get(state) or session.rest:
                if not data:
                    self._lost(session)
                    continue
                if not self._right(session, session.rest + data, now):
                    continue
            # the reply is the right one, and whole: what comes next
            if state == "end":
                if session.pending:
                    self._fault(session, _EARLY)
                    continue
                self._count(session, now)
                if not self._plan.options.kept:
                    session.state = "quit"
                    self._say(session, b"QUIT\r\n")
                elif self._plan.rate or not self._more(now):
                    self._rest(session)
                else:
                    self._begin(session, now)
            elif state == "data" or state == "batch":
                self._content(session, now)
            elif state == "mail" or state == "rcpt":
                if session.left:
                    session.state = "rcpt"
                    self._say(session, session.left.pop())
                else:
                    session.state = "data"
                    self._say(session, b"DATA\r\n")
            else:
                self._greeted(session, state, now)

    def _greeted(self, session: Session, state: str, now: float) -> None:
        """Before the first message, and after the last."""
        if state == "greeting":
            session.state = "ehlo"
            self._say(session, _EHLO)
        elif state == "quit":
            self._close(session)
        elif self._started and not self._plan.rate and self._more(now):
            self._begin(session, now)
        else:
            self._rest(session)

    # --- replies ----------------------------------------------------------------------------------------------------
    def _right(self, session: Session, data: bytes, now: float) -> bool:
        """Check in full what is not as ever: whether all that was due has come, and is right."""
        state, at = session.state, 0
        session.rest = b""
        for kind in self._waits if state == "batch" else (state,):
            if not kind:
                self._fault(session, f"a reply nobody waits for: {data[:80]!r}")
                return False
            end = replies.end_of(data, at)
            if wrong := replies.fault(kind, data[at : end or len(data)], whole=bool(end)):
                self._fault(session, wrong)
                return False
            if not end:
                session.rest = data
                return False
            if kind == "ehlo" and self._plan.options.pipelining and "PIPELINING" not in replies.offers(data[:end]):
                self._fault(session, "PIPELINING is not offered")
                return False
            at = end
        if at < len(data):
            early = state == "data" or state == "batch"
            if state == "end":
                self._count(session, now)
            what = f"a reply nobody waits for: {data[at : at + 80]!r}"
            self._fault(session, _EARLY if early else what)
            return False
        self._known[state] = data
        return True

    def _lost(self, session: Session) -> None:
        if session.state == "quit" or session.idle:
            self._close(session)
            return
        kind = session.state
        if kind == "batch":
            there = session.rest.count(b"\n")  # a line each, mostly
            kind = self._waits[min(there, len(self._waits) - 1)]
        self._fault(session, f"connection lost while waiting for the answer to {kind}")

    # --- one session ------------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        plan = self._plan
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = sock.connect_ex((plan.host, plan.port))
        if error not in (0, errno.EINPROGRESS):
            sock.close()
            self._error(f"connect: {os.strerror(error)}")
            return
        session = Session(sock, time.monotonic())
        self._sessions[session.fd] = session
        self._poll.register(session.fd, _IN)
        if plan.options.source:
            self._connected += 1
            self._say(
                session, proxy_header(plan.options.source, 1024 + self._connected % 60_000, (plan.host, plan.port))
            )

    def _begin(self, session: Session, now: float, due: float = 0.0) -> None:
        number = session.number = self._begun
        self._begun += 1
        self._running += 1
        session.busy = True
        session.idle = False
        # on a connection of its own a message's time includes the connection
        session.due = due or (now if self._plan.options.kept else session.begun)
        if self._plan.options.pipelining:
            session.state = "batch"
            self._say(session, self._batches[number % len(self._batches)])
        else:
            session.state = "mail"
            session.left = self._groups[number % len(self._groups)][:]
            self._say(session, self._mail)

    def _content(self, session: Session, now: float) -> None:
        number = session.number
        if self._halves:
            before, after = self._halves[number % len(self._halves)]
            wire = before + stamp(self._plan.label, number) + after
        else:
            wire = self._mails[number % len(self._mails)].wire
        session.state = "end"
        session.dot_at = now
        self._say(session, wire)

    def _say(self, session: Session, data: bytes) -> None:
        try:
            sent = session.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # not yet connected
                self._fault(session, f"connection: {error.strerror or error}")
                return
            sent = 0
        if sent < len(data):
            session.pending = data[sent:]
            self._poll.modify(session.fd, _IN | _OUT)

    def _flush(self, session: Session) -> None:
        """The kernel takes more. The last octet's time is when the last piece was handed over."""
        now = time.monotonic()
        try:
            sent = session.send(session.pending)
        except BlockingIOError:
            return
        except OSError as error:
            self._fault(session, f"connection: {error.strerror or error}")
            return
        session.moved = now
        session.pending = session.pending[sent:]
        if not session.pending:
            session.dot_at = now
            self._poll.modify(session.fd, _IN)

    def _count(self, session: Session, now: float) -> None:
        result = self._result
        session.busy = False
        self._running -= 1
        result.messages += 1
        result.octets += len(self._mails[session.number % len(self._mails)].content)
        result.ended = now
        result.dot.append(now - session.dot_at)
        result.whole.append(now - session.due)
        result.numbers.append(session.number)
        result.accepted.append(now)

    def _rest(self, session: Session) -> None:
        session.state = ""
        session.idle = True
        self._idle.append(session)

    def _quit(self, session: Session) -> None:
        if session.idle:
            self._say(session, b"QUIT\r\n")

    # --- ends -------------------------------------------------------------------------------------------------------
    def _look_for_stalled(self, now: float) -> None:
        for session in list(self._sessions.values()):
            if not session.idle and now - session.moved > self._plan.timeout:
                kind = self._waits[0] if session.state == "batch" else session.state
                self._fault(session, f"no answer to {kind} in time")

    def _fault(self, session: Session, what: str) -> None:
        self._error(what)
        if session.busy:
            session.busy = False
            self._running -= 1
        self._close(session)

    def _close(self, session: Session) -> None:
        if self._sessions.pop(session.fd, None) is None:
            return
        if session.idle:
            self._idle.remove(session)
            session.idle = False
        self._poll.unregister(session.fd)
        session.sock.close()
