"""SMTP dialogs as files: how to read them, and a player for the pure core.

A file holds one or more dialogs, each begun by ``== its title``. Lines beginning with ``#`` and empty lines are
comments. First come settings, then what is said, in order.

Settings
    config name=value ...   fields of ServerConfig (host name mx.example); yes and no are booleans, a,b a tuple
    limits name=value ...   fields of Deadlines
    implicit-tls            the session is inside TLS from the start

The greeting is the first thing the server says: every dialog begins with ``S: 220``.

What is said
    C: text      the client sends the line and CR LF; lines that follow one another are sent at once (pipelined)
    C| text      the client sends these octets and no line end
    C* 70000 xy  the client sends xy 70000 times
    S: text      the next line from the server begins with text
    S+ 250       a whole reply, of any number of lines, with this code
    has word     one line of the last whole reply (S+) is this capability, with these parameters
    lacks word   none is
    silence      the server has nothing more to say, and keeps the connection open
    closed       the server has nothing more to say, and closes
    TLS          the client begins TLS (after STARTTLS was answered 220)
    wait 301     so many seconds pass; a deadline that has come strikes
    drain        the server is told to shut down

What the host was told
    content text    the host has been given exactly this content; each mail is looked at once, in order
    from address    the envelope's sender of that mail ("from" alone: the null sender); after its content
    to a b          the envelope's recipients of that mail
    accepted 2      so many mails were accepted in all
    refused 501 a b the core refused MAIL or RCPT itself: the code, the sender, for RCPT the recipient
    discarded 552   a transaction was discarded, with this reply's code, or "discarded none" for none

In ``C`` and ``content`` these stand for octets: \\r \\n \\0 \\t \\\\ \\xHH; anything else beyond ASCII is UTF-8.

The host says 250 to everything but: recipients ``nobody@...`` 550 5.1.1 and ``later@...`` 451 4.3.0; senders
``nobody@...`` 550 5.7.1; the EHLO name ``refused.example`` 550 5.7.1; AUTH is for ``user`` with ``secret``, all others
get 535 5.7.8; DATA for a mail from ``full@...`` is 452 4.3.1; the end of content from ``reject@...`` is 550 5.7.1, from
``defer@...`` 451 4.3.0. STARTTLS is answered 220, or 454 4.7.0 if the EHLO name is ``no-tls.example``. See ``decide``.

The same dialogs are played at a live server; there ``wait`` and ``drain`` cannot be (``Dialog.pure_only``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mailfarm.mail.envelope import Envelope
from mailfarm.mail.reply import Reply
from mailfarm.smtp.requests import Auth, Chunk, Data, Discarded, End, Hello, Mail, Question, Rcpt, Refused, StartTls
from mailfarm.smtp.server import Deadlines, Server, ServerConfig

FOLDER = Path(__file__).parent / "dialogs"
GREETING = Reply(220, "", "mx.example ESMTP ready")
_ESCAPE = re.compile(r"\\(?:([rn0t\\])|x([0-9a-fA-F]{2}))")
_PLAIN = {"r": "\r", "n": "\n", "0": "\0", "t": "\t", "\\": "\\"}


@dataclass(frozen=True)
class Step:
    """One thing that happens. ``verb`` is send, line, reply, has, lacks, silence, closed, tls, wait, drain, content,
    from, to, accepted or discarded; ``octets`` is for send and content, ``text`` for the others."""

    verb: str
    text: str = ""
    octets: bytes = b""
    number: int = 0


@dataclass
class Dialog:
    """One dialog of a file."""

    path: Path
    title: str
    settings: dict[str, object] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    implicit_tls: bool = False
    steps: list[Step] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.path.stem}: {self.title}"

    @property
    def config(self) -> ServerConfig:
        return ServerConfig("mx.example", deadlines=Deadlines(**self.limits), **self.settings)

    @property
    def pure_only(self) -> bool:
        """It needs a clock that can be turned, or a hand on the server."""
        return any(step.verb in ("wait", "drain") for step in self.steps)


def dialogs(folder: Path = FOLDER) -> Iterator[Dialog]:
    """All dialogs of all files."""
    for path in sorted(folder.glob("*.smtp")):
        yield from parse(path)


def parse(path: Path) -> Iterator[Dialog]:
    """The dialogs of one file. Raises ValueError with the line's number."""
    dialog: Dialog | None = None
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("== "):
            if dialog is not None:
                yield dialog
            dialog = Dialog(path, line[3:].strip())
            continue
        if dialog is None:
            raise ValueError(f"{path}:{number}: a dialog begins with == and its title")
        try:
            _line(dialog, line, number)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    if dialog is not None:
        yield dialog


def _line(dialog: Dialog, line: str, number: int) -> None:
    mark, _, rest = line.partition(" ")
    steps = dialog.steps
    if mark in ("C:", "C|", "C*"):
        if mark == "C*":
            count, _, text = rest.partition(" ")
            octets = unescape(text) * int(count)
        else:
            octets = unescape(rest) + (b"\r\n" if mark == "C:" else b"")
        if steps and steps[-1].verb == "send":
            steps[-1] = Step("send", "", steps[-1].octets + octets, steps[-1].number)
        else:
            steps.append(Step("send", "", octets, number))
    elif mark in ("S:", "S+"):
        steps.append(Step("line" if mark == "S:" else "reply", rest, number=number))
    elif mark == "config":
        dialog.settings.update(_settings(rest))
    elif mark == "limits":
        dialog.limits.update({key: float(str(value)) for key, value in _settings(rest).items()})
    elif mark == "implicit-tls":
        dialog.implicit_tls = True
    elif mark == "content":
        steps.append(Step("content", "", unescape(rest), number))
    elif mark in (
        "has",
        "lacks",
        "silence",
        "closed",
        "TLS",
        "wait",
        "drain",
        "from",
        "to",
        "accepted",
        "discarded",
        "refused",
    ):
        steps.append(Step(mark.lower(), rest.strip(), number=number))
    else:
        raise ValueError(f"what is {mark!r}?")


def _settings(text: str) -> dict[str, object]:
    settings: dict[str, object] = {}
    for word in text.split():
        key, _, value = word.partition("=")
        if value in ("yes", "no"):
            settings[key] = value == "yes"
        elif key == "auth":
            settings[key] = tuple(value.split(","))
        else:
            settings[key] = int(value) if value.isdigit() else value
    return settings


def unescape(text: str) -> bytes:
    """Octets of a text with escapes."""
    out = b""
    pos = 0
    for match in _ESCAPE.finditer(text):
        out += text[pos : match.start()].encode()
        out += _PLAIN[match[1]].encode() if match[1] else bytes([int(match[2], 16)])
        pos = match.end()
    return out + text[pos:].encode()


def decide(question: Question, hello: Hello | None) -> Reply:
    """What the dialogs' host answers."""
    match question:
        case Hello(domain="refused.example"):
            return Reply(550, "5.7.1", "Not you")
        case Hello():
            return Reply(250, "", "")
        case Auth(user=user, secret=secret):
            right = user == "user" and secret == "secret"
            return Reply(235, "2.7.0", "Welcome") if right else Reply(535, "5.7.8", "Credentials invalid")
        case StartTls():
            refused = hello is not None and hello.domain == "no-tls.example"
            return Reply(454, "4.7.0", "No TLS now") if refused else Reply(220, "2.0.0", "Ready")
        case Mail(sender=sender):
            return Reply(550, "5.7.1", "Not you") if sender.startswith("nobody@") else Reply(250, "2.1.0", "Sender ok")
        case Rcpt(recipient=recipient):
            if recipient.address.startswith("nobody@"):
                return Reply(550, "5.1.1", "No such user")
            if recipient.address.startswith("later@"):
                return Reply(451, "4.3.0", "Try later")
            return Reply(250, "2.1.5", "Recipient ok")
        case Data(envelope=envelope):
            full = envelope.sender.startswith("full@")
            return Reply(452, "4.3.1", "No room") if full else Reply(354, "", "Go ahead")
        case End(envelope=envelope):
            if envelope.sender.startswith("reject@"):
                return Reply(550, "5.7.1", "Not this")
            if envelope.sender.startswith("defer@"):
                return Reply(451, "4.3.0", "Try later")
            return Reply(250, "2.0.0", "Taken")


class Heard:
    """What the dialogs' host was told, and the checks of it. For a live server, fill it from there."""

    def __init__(self) -> None:
        self.mails: list[tuple[Envelope, bytes]] = []
        self.looked_at = 0
        self.discards: list[Discarded] = []
        self.discards_seen = 0
        self.refused: list[Refused] = []
        self.refused_seen = 0
        self.chunks: list[bytes] = []

    def content(self, end: Envelope, content: bytes, reply: Reply) -> None:
        """A mail was complete, and answered so."""
        if reply.positive:
            self.mails.append((end, content))

    def check(self, step: Step) -> None:
        """A step of the kinds content, from, to, accepted, discarded. Raises AssertionError."""
        if step.verb == "content":
            assert len(self.mails) > self.looked_at, f"line {step.number}: no more mail"
            found = self.mails[self.looked_at][1]
            assert found == step.octets, f"line {step.number}: {found[:2000]!r}"
            self.looked_at += 1
        elif step.verb == "from":
            assert self.mails[self.looked_at - 1][0].sender == step.text, f"line {step.number}"
        elif step.verb == "to":
            found_to = [r.address for r in self.mails[self.looked_at - 1][0].recipients]
            assert found_to == step.text.split(), f"line {step.number}: {found_to}"
        elif step.verb == "accepted":
            assert len(self.mails) == int(step.text), f"line {step.number}: {len(self.mails)}"
        elif step.verb == "discarded":
            assert len(self.discards) > self.discards_seen, f"line {step.number}: nothing was discarded"
            reply = self.discards[self.discards_seen].reply
            self.discards_seen += 1
            assert (str(reply.code) if reply else "none") == step.text, f"line {step.number}: {reply}"
        elif step.verb == "refused":
            assert len(self.refused) > self.refused_seen, f"line {step.number}: nothing was refused"
            notice = self.refused[self.refused_seen]
            self.refused_seen += 1
            assert f"{notice.reply.code} {notice.sender} {notice.recipient}".split() == step.text.split(), notice


class CorePlayer:
    """Plays dialogs at the pure core. ``cut`` is how many octets it is given at a time, 0 for all there are."""

    def __init__(self, dialog: Dialog, cut: int = 0) -> None:
        self.dialog = dialog
        self.cut = cut
        self.now = 1000.0
        self.server = Server(dialog.config, self.now, tls=dialog.implicit_tls)
        self.heard = Heard()
        self.unread = b""
        self.last_reply: list[str] = []
        self.server.greet(GREETING)
        self.pump()

    def pump(self) -> None:
        server = self.server
        while (request := server.next_request()) is not None:
            if isinstance(request, Chunk):
                assert request.data
                self.heard.chunks.append(request.data)
            elif isinstance(request, Discarded):
                self.heard.discards.append(request)
                self.heard.chunks.clear()
            elif isinstance(request, Refused):
                self.heard.refused.append(request)
            else:
                assert server.pending
                assert server.next_request() is None
                reply = decide(request, server.hello)
                if isinstance(request, End):
                    content = b"".join(self.heard.chunks)
                    self.heard.chunks.clear()
                    assert len(content) == request.size
                    self.heard.content(request.envelope, content, reply)
                server.answer(reply)
        self.unread += server.output()

    def send(self, octets: bytes) -> None:
        cut = self.cut or len(octets) or 1
        for start in range(0, len(octets), cut):
            self.server.receive(octets[start : start + cut], self.now)
            self.pump()

    def line(self) -> str:
        line, end, self.unread = self.unread.partition(b"\r\n")
        assert end, f"the server has no line to give, only {line!r}"
        return line.decode("utf-8")

    def play(self) -> None:
        """Every step in order. Raises AssertionError with the line of the file."""
        for step in self.dialog.steps:
            try:
                self.step(step)
            except AssertionError as error:
                raise AssertionError(f"{self.dialog.path.name}:{step.number}: {step}: {error}") from error
        assert not self.unread, f"{self.dialog.path.name}: the server said more: {self.unread!r}"

    def step(self, step: Step) -> None:
        server = self.server
        if step.verb == "send":
            self.send(step.octets)
        elif step.verb == "line":
            found = self.line()
            assert found.startswith(step.text), found
        elif step.verb == "reply":
            self.last_reply = [self.line()]
            while self.last_reply[-1][3:4] == "-":
                self.last_reply.append(self.line())
            assert all(line[:3] == step.text for line in self.last_reply), self.last_reply
        elif step.verb == "has":
            assert step.text in [line[4:] for line in self.last_reply], self.last_reply
        elif step.verb == "lacks":
            assert not any(line[4:].split(" ")[0] == step.text for line in self.last_reply), self.last_reply
        elif step.verb in ("silence", "closed"):
            assert not self.unread, self.unread
            assert server.closing == (step.verb == "closed")
        elif step.verb == "tls":
            server.tls_started()
            self.pump()
        elif step.verb == "wait":
            self.now += float(step.text)
            if self.now >= server.deadline:
                server.time_out(self.now)
            self.pump()
        elif step.verb == "drain":
            server.shut_down()
            self.pump()
        else:
            self.heard.check(step)
