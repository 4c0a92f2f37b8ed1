"""A whole API in memory: real SQLite behind it, a real Site, no port (treq's RequestTraversalAgent)."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import treq
from treq.testing import RequestTraversalAgent
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from mailfarm.accounts.store import create_token, ensure_account
from mailfarm.accounts.token import SCOPES, new_token
from mailfarm.backends.memory import MemoryBus
from mailfarm.backends.postgres_database import PostgresDatabase
from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.events import Person
from mailfarm.ids import Ids
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.mailboxes import filing
from mailfarm.mailboxes.addresses import Domains
from mailfarm.mailboxes.content import Head, Parsed, Part
from mailfarm.mailboxes.feed import Feeds
from mailfarm.mailboxes.packing import Packer
from mailfarm.net.turns import Turns
from mailfarm.ports import Origin, Spooled
from mailfarm.services.api import Api

WEB = Path(__file__).parent / "web"
TRACE = b"Received: from client.example\r\n"


def clock() -> int:
    return time.time_ns() // 1000


class Bytes:
    """Content that is simply there."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    async def chunks(self):
        yield self.data

    def close(self) -> None: ...


class Farm:
    """Everything the services share. ``url`` is a Postgres database's, or empty for SQLite."""

    def __init__(self, url: str = "") -> None:
        self.engine = Engine(None, clock=clock, deliver=reactor.callFromThread)
        self._postgres = PostgresDatabase(url, reactor) if url else None
        self.database = self._postgres or Database(self.engine)
        self.bus = MemoryBus()
        self.ids = Ids(clock, os.urandom)
        self.failures: list[Any] = []
        self.feeds = Feeds(self.database, self.bus, self.spawn, Turns(reactor).next)
        self.domains = Domains(("mailfarm.test",), any=True)
        self.account = ""
        self.cleanup: list[Any] = []

    def spawn(self, coroutine: Any) -> None:
        ensureDeferred(coroutine).addErrback(self.failures.append)

    async def start(self) -> Farm:
        self.account = (await self.database.unit(lambda tx: ensure_account(tx, self.ids, "dev"))).id
        return self

    async def token(self, account: str = "dev", scopes: tuple[str, ...] = SCOPES, expires_at: int | None = None) -> str:
        text = new_token(os.urandom)

        async def work(tx):
            owner = await ensure_account(tx, self.ids, account)
            await create_token(tx, self.ids, owner.id, text, name="t", scopes_=scopes, expires_at=expires_at)

        await self.database.unit(work)
        return text

    def api(self, **changes: Any) -> Api:
        given = {
            "endpoints": (),
            "database": self.database,
            "bus": self.bus,
            "feeds": self.feeds,
            "spawn": self.spawn,
            "ids": self.ids,
            "domains": self.domains,
            "random": os.urandom,
            "account": self.account,
            "reactor": reactor,
            "version": "0.1.0",
            "web": WEB,
        }
        made = Api(**(given | changes))
        ensureDeferred(made.access.start())  # as its start would; nobody listens here
        return made

    async def file(
        self,
        mailbox: dict[str, Any],
        subject: str = "Hello",
        content: bytes | None = None,
        *,
        text: str = "Some text",
        html: str = "",
        parts: tuple[Part, ...] = (),
        head: Head | None = None,
        publish: bool = True,
        sender: str = "shop@shop.example",
    ) -> str:
        """File a message and tell the bus. Its id."""
        data = content if content is not None else f"Subject: {subject}\r\n\r\n{text}\r\n".encode()
        spooled = Spooled(
            self.ids.new(),
            self.account,
            clock(),
            Envelope(sender, (Recipient(mailbox["address"]),)),
            Origin("submission", "127.0.0.1", 4711, "client.example", "ESMTP"),
            (mailbox["id"],),
            TRACE,
            hashlib.sha256(data).digest(),
            Bytes(data),
        )
        parsed = Parsed(
            from_=Person("The Shop", sender),
            to=(Person("", mailbox["address"]),),
            subject=subject,
            snippet=text[:100],
            message_id="<1@shop.example>",
            text=text,
            html=html,
            parts=parts or (Part(1, None, "text/plain", size=len(text)),),
            head=head or Head(date=1_700_000_000_000_000),
        )
        item = filing.to_file(Packer(), spooled, parsed, data)
        done = await self.database.unit(lambda tx: filing.file(tx, self.ids, [item]))
        for event in done.filed if publish else ():
            self.bus.publish(event.mailbox, event)
            self.bus.publish(f"account:{event.account}", event)
        return done.filed[0].message.id

    async def close(self) -> None:
        for work in reversed(self.cleanup):
            await work()
        if self._postgres is not None:
            await self._postgres.stop()
        await self.engine.close()


@implementer(IBodyProducer)
class Whole:
    """A request body in one write."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length = len(data)

    def startProducing(self, consumer):
        from twisted.internet.defer import succeed

        consumer.write(self.data)
        return succeed(None)

    def stopProducing(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...


class Reply:
    """An answer, read."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        return None if values is None else ", ".join(values)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def problem(self) -> str:
        """The name of the problem."""
        assert self.header("content-type") == "application/problem+json", (self.status, self.body[:300])
        assert self.json["status"] == self.status
        return self.json["type"].rpartition("/")[2]


class Browser:
    """Sends requests to an Api without a port; checks each JSON answer against the OpenAPI document."""

    def __init__(self, api: Api, token: str = "", base: str = "http://localhost:8025") -> None:
        self.agent = RequestTraversalAgent(api.site.resource)
        # the agent makes a plain Site: give it ours, with its guarded requests
        self.agent._serverFactory = api.site
        self.api = api
        self.token = token
        self.base = base
        self.document = api.document

    def start(self, method: str, path: str, body: Any = None, **headers: str | None) -> Any:
        """Begin a request; the agent's Deferred response."""
        given = {"host": "localhost:8025"}
        if self.token:
            given["authorization"] = f"Bearer {self.token}"
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            given["content-type"] = "application/json"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = Headers({name: [value] for name, value in given.items() if value is not None})
        return self.agent.request(method.encode(), (self.base + path).encode(), raw, Whole(data) if data else None)

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str | None) -> Reply:
        response = self.start(method, path, body, **headers)
        return await self.finish(method, path, response)

    async def finish(self, method: str, path: str, response: Any) -> Reply:
        self.agent.flush()
        done: list[Any] = []
        response.addCallback(lambda r: treq.content(r).addCallback(lambda b: Reply(r.code, r.headers, b)))
        response.addBoth(done.append)
        await pump(lambda: done, self.agent.flush)
        if not isinstance(done[0], Reply):
            done[0].raiseException()
        reply = done[0]
        self.check(method, path.partition("?")[0], reply)
        return reply

    async def finish_raw(self, method: str, path: str, **headers: str | None) -> Reply:
        """The answer as it comes, perhaps compressed: nothing is checked."""
        response = self.start(method, path, **headers)
        self.agent.flush()
        done: list[Any] = []
        response.addCallback(lambda r: treq.content(r).addCallback(lambda b: Reply(r.code, r.headers, b)))
        response.addBoth(done.append)
        await pump(lambda: done, self.agent.flush)
        return done[0]

    def check(self, method: str, path: str, reply: Reply) -> None:
        """The answer must be one the document tells of."""
        assert reply.header("x-content-type-options") == "nosniff"
        if method == "HEAD" or reply.status == 304:
            return
        kind = (reply.header("content-type") or "").partition(";")[0]
        for template, item in self.document["paths"].items():
            steps, given = template.split("/"), path.split("/")
            fits = len(steps) == len(given) and all(s == g or s[:1] == "{" for s, g in zip(steps, given, strict=True))
            operation = item.get(method.lower())
            if not fits or operation is None:
                continue
            answers = operation["responses"]
            assert str(reply.status) in answers, (
                f"{method} {path}: {reply.status} is not in the document: {reply.body!r}"
            )
            content = answers[str(reply.status)].get("content", {})
            if not content:
                assert reply.body == b""
                return
            assert kind in content, f"{method} {path}: {kind} is not in the document"
            if "json" in kind:
                validate(self.document, content[kind]["schema"], reply.json)
            return


_validators: dict[str, Any] = {}


def validate(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Raises jsonschema_rs.ValidationError."""
    key = str(schema)
    if key not in _validators:
        whole = schema | {"components": document["components"]}
        _validators[key] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
    _validators[key].validate(value)


def pump(condition: Callable[[], Any], work: Callable[[], Any] = lambda: None, seconds: float = 10) -> Any:
    """A Deferred that fires once the condition is true; TimeoutError after ``seconds``."""
    from twisted.internet.task import LoopingCall

    deadline = time.monotonic() + seconds

    def step() -> None:
        work()
        if condition():
            loop.stop()
        elif time.monotonic() > deadline:
            raise TimeoutError("not so in time")

    loop = LoopingCall(step)
    return loop.start(0.002)
