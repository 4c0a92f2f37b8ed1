"""An SMTP client that knows how much it knows: after a transaction it can say what may have become of the message."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Literal

from .ledger import Attempt, Outcome
from .target import Door

TIMEOUT = 10.0
How = Literal["data", "bdat", "cut"]
Phase = Literal["connect", "greeting", "session"]


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and who it is for. ``how`` it is sent: by DATA, by BDAT (RFC 3030), or cut in the middle of its
    content, by DATA and on purpose."""

    id: str
    to: tuple[str, ...]
    content: bytes
    how: How = "data"

    @property
    def sha256(self) -> str:
        """Of the content as it was before dot-stuffing, in hexadecimal."""
        return sha256(self.content).hexdigest()


MARK = b"X-Ledger: "
"""How each content begins. What is before it when it is read is the server's trace."""


def compose(id: str, to: Sequence[str], size: int, dice: Random) -> bytes:
    """A message with lines that begin with dots, octets above 127, trailing blanks, and what does not compress."""
    body = base64.b64encode(dice.randbytes(max(size * 3 // 4, 3))).decode()
    lines = "\r\n".join(body[start : start + 76] for start in range(0, len(body), 76))
    head = (
        f"{MARK.decode()}{id}\r\nFrom: prove@example.net\r\nTo: {', '.join(to)}\r\nSubject: {id}\r\n"
        f"Message-ID: <{id}@prove.example.net>\r\n\r\n"
    )
    return head.encode() + f".\r\n..two\r\ngrüße \r\n{lines}\r\n".encode()


class Refused(Exception):
    """Nothing of the content was sent. ``code`` and ``text`` are the reply's, 0 and empty where there was none;
    ``phase`` says how far it came: no connection, no greeting of 220, or no further than what a session begins with."""

    def __init__(self, code: int, why: str, phase: Phase = "session", text: str = "") -> None:
        super().__init__(why)
        self.code = code
        self.text = text
        self.phase: Phase = phase


class Session:
    """An SMTP session. Each reply has ``timeout`` seconds. It is of no more use when ``broken``; ``why`` the last
    transaction did not end with 250, if it did not: as in "MAIL: 421 4.3.2 …", or the name of an error."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, door: Door, timeout: float) -> None:
        self._reader, self._writer, self._timeout = reader, writer, timeout
        self._server = f"{door.host}:{door.port}"

    @classmethod
    async def open(cls, door: Door, timeout: float = TIMEOUT, source: str = "") -> Session:  # noqa: ASYNC109 - each reply's
        """Connect, be greeted, and sign in where the door asks for it. Raises Refused."""
        local = (source, 0) if source else None
        implicit = _context() if door.security == "tls" else None
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection(door.host, door.port, ssl=implicit, local_addr=local)
        except (OSError, TimeoutError) as error:
            raise Refused(0, f"connect: {type(error).__name__} {error}", "connect") from error
        session = cls(reader, writer, door, timeout)
        phase: Phase = "greeting"
        try:
            await session._expect(220, "greeting", phase)
            phase = "session"
            await session._ask("EHLO prove.example.net", 250)
            if door.security == "starttls":
                await session._ask("STARTTLS", 220)
                async with asyncio.timeout(timeout):
                    await writer.start_tls(_context())
                await session._ask("EHLO prove.example.net", 250)
            if door.user:
                told = base64.b64encode(f"\0{door.user}\0{door.secret}".encode()).decode()
                await session._ask(f"AUTH PLAIN {told}", 235)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            session.close()
            raise Refused(0, f"before the first transaction: {type(error).__name__}", phase) from error
        except Refused:
            session.close()
            raise
        return session

    async def send(self, letter: Letter) -> list[Attempt]:
        """One transaction: an attempt for each recipient."""
        began = time.monotonic()
        codes: dict[str, int] = {}
        texts: dict[str, str] = {}

        def outcome(what: Outcome, code: int, text: str = "") -> list[Attempt]:
            ended, digest = time.monotonic(), letter.sha256
            return [
                Attempt(letter.id, to, "refused", codes[to], digest, began, ended, self._server, texts[to])
                if codes.get(to, 250) != 250
                else Attempt(letter.id, to, what, code, digest, began, ended, self._server, text)
                for to in letter.to
            ]

        self.broken, self.why = True, ""
        try:
            await self._ask("MAIL FROM:<prove@example.net> BODY=8BITMIME", 250)
            for to in letter.to:
                self._line(f"RCPT TO:<{to}>")
                codes[to], texts[to] = await self._reply()
                if codes[to] != 250:
                    self.why = f"RCPT: {codes[to]} {texts[to]}"
            if all(code != 250 for code in codes.values()):
                await self._ask("RSET", 250)
                self.broken = False
                return outcome("refused", 0)
            if letter.how != "bdat":
                await self._ask("DATA", 354)
        except Refused as refused:
            self.broken, self.why = refused.code == 421, str(refused)
            return outcome("refused", refused.code, refused.text)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.why = type(error).__name__
            return outcome("refused", 0)
        if letter.how == "cut":
            self._writer.write(_stuffed(letter.content)[: len(letter.content) // 2].rstrip(b"\r\n."))
            with contextlib.suppress(OSError):
                await self._writer.drain()
            return outcome("refused", 0)
        try:
            if letter.how == "bdat":
                self._writer.write(f"BDAT {len(letter.content)} LAST\r\n".encode() + letter.content)
            else:
                self._writer.write(_stuffed(letter.content) + b".\r\n")
            code, text = await self._reply()
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.why = f"after the content: {type(error).__name__}"
            return outcome("unknown", 0)
        self.broken = code == 421
        if code // 100 == 2:
            return outcome("acked", code)
        self.why = f"{code} {text}"
        return outcome("refused" if code // 100 == 5 else "unknown", code, text)

    broken = False
    why = ""

    async def quit(self) -> None:
        """Say goodbye and hang up."""
        with contextlib.suppress(OSError, EOFError, TimeoutError, ValueError, Refused):
            await self._ask("QUIT", 221)
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def _line(self, line: str) -> None:
        self._writer.write(line.encode() + b"\r\n")

    async def _ask(self, line: str, wanted: int) -> None:
        self._line(line)
        await self._expect(wanted, line.split()[0])

    async def _expect(self, wanted: int, what: str, phase: Phase = "session") -> None:
        code, text = await self._reply()
        if code != wanted:
            raise Refused(code, f"{what}: {code} {text}", phase, text)

    async def _reply(self) -> tuple[int, str]:
        async with asyncio.timeout(self._timeout):
            while True:
                line = await self._reader.readline()
                if not line.endswith(b"\n"):
                    raise EOFError
                if line[3:4] != b"-":
                    return int(line[:3]), line[4:].decode("latin-1").strip()[:80]


def _stuffed(content: bytes) -> bytes:
    """RFC 5321 §4.5.2."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if stuffed.startswith(b".") else stuffed


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # who it is, is not what is proved here
    return context


async def send_once(letter: Letter, door: Door, timeout: float = TIMEOUT) -> list[Attempt]:  # noqa: ASYNC109 - each reply's
    """One message by a connection of its own."""
    began = time.monotonic()
    try:
        session = await Session.open(door, timeout)
    except Refused as refused:
        return unsent(letter, door, refused, began)
    try:
        attempts = await session.send(letter)
        if not session.broken:
            await session.quit()
        return attempts
    finally:
        session.close()


def unsent(letter: Letter, door: Door, refused: Refused, began: float) -> list[Attempt]:
    """The attempts of a message for which there was no session."""
    server, now = f"{door.host}:{door.port}", time.monotonic()
    return [
        Attempt(letter.id, to, "refused", refused.code, letter.sha256, began, now, server, refused.text)
        for to in letter.to
    ]


def unsettled(letter: Letter, door: Door, now: float) -> list[Attempt]:
    """The attempts of a message that was under way when it was over: it may be there."""
    server = f"{door.host}:{door.port}"
    return [Attempt(letter.id, to, "unknown", 0, letter.sha256, now, now, server) for to in letter.to]
