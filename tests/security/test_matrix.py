"""Who may ask for what: every route and every subscription, by each of those who may not.

The routes are those of the OpenAPI document that the server itself gives out, so a new route is in the matrix by being
there. Where the document does not say enough to ask well, ``BODIES`` does; that each request is a good one shows when
the owner asks (``test_the_owner_gets_it``): else a 404 for others would mean nothing.
"""

from __future__ import annotations

import http.client
import json
import smtplib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from houses import MAIL, MARK, NOBODY, Heard, Place, ask, bearer
from websocket import WebSocket

from mailfarm.accounts.token import SCOPES

NOBODY_ASKED = {
    "getHealth", "getVersion", "getOpenApi", "listProblems", "getProblem", "getSession", "signIn", "signOut",
    "getLiveness", "getReadiness", "getMetrics",
}  # fmt: skip
"""The operations that need no token; all else does. Whoever adds one says so here."""
BODIES: dict[str, Any] = {
    "changeMailbox": {"lifetime": 3600},
    "markMessages": {"all": True, "seen": True},
    "deleteMessages": {"all": True},
    "dropQueueEntry": {"confirm": "0" * 26},
    "createToken": {"name": "made by the matrix"},
}
"""A good body, where the members the document requires are not enough."""
QUERIES = {"waitForMessages": "?timeout=0.2", "listRefusals": f"?address={NOBODY}"}
HEARD = {"listEvents": {"Accept": "text/event-stream"}}
"""The same route again, as a stream."""


@dataclass(frozen=True)
class Operation:
    """One operation of the document."""

    name: str
    method: str
    template: str
    scope: str
    body: Any
    stream: bool = False

    def path(self, mailbox: str, message: str, token: str, entry: str = "0" * 26) -> str:
        """Its path, for these ids."""
        ids = {"mailboxes": mailbox, "messages": message, "tokens": token, "queue": entry}
        path = self.template
        for kind, id in ids.items():
            if path.startswith(f"/v1/{kind}/"):
                path = path.replace("{id}", id)
        path = path.replace("{n}", "4").replace("{name}", "not-found")
        assert "{" not in path, f"the matrix does not know what to put into {self.template}"
        return path + QUERIES.get(self.name, "")

    @property
    def headers(self) -> dict[str, str]:
        return HEARD[self.name] if self.stream else {}


def operations(place: Place) -> Iterator[Operation]:
    """Every operation the server tells of, but the WebSocket's, which has tests of its own."""
    document = ask(place.url, "GET", "/v1/openapi.json").json
    for template, item in document["paths"].items():
        for method, about in item.items():
            name = about["operationId"]
            if name == "openEvents":
                continue
            scopes = [scope for way in about["security"] for scope in way.get("token", [])]
            body = BODIES.get(name) or _body(about, document)
            yield Operation(name, method.upper(), template, scopes[0] if scopes else "", body)
            if name in HEARD:
                yield Operation(name, method.upper(), template, scopes[0], body, stream=True)


def _body(about: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    if "requestBody" not in about:
        return None
    schema = about["requestBody"]["content"]["application/json"]["schema"]
    values = {"string": MARK, "boolean": True, "integer": 1, "number": 1}
    return {name: values[schema["properties"][name]["type"]] for name in schema.get("required", ())}


def raw(place: Place, operation: Operation, path: str, headers: Mapping[str, str], url: str = "") -> Heard:
    """Ask, and of what is answered for ever (a stream) take the first of it."""
    url = url or place.url
    if not operation.stream:
        return ask(url, operation.method, path, operation.body, **headers)
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=20)
    connection.request(operation.method, path, headers={**operation.headers, **headers})
    answer = connection.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}
    body = answer.read1(65536) if answer.status == 200 else answer.read()
    connection.close()
    return Heard(answer.status, found, body)


def guarded(place: Place) -> list[Operation]:
    """The operations that need a token."""
    return [operation for operation in operations(place) if operation.name not in NOBODY_ASKED]


def refused(operation: Operation, answer: Heard, who: str) -> None:
    """Hold an answer to what the matrix says of it."""
    said = f"{operation.method} {operation.template} by {who}: {answer.status} {answer.body[:300]!r}"
    assert answer.status in (401, 403, 404), said
    assert answer.problem, said
    assert MARK not in answer.everything, said
    assert "traceback" not in answer.everything.lower(), said


def everything_of_alphas(place: Place) -> str:
    """What alpha would miss or find changed."""
    pages = [
        place.ask("GET", f"/v1/mailboxes/{place.mailbox}"),
        place.ask("GET", f"/v1/mailboxes/{place.mailbox}/messages"),
        place.ask("GET", f"/v1/messages/{place.message}"),
        place.ask("GET", "/v1/tokens"),
    ]
    assert all(page.status == 200 for page in pages)
    return "\n".join(page.body.decode() for page in pages)


def test_which_routes_need_no_token(place: Place) -> None:
    """What the document says open is open, and shows nothing of anybody's; nothing else is."""
    for operation in operations(place):
        path = operation.path(place.mailbox, place.message, place.token)
        answer = raw(place, operation, path, {})
        assert (answer.status == 401) is not (operation.name in NOBODY_ASKED) or operation.name == "signIn", path
        assert (operation.scope == "") is (operation.name in NOBODY_ASKED), operation
        assert MARK not in answer.everything, path


def callers(place: Place) -> Iterator[tuple[str, dict[str, str]]]:
    """Everybody who shows nothing that is any good, with what they show."""
    yield "nobody", {}
    for text in (
        "", "Bearer", "Bearer ", "Bearer x", f"Basic {place.alpha}", place.alpha, f"Bearer {place.alpha}x",
        f"Bearer {place.alpha} x", f"Bearer, Bearer {place.alpha}", f"Bearer {place.alpha.upper()}",
        "Bearer ' or 1=1 --", "Bearer " + "x" * 5000,
    ):  # fmt: skip
        yield f"Authorization {text[:40]!r}", {"Authorization": text}
    for name in ("expired", "revoked"):
        yield f"{name} token", bearer(place.ended[name])
    ended = place.ended["a session whose token was revoked"]
    yield "ended session", {"Cookie": ended, "Origin": place.url}
    yield "token as a cookie", {"Cookie": f"mailfarm-session={place.alpha}", "Origin": place.url}
    session = place.session()
    yield "session as a token", bearer(session.partition("=")[2])
    yield "session of the other web site", {"Cookie": session, "Origin": "http://evil.example"}
    yield "session, and a page elsewhere asks", {"Cookie": session, "Sec-Fetch-Site": "cross-site"}


def test_whoever_shows_nothing_good_is_told_nothing(place: Place) -> None:
    before = everything_of_alphas(place)
    asked = 0
    for who, headers in callers(place):
        for operation in guarded(place):
            path = operation.path(place.mailbox, place.message, place.token)
            refused(operation, raw(place, operation, path, headers), who)
            asked += 1
    assert asked > 400
    assert everything_of_alphas(place) == before


def test_a_token_in_the_address_is_no_token(place: Place) -> None:
    for operation in guarded(place):
        path = operation.path(place.mailbox, place.message, place.token)
        for name in ("token", "access_token", "api_key"):
            joint = "&" if "?" in path else "?"
            answer = raw(place, operation, f"{path}{joint}{name}={place.alpha}", {})
            refused(operation, answer, f"?{name}=")
            assert place.alpha not in answer.everything


def test_a_session_cookie_without_an_origin_changes_nothing(place: Place) -> None:
    before = everything_of_alphas(place)
    cookie = place.session()
    for operation in guarded(place):
        path = operation.path(place.mailbox, place.message, place.token)
        if operation.method != "GET":
            refused(operation, raw(place, operation, path, {"Cookie": cookie}), "a cookie alone")
    assert everything_of_alphas(place) == before


def test_without_its_scope_a_token_is_forbidden(place: Place) -> None:
    before = None
    lacking = {scope: place.made(*(other for other in SCOPES if other != scope))[1] for scope in SCOPES}
    before = everything_of_alphas(place)
    for operation in guarded(place):
        path = operation.path(place.mailbox, place.message, place.token)
        answer = raw(place, operation, path, bearer(lacking[operation.scope]))
        refused(operation, answer, f"a token without {operation.scope}")
        assert (answer.status, answer.problem, answer.json["scope"]) == (403, "scope-missing", operation.scope)
    assert everything_of_alphas(place) == before


def test_what_is_anothers_is_not_found_wherever_one_asks(place: Place) -> None:
    """With every scope, in one's own name, at either account's processes, with a token and with a session."""
    before = everything_of_alphas(place)
    begun = ask(place.urls[-1], "POST", "/v1/session", {"token": place.beta}, Origin=place.urls[-1])
    session = {"Cookie": begun.headers["set-cookie"].partition(";")[0]}
    for url in place.urls:
        for shown in (bearer(place.beta), session | {"Origin": url}):
            for operation in guarded(place):
                path = operation.path(place.mailbox, place.message, place.token)
                answer = raw(place, operation, path, shown, url)
                if "{id}" in operation.template:
                    refused(operation, answer, "beta")
                    assert answer.status == 404
                elif operation.scope == "queue:all":
                    refused(operation, answer, "beta")
                else:  # beta's own, then: an empty list, a mailbox of its own
                    assert answer.status < 300, (path, answer.body)
                    assert MARK not in answer.everything, path
    taken = json.loads(everything_of_alphas(place).splitlines()[0])["address"]
    answer = ask(place.url, "POST", "/v1/mailboxes", {"address": taken}, **bearer(place.beta))
    assert answer.status == 409
    answer = ask(place.url, "GET", f"/v1/mailboxes?address={taken}", **bearer(place.beta))
    assert answer.json["mailboxes"] == []
    answer = ask(place.url, "GET", f"/v1/refusals?address={NOBODY}", **bearer(place.beta))
    assert answer.json["refusals"] == []
    assert everything_of_alphas(place) == before


def test_ids_of_anothers_within_ones_own_request_are_passed_over(place: Place) -> None:
    own = ask(place.url, "POST", "/v1/mailboxes", {}, **bearer(place.beta)).json["id"]
    before = everything_of_alphas(place)
    for method, more in (("PATCH", {"seen": True}), ("DELETE", {})):
        body = {"ids": [place.message], **more}
        answer = ask(place.url, method, f"/v1/mailboxes/{own}/messages", body, **bearer(place.beta))
        assert answer.status == 200
        assert not answer.json.get("changed")
        assert not answer.json.get("deleted")
    for path in (f"/v1/mailboxes?after={place.mailbox}", f"/v1/tokens?after={place.token[:-1]}0"):
        assert MARK not in ask(place.url, "GET", path, **bearer(place.beta)).everything
    assert everything_of_alphas(place) == before


def test_the_owner_gets_it(place: Place) -> None:
    """Each request of this matrix is a good one, when the right one asks."""
    for operation in guarded(place):
        if operation.template.startswith("/v1/queue/entries/{id}"):
            continue  # there are none while all is filed: see the next test
        mailbox, message = place.furnish()
        token, _ = place.made()
        answer = raw(place, operation, operation.path(mailbox, message, token), bearer(place.alpha))
        assert answer.status in (200, 201, 204), (operation, answer.status, answer.body)
        silent = operation.method != "GET" or operation.stream or operation.template.startswith("/v1/queue")
        assert silent or MARK in answer.everything, operation


def test_an_entry_of_the_queue_is_its_accounts(place: Place) -> None:
    """Mail that has been accepted and not yet filed."""
    if place.worker is None:
        return  # dev files mail as it accepts it
    place.worker.stop()
    try:
        with smtplib.SMTP("127.0.0.1", place.capture, timeout=30) as smtp:
            smtp.sendmail(f"{MARK}@shop.example", [f"{MARK}@mailfarm.test"], MAIL)
        (entry,) = place.ask("GET", "/v1/queue/entries?state=waiting").json["entries"]
        _, no_mail = place.made("queue:read")
        for operation in guarded(place):
            if "/queue/" not in operation.template:
                continue
            path = operation.path("", "", "", entry["id"])
            body = {"confirm": entry["id"]} if operation.name == "dropQueueEntry" else operation.body
            path += "?state=waiting" * (operation.name == "listQueueEntries")
            for url in place.urls:
                answer = ask(url, operation.method, path, body, **bearer(place.beta))
                assert MARK not in answer.everything
                assert answer.status == (200 if operation.name == "listQueueEntries" else 404)
            answer = ask(place.url, operation.method, path, body, **bearer(place.alpha))
            if operation.method == "GET":
                assert answer.status == 200
                assert MARK in answer.everything
            else:
                assert answer.status == 409, answer.body  # only what was set aside; but it is there
        raw = ask(place.url, "GET", f"/v1/queue/entries/{entry['id']}/raw", **bearer(no_mail))
        assert (raw.status, MARK in raw.everything) == (403, False)
    finally:
        place.worker.start()


# The WebSocket


def test_a_websocket_needs_a_token_too(place: Place) -> None:
    for url in place.sockets:
        for who, headers in callers(place):
            shown = {name.replace("_", "-"): value for name, value in headers.items()}
            if not shown.get("Authorization", "x") and "Cookie" not in shown:
                shown = {}
            try:
                socket = WebSocket(url, **shown)
            except ConnectionRefusedError as error:
                status = str(error)
            else:
                status = ""
            if status:
                assert status.split()[1] in ("401", "403"), (who, status)
                continue
            with socket:  # let in to say who it is
                assert socket.hear("hello")["auth"] is True, who
                for op in ({"op": "subscribe", "mailbox": place.mailbox}, {"op": "watch"}):
                    socket.say(**op)
                    told = socket.hear("problem")
                    assert told["problem"] == "/v1/problems/unauthenticated", who
                    assert MARK not in json.dumps(told)


@pytest.mark.parametrize("which", ["expired", "revoked", "unknown", "session"])
def test_a_websocket_takes_no_token_that_has_ended(place: Place, which: str) -> None:
    text = {"unknown": "mf_" + "0" * 40, "session": ""}.get(which) or place.ended.get(which, "")
    if which == "session":
        text = place.session().partition("=")[2]
    for url in place.sockets:
        with WebSocket(url) as socket:
            socket.hear("hello")
            socket.say(op="auth", token=text)
            with pytest.raises(EOFError, match="4401"):
                socket.hear("authenticated")


def test_a_websocket_tells_nothing_of_anothers(place: Place) -> None:
    for url in place.sockets:
        with WebSocket(url, place.beta) as socket:
            socket.hear("hello")
            for after in ({}, {"after": 0}):
                socket.say(op="subscribe", mailbox=place.mailbox, **after)
                told = socket.hear("problem")
                assert told["problem"] == "/v1/problems/not-found"
                assert MARK not in json.dumps(told)
            socket.say(op="watch")
            socket.hear("watching")
            place.furnish()  # alpha's, while beta watches
            socket.say(op="auth", token=place.alpha)
            assert socket.hear("problem")["problem"] == "/v1/problems/invalid-value"
            ask(place.url, "POST", "/v1/mailboxes", {}, **bearer(place.beta))
            told = socket.hear("mailbox-opened")
            assert MARK not in json.dumps(told), "the first that a watcher hears of is its own"


@pytest.mark.parametrize(("op", "scope"), [("subscribe", "messages:read"), ("watch", "mailboxes:read")])
def test_a_websocket_needs_the_scope(place: Place, op: str, scope: str) -> None:
    _, without = place.made(*(other for other in SCOPES if other != scope))
    for url in place.sockets:
        with WebSocket(url, without) as socket:
            socket.hear("hello")
            socket.say(op=op, **({"mailbox": place.mailbox} if op == "subscribe" else {}))
            told = socket.hear("problem")
            assert (told["problem"], MARK in json.dumps(told)) == ("/v1/problems/scope-missing", False)


# What is open already


def until_now(place: Place, path: str, token: str, **headers: str) -> tuple[http.client.HTTPConnection, Any]:
    """A request that stays open."""
    parts = urlsplit(place.url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=20)
    connection.request("GET", path, headers={**bearer(token), **headers})
    return connection, connection.sock.makefile("rb")


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_what_is_open_ends_with_its_token(place: Place, how: str) -> None:
    """A stream, a wait and a WebSocket hear nothing of what comes after the end of their token."""
    id, text = place.made(lifetime=2 if how == "expired" else None)
    mailbox = place.mailbox
    stream, told = until_now(place, f"/v1/mailboxes/{mailbox}/events", text, Accept="text/event-stream")
    wait, answered = until_now(place, f"/v1/mailboxes/{mailbox}/wait?count=1000&timeout=60", text)
    with WebSocket(place.sockets[0], text) as socket:
        socket.say(op="subscribe", mailbox=mailbox)
        socket.hear("subscribed")
        assert told.readline().startswith(b"HTTP/1.1 200 ")
        while told.readline() != b": mailfarm\n":
            pass
        if how == "revoked":
            assert place.ask("DELETE", f"/v1/tokens/{id}").status == 204
        assert answered.readline().startswith(b"HTTP/1.1 401 ")
        with pytest.raises(EOFError, match="4401"):
            socket.hear("filed")
        place.ask("PATCH", f"/v1/messages/{place.message}", {"seen": False})
        place.ask("PATCH", f"/v1/messages/{place.message}", {"seen": True})
        while (line := told.readline()) not in (b"0\r\n", b""):  # the last chunk
            assert not line.startswith(b"data:"), line
    for each in (stream, wait):
        each.close()


def test_a_websocket_takes_no_lesser_token_for_what_it_follows(place: Place) -> None:
    """Else what the first token allowed would go on when that has ended."""
    _, lesser = place.made("mailboxes:read")
    for url in place.sockets:
        with WebSocket(url, place.alpha) as socket:
            socket.say(op="auth", token=lesser)
            socket.hear("authenticated")
            socket.say(op="auth", token=place.alpha)
            socket.hear("authenticated")
            socket.say(op="subscribe", mailbox=place.mailbox)
            socket.hear("subscribed")
            socket.say(op="auth", token=lesser)
            assert socket.hear("problem")["problem"] == "/v1/problems/scope-missing"
            socket.say(op="watch")
            socket.hear("watching")
