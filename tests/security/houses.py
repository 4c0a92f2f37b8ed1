"""A running mailfarm with two accounts in it, asked from outside.

``Place.alpha`` owns all that is there, and everything of it carries ``MARK``; ``Place.beta`` is a token of the other
account, with every scope but the one that is not for one account alone. ``dev`` is one process on SQLite, ``cluster`` a
process a service on Postgres and Redis, where beta's account has processes of its own.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import smtplib
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from running import Cluster, Running, Service, until
from servers import Postgres, Redis

from mailfarm.accounts.token import SCOPES

COLLECTED = pytest.StashKey[list[str]]()
"""The names of all tests of this session."""
TENANT = tuple(scope for scope in SCOPES if scope != "queue:all")
"""What an account may be allowed to do with what is its own."""
MARK = "zq7marker7qz"
"""In every mailbox, message, refusal and token of alpha's."""
NOBODY = f"{MARK}.nobody@mailfarm.test"
"""Whose refusal alpha can read."""
ALPHA = "mf_alpha-first-token-0123456789abcdef"
BETA = "mf_beta-first-token-0123456789abcdef0"

MAIL = f"""\
From: {MARK} <{MARK}@shop.example>
To: you@shop.example
Subject: {MARK} in the subject
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: multipart/alternative; boundary=c

--c
Content-Type: text/plain

The code is 481516, {MARK}.
--c
Content-Type: text/html

<p>{MARK}</p>
--c--
--b
Content-Type: application/pdf; name="{MARK}.pdf"
Content-Disposition: attachment; filename="{MARK}.pdf"

{MARK}
--b--
""".replace("\n", "\r\n").encode()


@dataclass(frozen=True)
class Heard:
    """An HTTP answer. ``everything`` is all that came, headers too."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The name of the problem (RFC 9457) it is, or nothing."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        return str(self.json["type"]).removeprefix("/v1/problems/")

    @property
    def everything(self) -> str:
        """All that came, as text."""
        return repr(dict(self.headers)) + self.body.decode("utf-8", "replace")


def ask(url: str, method: str, path: str, body: Any = None, seconds: float = 20, **headers: str) -> Heard:
    """One request on a connection of its own; ``_`` in a header's name is ``-``. A body that is no bytes is JSON."""
    parts = urlsplit(url)
    assert parts.hostname
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None:
        sent = {"Content-Type": "application/json"} | sent
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=seconds)
    try:
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Heard(answer.status, found, answer.read())
    finally:
        connection.close()


def bearer(token: str) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}


@dataclass
class Place:
    """``urls`` are all API's there, alpha's first; ``sockets`` the WebSockets' addresses."""

    name: str
    urls: list[str]
    sockets: list[str]
    capture: int
    mx: int
    beta: str = BETA
    alpha: str = ALPHA
    mailbox: str = ""
    message: str = ""
    token: str = ""
    entry: str = "0" * 26
    worker: Service | None = None
    ended: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Alpha's API."""
        return self.urls[0]

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str) -> Heard:
        """As ``ask``, with alpha's token."""
        return ask(self.url, method, path, body, **{**bearer(token or self.alpha), **headers})

    def made(self, *scopes: str, lifetime: int | None = None, by: str = "") -> tuple[str, str]:
        """A new token of alpha's: its id and text. Every scope unless some are named."""
        wanted = {"name": MARK, "scope": " ".join(scopes or SCOPES), **({"lifetime": lifetime} if lifetime else {})}
        made = self.ask("POST", "/v1/tokens", wanted, by)
        assert made.status == 201, made.body
        return made.json["id"], made.json["token"]

    def furnish(self) -> tuple[str, str]:
        """A new mailbox of alpha's with a message in it: their ids."""
        made = self.ask("POST", "/v1/mailboxes", {"address": f"{MARK}.{time.monotonic_ns()}@mailfarm.test"})
        assert made.status == 201, made.body
        id = made.json["id"]
        with smtplib.SMTP("127.0.0.1", self.capture, timeout=30) as smtp:
            smtp.sendmail(f"{MARK}@shop.example", [made.json["address"]], MAIL)
            smtp.mail(f"{MARK}@shop.example")
            smtp.rcpt(made.json["address"])
            smtp.docmd("DATA")
            smtp.send(b"Subject: a bare line feed\n\r\n.\r\n")
            assert smtp.getreply()[0] == 550
        until(lambda: MARK in self.ask("GET", f"/v1/mailboxes/{id}/refusals").everything)
        waited = self.ask("GET", f"/v1/mailboxes/{id}/wait?timeout=30")
        assert waited.status == 200, waited.body
        return id, waited.json["messages"][0]["id"]

    def session(self, token: str = "") -> str:
        """The Cookie header of a browser that signed in."""
        begun = ask(self.url, "POST", "/v1/session", {"token": token or self.alpha}, Origin=self.url)
        assert begun.status == 201, begun.body
        return begun.headers["set-cookie"].partition(";")[0]

    def begin(self) -> None:
        """What there is of alpha's: a mailbox, a message, a refusal, a token; tokens that have ended."""
        self.mailbox, self.message = self.furnish()
        with smtplib.SMTP("127.0.0.1", self.mx, timeout=30) as smtp:
            smtp.ehlo()
            smtp.mail(f"{MARK}@shop.example")
            assert smtp.rcpt(NOBODY)[0] == 550
        until(lambda: MARK in self.ask("GET", f"/v1/refusals?address={NOBODY}").everything)
        self.token, _ = self.made()
        gone, revoked = self.made()
        cookie = self.session(revoked)
        _, short = self.made(lifetime=1)
        assert self.ask("DELETE", f"/v1/tokens/{gone}").status == 204
        self.ended = {"expired": short, "revoked": revoked}
        for text in self.ended.values():
            for url in self.urls:
                until(lambda text=text, url=url: ask(url, "GET", "/v1/mailboxes", **bearer(text)).status == 401)
        self.ended["a session whose token was revoked"] = cookie


@contextmanager
def dev(folder: Path) -> Iterator[Place]:
    """``mailfarm dev`` with tokens. SQLite knows one account alone, so the other is written into its file."""
    settings = {"MAILFARM_API_AUTH": "token", "MAILFARM_API_FIRST_TOKEN": ALPHA}
    Running(folder, **settings).stop()
    (path,) = folder.glob("*.sqlite")
    database = sqlite3.connect(path)
    with database:
        database.execute("insert into account (id, name, created_at) values (?, 'beta', 1)", ("0" * 26,))
        row = ("1" * 26, "0" * 26, " ".join(TENANT), hashlib.sha256(BETA.encode()).digest())
        database.execute(
            "insert into token (id, account, name, scopes, created_at, secret_sha256) values (?, ?, 'b', ?, 1, ?)", row
        )
    database.close()
    with Running(folder, **settings) as running:
        socket = f"{running.url.replace('http', 'ws', 1)}/v1/events"
        yield Place("dev", [running.url], [socket], running.port("smtp", "capture"), running.port("mx"))


@contextmanager
def cluster(folder: Path, postgres: Postgres, **settings: str) -> Iterator[Place]:
    """Alpha's services and beta's, on the same Postgres and Redis."""
    for name in ("queue", "cache", "alpha", "beta"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        queue = stack.enter_context(Redis(folder / "queue"))
        cache = stack.enter_context(Redis(folder / "cache", "--appendonly", "no"))
        stores = postgres.new_database(), [queue.url], cache.url
        own = {"MAILFARM_ACCOUNT": "alpha", "MAILFARM_API_FIRST_TOKEN": ALPHA} | settings
        others = {"MAILFARM_ACCOUNT": "beta", "MAILFARM_API_FIRST_TOKEN": BETA, "MAILFARM_DOMAINS": "beta.test *"}
        alpha = stack.enter_context(Cluster(folder / "alpha", *stores, **own))
        beta = stack.enter_context(Cluster(folder / "beta", *stores, **others))
        alpha.schema()
        words = ("api", "live", "mx", "submission", "inbound")
        services = [alpha.service(word) for word in words] + [beta.service(word) for word in ("api", "live")]
        for service in services:
            service.begin()
        api, live, mx, submission, inbound, api2, live2 = [service.listens() for service in services]
        made = ask(api2.url, "POST", "/v1/tokens", {"name": "b", "scope": " ".join(TENANT)}, **bearer(BETA))
        yield Place(
            "cluster",
            [api.url, api2.url],
            [f"{each.where['live']}/v1/events" for each in (live, live2)],
            submission.port("smtp", "capture"),
            mx.port("mx"),
            beta=made.json["token"],
            worker=inbound,
        )
