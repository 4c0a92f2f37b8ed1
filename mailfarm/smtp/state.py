"""What the server core remembers of one session, and the few verbs in which commands are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.mail.reply import Reply

from . import replies
from .config import ServerConfig
from .data import Content
from .requests import Chunk, Discarded, Hello, Mail, Question, Refused, Request
from .sasl import Exchange

# What the next octets are. GREETING and CLOSED: nothing yet, and never again; HANDSHAKE: TLS is beginning.
GREETING, COMMAND, RESPONSE, DATA, BDAT, SWALLOW, HANDSHAKE, CLOSED = range(8)

LINES: Final = 20  # kept of a transaction's transcript
WIDTH: Final = 200  # octets kept of each


class State:
    """One session. Nothing here reads input: ``Server`` does, which is a State; commands act on this."""

    __slots__ = (
        "auth_failures",
        "authenticated",
        "bdat_last",
        "bdat_left",
        "bdat_reply",
        "bdat_size",
        "began",
        "born",
        "closing",
        "config",
        "content",
        "draining",
        "envelope",
        "errors",
        "exchange",
        "fresh",
        "hello",
        "log",
        "mail",
        "masking",
        "mechanism",
        "now",
        "out",
        "phase",
        "question",
        "quiet",
        "ready",
        "recipients",
        "refused",
        "since",
        "tls",
        "transactions",
    )

    def __init__(self, config: ServerConfig, now: float, tls: bool) -> None:
        self.config = config
        self.tls = tls
        self.now = now
        self.born = now
        self.since = now  # when the phase began
        self.began = now  # when the transaction began, or the swallowing of a BDAT outside of one
        self.fresh = 0  # octets of content since the last whole block
        self.phase = GREETING
        self.closing = False
        self.draining = False
        self.out: list[bytes] = []
        self.log: list[bytes] = []  # replies end with a line end, commands do not
        self.masking = False  # the last command was AUTH: a stray line may be a secret
        self.ready: list[Request] = []  # never more than a few
        self.question: Question | None = None
        self.quiet = False  # nothing has come behind the content that was complete last
        self.hello: Hello | None = None
        self.authenticated = False
        self.exchange: Exchange | None = None
        self.mechanism = ""
        self.errors = 0
        self.auth_failures = 0
        self.transactions = 0
        self.mail: Mail | None = None
        self.recipients: list[Recipient] = []
        self.refused = False  # a recipient of this transaction was refused
        self.envelope: Envelope | None = None  # fixed once content was asked for
        self.content: Content | None = None
        # the BDAT under way: octets to come, whether it is the last, and the reply when its octets are only swallowed
        self.bdat_left = 0
        self.bdat_size = 0
        self.bdat_last = False
        self.bdat_reply: Reply | None = None

    def note(self, line: bytes) -> None:
        """Keep what the client said for the transcript."""
        log = self.log
        if len(log) > 2 * LINES:
            del log[:-LINES]
        log.append(line)

    def say(self, reply: Reply) -> None:
        """Answer the client."""
        wire = reply.wire or reply.encode()
        self.out.append(wire)
        self.log.append(wire)
        if reply.close:
            self.close()

    def fail(self, reply: Reply) -> None:
        """Answer an error of the client's making, and count it."""
        self.errors += 1
        self.say(reply if self.errors <= self.config.max_errors else replies.TOO_MANY_ERRORS)

    def refuse(self, reply: Reply, sender: str, recipient: str = "") -> None:
        """Refuse MAIL or RCPT, and let the host know."""
        self.ready.append(Refused(reply, sender, recipient))
        if reply.code < 500:
            self.say(reply)  # a shortage is no error of the client's making
        else:
            self.fail(reply)

    def ask(self, question: Question) -> None:
        """Let the host decide, after the news that wait for it."""
        if self.ready:
            self.ready.append(question)
        else:
            self.question = question

    def begin_content(self, *, dots: bool) -> Content:
        """Get ready for a transaction's content."""
        content = self.content
        if content is None:
            config = self.config
            content = self.content = Content(config.max_size, config.max_text_line, config.normalize)
        content.begin(dots=dots)
        return content

    def hand_on(self, data: bytes) -> None:
        """Give the host content."""
        if data:
            self.ready.append(Chunk(data))

    def fix_envelope(self) -> Envelope:
        """The envelope as it stands when content is asked for."""
        mail = self.mail
        assert mail is not None
        self.envelope = envelope = Envelope(
            mail.sender, tuple(self.recipients), mail.body, mail.smtputf8, mail.size, mail.ret, mail.envid
        )
        return envelope

    def end_transaction(self) -> None:
        """The buffers are cleared (RFC 5321 §4.1.1.4)."""
        self.mail = None
        self.envelope = None
        self.recipients = []
        self.refused = False

    def end_exchange(self) -> None:
        """AUTH is over, one way or the other; commands come again."""
        self.exchange = None
        self.phase = COMMAND

    def discard(self, reply: Reply | None = None) -> None:
        """End a transaction, if there is one, without its content."""
        if self.mail is not None:
            self.ready.append(Discarded(reply, self.envelope or self.fix_envelope()))
            self.end_transaction()
            if self.content is not None:
                self.content.begin(dots=False)  # an idle session holds nothing

    def close(self) -> None:
        """No more input; the host closes once the output is written."""
        if not self.closing:
            self.closing = True
            self.phase = CLOSED
            self.discard()


def transcribed(log: Sequence[bytes]) -> tuple[str, ...]:
    """The last lines of a log as a reader wants them."""
    lines: list[str] = []
    for wire in log[-LINES:]:
        side = "S" if wire.endswith(b"\r\n") else "C"
        for line in wire.removesuffix(b"\r\n").split(b"\r\n"):
            text = line[:WIDTH].decode("utf-8", "replace")
            lines.append(f"{side}: {''.join(c if c.isprintable() else '?' for c in text)}")
    return tuple(lines[-LINES:])
