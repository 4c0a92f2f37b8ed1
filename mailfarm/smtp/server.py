"""The SMTP server without I/O: bytes in, questions out, answers in, bytes out.

::

    server = Server(config, now)
    server.greet(Reply(220, "", "mx.example ESMTP"))
    ...                                       # write server.output()
    server.receive(data, now)                 # whenever bytes come
    while (request := server.next_request()) is not None:
        ...                                   # Chunk, Discarded, Refused: take note; else server.answer(reply, now)
    ...                                       # write server.output(), close if server.closing

There is one question at a time: while it waits for its answer ``next_request`` gives None and input piles up
(``buffered``), so replies are in order however long a decision takes. Ask again after ``answer``, and after
``tls_started``, ``shut_down`` and ``time_out`` too: a ``Discarded`` may be there.

Nothing looks at a clock: ``now`` is in seconds, on any clock that does not run backwards.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from mailfarm.mail.reply import Reply

from . import replies
from .ahead import recipients_ahead
from .answers import ANSWERS
from .commands import COMMANDS, respond, unknown
from .config import BLOCK, Deadlines, ServerConfig
from .data import Content
from .lines import LONGEST_LINE, USUAL, is_handshake, limit, odd_line
from .requests import Chunk, Discarded, End, Refused, Request
from .state import BDAT, CLOSED, COMMAND, DATA, GREETING, HANDSHAKE, RESPONSE, SWALLOW, WIDTH, State, transcribed

__all__ = ["Deadlines", "Server", "ServerConfig"]

_CONTENT: Final = frozenset((DATA, BDAT, SWALLOW))
_NEWS: Final = frozenset((Chunk, Discarded, Refused))
_DEAF: Final = frozenset((HANDSHAKE, CLOSED))


class Server(State):
    """One session's server.

    ``closing``: close the connection once the output is written. ``hello``: the EHLO or HELO in force. ``tls``: TLS is
    there. ``authenticated``: AUTH was answered 235. ``quiet``: not one octet has come behind the content that was
    complete last, and that was not refused. These are to be read; the rest of the state is the core's own.
    """

    __slots__ = ("_buf", "_more", "_pos", "_skipped", "turns")

    def __init__(self, config: ServerConfig, now: float, *, tls: bool = False) -> None:
        """``tls``: TLS is there already (implicit TLS, RFC 8314)."""
        super().__init__(config, now, tls)
        # Input: buf from pos on, then more. Pieces gather in more while nobody asks, so that no piece is copied twice.
        self._buf = b""
        self._pos = 0
        self._more: bytes | bytearray = b""
        self._skipped = 0  # octets dropped of a line that is too long
        self.turns = inf  # how many lines, or blocks of content, are worked on until there are more turns

    def greet(self, reply: Reply) -> None:
        """Open the session with 220, or refuse it with 4yz or 5yz: then it is over."""
        self.phase = COMMAND
        self.say(reply)
        if not reply.positive:
            self.close()

    def receive(self, data: bytes, now: float) -> None:
        """Take input. Costs nothing but memory until ``next_request``."""
        self.now = now
        self.quiet = False
        phase = self.phase
        if phase == COMMAND:
            pass
        elif phase in _CONTENT:
            self.fresh += len(data)
            if self.fresh >= BLOCK:
                self.fresh = 0
                self.since = now
        elif phase in _DEAF:
            return  # RFC 3207 §4.2: what comes in plain text between 220 and TLS is not for us
        if self._pos == len(self._buf) and not self._more:
            self._buf = data
            self._pos = 0
        elif self._more:
            self._more += data
        else:
            self._more = bytearray(data)

    def next_request(self) -> Request | None:
        """The next question or news, or None until there is more input, an answer, or ``turns`` above 0."""
        if self.question is not None:
            return None
        ready = self.ready
        while not ready:
            if self.turns <= 0 or not _READERS[self.phase](self):
                return None
            self.turns -= 1
            if self.question is not None:
                return self.question  # type: ignore[unreachable]  # to mypy it is None still; the reader has asked
        request = ready.pop(0)
        if type(request) not in _NEWS:
            self.question = request  # type: ignore[assignment]  # so much mypy does not see of a type
        return request

    def answer(self, reply: Reply, now: float | None = None) -> None:
        """Answer the question that waits. With ``now`` the time it took is not held against the client.

        After the end of the session (a time-out) an answer is ignored. Raises RuntimeError if there is no question.
        """
        question = self.question
        if question is None:
            if self.closing:
                return
            raise RuntimeError("there is no question to answer")
        self.question = None
        if now is not None:
            self.began += now - self.now
            self.now = now
        self.since = self.now
        if self.closing:
            return
        ANSWERS[type(question)](self, reply, question)
        if self.phase == HANDSHAKE:
            # RFC 3207 §5: what was pipelined behind STARTTLS in plain text may be an attacker's
            self._drop_input()
        if self.draining:
            self._drain()

    def output(self) -> bytes:
        """Take what is to be written now."""
        out = self.out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def tls_started(self) -> None:
        """TLS is there: call it before the first octet from inside TLS is received. Everything is forgotten."""
        self._drop_input()
        self.tls = True  # RFC 3207 §4.2
        self.hello = None
        self.since = self.now
        if self.phase == HANDSHAKE:
            self.phase = COMMAND

    def time_out(self, now: float) -> None:
        """The deadline has passed: 421 4.4.2."""
        self.now = now
        if isinstance(self.question, End):
            self.end_transaction()  # the host has all of it, and may be storing it: nothing is discarded
        self._finish(replies.TIMED_OUT)

    def shut_down(self) -> None:
        """Drain: 421 4.3.2 at once, or as soon as the running transaction is over."""
        self.draining = True
        self._drain()

    def cut(self) -> None:
        """The grace is over: 421 4.3.2 now, whatever is under way (RFC 5321 §3.8)."""
        if isinstance(self.question, End):
            self.end_transaction()  # as in ``time_out``
        self._finish(replies.SHUTTING_DOWN)

    @property
    def pending(self) -> bool:
        """A question waits for its answer."""
        return self.question is not None

    @property
    def idle(self) -> bool:
        """Between transactions, with nothing pending."""
        return (
            self.mail is None and self.question is None and not self.ready and self.phase in (GREETING, COMMAND, CLOSED)
        )

    @property
    def deadline(self) -> float:
        """When to call ``time_out``. Infinite while the host owes an answer."""
        if self.question is not None:
            return float("inf")
        limits = self.config.deadlines
        if self.phase in _CONTENT:
            return min(self.since + limits.data_block, self.began + limits.transaction)
        total = self.born + limits.session if self.mail is None else self.began + limits.transaction
        return min(self.since + limits.command, total)

    @property
    def buffered(self) -> int:
        """Octets received and not yet worked on. Stop reading when they are many."""
        return len(self._buf) - self._pos + len(self._more)

    def ahead(self, most: int) -> list[str]:
        """The recipients of the RCPT commands that came with this one: see ``smtp.ahead``."""
        return recipients_ahead(self._buf, self._pos, most, self.config)

    @property
    def transcript(self) -> tuple[str, ...]:
        """The last lines of this transaction, ``C: `` and ``S: `` in front, each cut short, secrets left out."""
        return transcribed(self.log)

    # -- reading: each returns True when something happened, False when it wants more input

    def _read_commands(self) -> bool:
        if self.draining and self._drain():
            return True
        buf = self._buf
        start = self._pos
        if start == len(buf):
            if self._more:
                return self._fill()
            self._buf = b""  # an idle session holds nothing
            self._pos = 0
            return False
        if self.phase == COMMAND and not self._skipped:
            usual = USUAL.match(buf, start)
            if usual is not None and (command := COMMANDS.get(usual[1])) is not None:
                self._pos = end = usual.end()
                self.since = self.now
                self.masking = False
                self.note(buf[start : min(end - 2, start + WIDTH)])
                command(self, usual[2] or b"")
                return True
        end = buf.find(b"\n", start)
        if end < 0:
            return self._fill() or self._wait_for_line()
        self._pos = end + 1
        # Nearly every line is short and its first CR is the one before its LF: nothing more to look at.
        line = buf[start : end - 1]
        if not start < end < start + 512 or buf.find(b"\r", start, end) != end - 1 or b"\0" in line or self._skipped:
            odd = odd_line(self, buf[start : end + 1], self._skipped)
            if odd is not None:
                self._skipped = 0
                self.since = self.now
                if odd.close:
                    self.say(odd)
                else:
                    self.fail(odd)
                    if self.phase == RESPONSE:
                        self.end_exchange()
                return True
        self.since = self.now
        if self.phase == RESPONSE:
            self.log.append(b"***")
            respond(self, line)
            return True
        self.note(line[:WIDTH])
        verb, _, argument = line.partition(b" ")
        command = COMMANDS.get(verb) or COMMANDS.get(verb.upper())
        if command is None:
            unknown(self, line)
        else:
            self.masking = False
            command(self, argument)
        return True

    def _wait_for_line(self) -> bool:
        """Nothing but the beginning of a line is there. Let go of what is not needed to go on."""
        line = self._buf[self._pos :]
        self._buf = line
        self._pos = 0
        if len(line) + self._skipped >= LONGEST_LINE or is_handshake(self, line, self._skipped):
            self.say(replies.BAD_LINE)
            return True
        if self._skipped or len(line) >= limit(self, line):
            # too long already: only its end is of interest, and whether that is CR LF
            self._skipped += len(line) - 1
            self._buf = line[-1:]
        return False

    def _read_data(self) -> bool:
        content = self.content
        assert content is not None
        if self._pos == len(self._buf) and not self._fill():
            return False
        end = content.dots(self._buf, self._pos)
        if end < 0:
            self._buf = b""
            self._pos = 0
            if not self._more:
                self.hand_on(content.ready())
        else:
            self._pos = end
            self._end_content(content)
        return True

    def _read_bdat(self) -> bool:
        content = self.content
        assert content is not None
        if self.bdat_left:
            data = self._octets()
            if not data:
                return False
            content.octets(data)
            if self.bdat_left:
                if not self._more:
                    self.hand_on(content.ready())
                return True
        if self.bdat_last:
            content.end_octets()
        if self.bdat_last or content.fault is not None:
            self._end_content(content)
        else:
            self.phase = COMMAND
            self.since = self.now
            self.say(Reply(250, "2.0.0", f"{self.bdat_size} octets received"))
        return True

    def _swallow(self) -> bool:
        if self.bdat_left:
            if not self._octets():
                return False
            if self.bdat_left:
                return True
        reply = self.bdat_reply
        assert reply is not None
        self.phase = COMMAND
        self.since = self.now
        # A part of the content is lost, so the transaction is: RFC 3030 §2 leaves the client nothing but RSET
        self.discard(reply)
        self.fail(reply)
        return True

    def _octets(self) -> bytes:
        """Octets of the BDAT under way, as many as are there."""
        if self._pos == len(self._buf) and not self._fill():
            return b""
        data = self._buf[self._pos : self._pos + self.bdat_left]
        self._pos += len(data)
        self.bdat_left -= len(data)
        return data

    def _end_content(self, content: Content) -> None:
        self.phase = COMMAND
        self.since = self.now
        fault = content.fault
        if fault is None:
            self.quiet = not self.buffered
            self.hand_on(content.take())
            envelope = self.envelope
            assert envelope is not None
            self.ask(End(envelope, content.size))
        else:
            self.discard(fault)
            self.fail(fault)

    def _read_nothing(self) -> bool:
        return False

    def _fill(self) -> bool:
        """Go on to what came since; False if nothing did."""
        if not self._more:
            if self._pos == len(self._buf):
                self._buf = b""  # an idle session holds nothing
                self._pos = 0
            return False
        self._buf = self._buf[self._pos :] + self._more
        self._pos = 0
        self._more = b""
        return True

    def _drop_input(self) -> None:
        self._buf = b""
        self._pos = 0
        self._more = b""
        self._skipped = 0

    def _drain(self) -> bool:
        if self.idle and self.phase == COMMAND:
            self._finish(replies.SHUTTING_DOWN)
            return True
        return False

    def _finish(self, reply: Reply) -> None:
        if not self.closing:
            self.question = None
            self._drop_input()
            self.say(reply)


_READERS: Final[tuple[Callable[[Server], bool], ...]] = (
    Server._read_nothing,  # GREETING
    Server._read_commands,  # COMMAND
    Server._read_commands,  # RESPONSE
    Server._read_data,  # DATA
    Server._read_bdat,  # BDAT
    Server._swallow,  # SWALLOW
    Server._read_nothing,  # HANDSHAKE
    Server._read_nothing,  # CLOSED
)
