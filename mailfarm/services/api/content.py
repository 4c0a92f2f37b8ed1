"""GET /v1/messages/{id}/raw, /html, /text, /headers, /parts/{n}: what is in a message.

Everything here was written by a stranger. So nothing of it becomes an HTTP header as it is: a part's type is one of a
short list or ``application/octet-stream``, its name is made safe; everything is an attachment but four kinds of
pictures; HTML is sanitised and, like everything here, sandboxed by its Content-Security-Policy.

Nothing of it ever changes, but it can be deleted: so a cache may keep it and must ask each time (``no-cache`` with an
ETag), or a deleted message could be read for a year from a browser's disk.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar
from urllib.parse import unquote

from klein import Klein
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.threads import deferToThreadPool
from twisted.web.server import Request

from mailfarm.errors import Damaged, NotFound
from mailfarm.inbound import parse
from mailfarm.mailboxes import html, messages
from mailfarm.mailboxes.content import ContentRef, Part, StoredMessage
from mailfarm.net.problems import Problem
from mailfarm.ports import CHUNK, Database, Tx

from .access import Access
from .answering import REVALIDATE, Answer, attachment, matches, tag_of
from .asking import Field
from .raw import GIVES, SANDBOX, TRACE, send_raw
from .routes import Ask, Gives, Resource, route
from .streaming import send

T = TypeVar("T")

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
TYPES = (
    *PICTURES,
    "application/pdf",
    "application/zip",
    "application/gzip",
    "application/json",
    "application/msword",
    "application/vnd.ms-excel",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "audio/mpeg",
    "audio/wav",
    "message/rfc822",
    "text/calendar",
    "text/csv",
    "text/plain",
    "text/vcard",
    "video/mp4",
)
UNKNOWN = "application/octet-stream"
MAX_HEAD = 1 << 20
MAX_FIELDS = 5000
IN_MEMORY = 1 << 20
MAX_PICTURES = 100
READ_AT_ONCE = 8
"""Messages, or pieces of them, that are read from the database at once: up to 2 MB each."""
AT_ONCE = 2
"""Messages whose parts are taken apart at once: each may be 50 MB, and stands in memory whole."""


class Contents(Resource):
    """The content of a message, whole or in pieces."""

    app = Klein()

    def __init__(self, access: Access, database: Database, reactor: Any) -> None:
        super().__init__(access)
        self._database = database
        self._reactor = reactor
        self._turn = DeferredSemaphore(AT_ONCE)
        self._few = DeferredSemaphore(READ_AT_ONCE)

    async def _find(self, ask: Ask) -> StoredMessage:
        return await self._read(lambda tx: messages.find(tx, ask.account, ask.id))

    async def _chunk(self, content: ContentRef, number: int) -> bytes | None:
        return await self._read(lambda tx: messages.read_chunk(tx, content, number))

    async def _read(self, work: Callable[[Tx], Awaitable[T]]) -> T:
        """A database may answer faster than we hand on: what it gave to all who ask would stand in memory."""
        await self._few.acquire()
        try:
            return await self._database.read(work)
        finally:
            self._few.release()

    def _checked(self, message: StoredMessage) -> Callable[[int], Awaitable[bytes | None]]:
        """Reads one chunk after another, and not the last one unless all are what was sent."""
        digest, left = sha256(), message.summary.size

        async def read(number: int) -> bytes | None:
            nonlocal left
            chunk = await self._chunk(message.content, number)
            if chunk is not None:
                digest.update(chunk)
                left -= len(chunk)
                if left <= 0 and digest.digest() != message.sha256:
                    raise _damaged(message)
            return chunk

        return read

    @route(
        app,
        "GET",
        "/v1/messages/<id>/raw",
        "Read a message as it came",
        name="getRawMessage",
        gives=GIVES,
        scope="messages:read",
        query=(TRACE,),
    )
    async def raw(self, ask: Ask) -> Answer | None:
        """Byte for byte. With `trace=false` exactly what was sent after DATA."""
        # the texts of all that are being read slowly would be in memory
        message = replace(await self._find(ask), text="", html="")
        await send_raw(ask, message.sha256, message.trace, message.summary.size, self._checked(message))
        return None

    @route(
        app,
        "GET",
        "/v1/messages/<id>/text",
        "Read a message's text",
        name="getMessageText",
        gives=Gives(200, types=("text/plain",), etag=True),
        scope="messages:read",
    )
    async def text(self, ask: Ask) -> Answer:
        """The text part, decoded; empty if there is none."""
        message = await self._find(ask)
        return self._rendered(ask.request, message.text.encode("utf-8", "replace"), "text/plain; charset=utf-8")

    @route(
        app,
        "GET",
        "/v1/messages/<id>/html",
        "Show a message's HTML",
        name="getMessageHtml",
        gives=Gives(200, types=("text/html",), etag=True),
        scope="messages:read",
        query=(Field("remote", "boolean", "Let pictures from the web in.", default=False),),
    )
    async def html(self, ask: Ask) -> Answer:
        """A whole page, sanitised, for a frame with `sandbox` and no permissions. 404 if the message has no HTML."""
        message = await self._find(ask)
        if not message.html:
            raise Problem("not-found", "the message has no HTML part")
        remote = ask.query["remote"]
        wanted = {part.content_id: part for part in message.parts if _inline(part)}
        if wanted and "cid:" in message.html.lower():
            page = await self._apart(message, lambda data: _page(message, remote, wanted, data))
        else:
            page = await self._in_thread(lambda: _page(message, remote, {}, b""))
        body = page.encode("utf-8", "replace")
        return self._rendered(ask.request, body, "text/html; charset=utf-8", html.policy(remote))

    @route(
        app,
        "GET",
        "/v1/messages/<id>/headers",
        "Read a message's headers",
        name="getMessageHeaders",
        gives=Gives(200, "Headers", etag=True),
        scope="messages:read",
    )
    async def headers(self, ask: Ask) -> Answer:
        """In order, unfolded, encoded words as they came; our own Received header first. The first MB of them, at most
        5,000."""
        message = await self._find(ask)
        head = bytearray(message.trace)
        number = 0
        while len(head) < MAX_HEAD and b"\r\n\r\n" not in head[-(256 * 1024 + 4) :]:
            chunk = await self._chunk(message.content, number)
            if chunk is None:
                break
            head += chunk
            number += 1
        read = bytes(head[:MAX_HEAD])
        return Answer({"headers": unfolded(read)}, cache=REVALIDATE, etag=tag_of(read))

    @route(
        app,
        "GET",
        "/v1/messages/<id>/parts/<int:n>",
        "Read a part of a message, decoded",
        name="getMessagePart",
        gives=Gives(200, types=(*TYPES, UNKNOWN), etag=True),
        scope="messages:read",
    )
    async def part(self, ask: Ask) -> Answer | None:
        """Always an attachment, but for PNG, JPEG, GIF and WebP."""
        n = ask.path["n"]
        message = await self._find(ask)
        part = next((part for part in message.parts if part.n == n), None)
        if part is None or part.size is None:
            raise Problem("not-found", f"the message has no part {n} with content of its own")
        decoded = await self._apart(message, lambda content: _Decoded(parse.part(content, n, message.head.parser)[2]))
        kind = part.content_type.lower()
        kind = kind if kind in TYPES else UNKNOWN
        request = ask.request
        request.setHeader("Content-Disposition", attachment(part.filename or f"part-{n}", inline=kind in PICTURES))
        request.setHeader("Content-Security-Policy", SANDBOX)
        if decoded.file is None:
            return Answer(decoded.data, type=kind, cache=REVALIDATE, etag=decoded.tag)
        with closing(decoded.file) as file:
            request.setHeader("Cache-Control", REVALIDATE)
            request.setHeader("ETag", f'"{decoded.tag}"')
            if matches(request.getHeader("if-none-match"), decoded.tag):
                request.setResponseCode(304)
                return None
            request.setHeader("Content-Type", kind)

            async def read(number: int) -> bytes:
                return file.read(CHUNK)  # 256 KiB, just written: no disk to wait for

            await send(request, decoded.size, b"", read)
        return None

    async def _apart(self, message: StoredMessage, work: Callable[[bytes], T]) -> T:
        """Do ``work`` on the whole content, in a thread."""
        await self._turn.acquire()
        try:
            pieces: list[bytes] = []
            while (chunk := await self._chunk(message.content, len(pieces))) is not None:
                pieces.append(chunk)
            content = b"".join(pieces)
            pieces.clear()

            def checked() -> T:
                if sha256(content).digest() != message.sha256:
                    raise _damaged(message)
                return work(content)

            return await self._in_thread(checked)
        finally:
            self._turn.release()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        found: T = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)
        return found

    def _rendered(self, request: Request, body: bytes, kind: str, policy: str = SANDBOX) -> Answer:
        request.setHeader("Content-Security-Policy", policy)
        return Answer(body, type=kind, cache=REVALIDATE, etag=tag_of(body))  # a newer mailfarm may render it anew


class _Decoded:
    """A part's octets: in memory, or in a file without a name when they are many, so that slow readers of large parts
    cost no memory. Made in a thread."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.tag = tag_of(data)
        self.data = b""
        self.file: IO[bytes] | None = None
        if len(data) <= IN_MEMORY:
            self.data = data
            return
        self.file = TemporaryFile()  # noqa: SIM115 - closed by who sends it
        self.file.write(data)
        self.file.seek(0)


def _damaged(message: StoredMessage) -> Damaged:
    return Damaged(f"the stored content of message {message.summary.id} is not what was sent: its SHA-256 differs")


def _inline(part: Part) -> bool:
    return bool(part.content_id) and part.content_type.lower() in PICTURES and part.size is not None


def _page(message: StoredMessage, remote: bool, wanted: dict[str, Part], content: bytes) -> str:
    room, pictures = html.INLINE_LIMIT, MAX_PICTURES

    def cid(name: str) -> str | None:
        nonlocal room, pictures
        part = wanted.get(unquote(name).strip("<>"))
        if part is None or part.size is None or part.size > room or not pictures:
            return None
        room, pictures = room - part.size, pictures - 1
        try:
            data = parse.part(content, part.n, message.head.parser)[2]
        except NotFound:
            return None
        return f"data:{part.content_type.lower()};base64,{base64.b64encode(data).decode()}"

    return html.sanitise(message.html, remote=remote, cid=cid)


def unfolded(head: bytes) -> list[list[str]]:
    """The header fields of a message up to its empty line, unfolded (RFC 5322 §2.2.3). What is no field is left out."""
    found: list[tuple[str, list[str]]] = []
    for line in head.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            if found:
                found[-1][1].append(_text(line))
            continue
        name, colon, value = line.partition(b":")
        if colon and name.strip():
            if len(found) == MAX_FIELDS:
                break
            found.append((_text(name), [_text(value)]))
    return [[name, " ".join(pieces)] for name, pieces in found]


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8").strip(" \t")
    except UnicodeDecodeError:
        return data.decode("latin-1").strip(" \t")
