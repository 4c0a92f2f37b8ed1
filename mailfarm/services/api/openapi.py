"""The OpenAPI 3.1 document, made from the declared routes: what is not there is not routed, and the other way round."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from mailfarm.accounts.token import SCOPES
from mailfarm.net.problems import KINDS, MEDIA_TYPE

from .routes import Gives, Operation
from .schemas import ID, SCHEMAS, named

_ALWAYS = (
    "bad-request",
    "unknown-name",
    "foreign-origin",
    "request-timeout",
    "uri-too-long",
    "wrong-host",
    "too-many-requests",
    "too-many-connections",
    "internal-error",
    "stopping",
)
_BODY = ("invalid-json", "invalid-value", "body-too-large", "not-json")
_TOKEN = ("unauthenticated", "scope-missing", "unavailable")


_OWN = {"wait-timed-out": "WaitProblem", "too-many-messages": "WaitProblem", "cursor-too-old": "CursorProblem"}
"""Problems that have members of their own."""

_ABOUT = """\
Ids are letters and digits, ordered by time. Each change of a mailbox has the mailbox's next number; the last one \
considered for an answer is its `cursor`. Errors are problems (RFC 9457). Bodies are `application/json` and nothing \
else. A path answers methods it does not list with 405 and an `Allow` header, and HEAD wherever it answers GET.

## To follow a mailbox

Take a `cursor` first: the mailbox's, or the one in the first page of a list. Then list. Then go on from that cursor \
(not from a later page's: messages already listed may have changed meanwhile), with `GET .../events?after=`, a stream, \
or the WebSocket. To be told again of something already listed is harmless. Pages of events go on until `cursor` \
stands still.

## Server-Sent Events

`GET /v1/mailboxes/{id}/events` with `Accept: text/event-stream` is a stream. Each change is one event: `id:` is its \
number, `data:` the JSON of schema `Event`; there is no `event:` field. After a cut, `Last-Event-ID` goes on behind \
it. Two kinds have no `id:` and are the last of their stream: `{"type": "mailbox-closed", ...}`, and \
`{"type": "resync", "mailbox", "oldest", "cursor"}` for who fell behind what is kept. A comment line comes every 15 \
seconds. A client that takes nothing for a minute is dropped.

## Limits

Where the farm limits requests, answers say so in `RateLimit-Policy` (`"token";q=600;w=60`: 600 requests in 60 seconds \
with this token), and who asks more often is answered 429 with `Retry-After` and `RateLimit`.

## WebSocket

Where `live` runs, `/v1/events` is a WebSocket: JSON text frames `subscribe`, `unsubscribe`, `watch`, `auth` and \
`ping`, answered by the same events. `mailfarm help live` has the whole protocol.
"""


def document(
    operations: Iterable[Operation], version: str, *, status: Collection[str] = (), websocket: bool = False
) -> dict[str, Any]:
    """The whole document; with those of the pages about the process that are served (``status``: their paths), and with
    the WebSocket where it is."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.template, {})[operation.method.lower()] = _operation(operation)
    paths |= {path: page for path, page in _STATUS.items() if path in status}
    if websocket:
        paths |= _WEBSOCKET
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mailfarm",
            "version": version,
            "summary": "Mailboxes for tests: make one, send to it, wait for what comes",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"Not asked for where MAILFARM_API_AUTH=none. Scopes: {', '.join(SCOPES)}.",
                }
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [*_path(operation), *_query(operation)],
        "responses": _good_ones(operation) | _problems(operation),
        # an empty requirement beside the token's: a farm may ask for none
        "security": [{}, {"token": [operation.scope]}] if operation.scope else [],
    }
    if operation.about:
        found["description"] = operation.about
    if operation.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": operation.body.schema()}},
        }
    return found


def _path(operation: Operation) -> list[dict[str, Any]]:
    schemas = {"id": ID, "n": {"type": "integer", "minimum": 0}, "name": {"type": "string", "enum": list(KINDS)}}
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in schemas.items()
        if f"{{{name}}}" in operation.template
    ]


def _query(operation: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": field.name,
            "in": "query",
            "required": field.required,
            "description": field.about,
            "schema": field.schema(),
        }
        for field in operation.query
    ]


def _good(gives: Gives) -> dict[str, Any]:
    about = gives.about or {200: "As asked.", 201: "Made.", 204: "Done."}[gives.status]
    content: dict[str, Any] = {kind: {"schema": {"type": "string"}} for kind in gives.types}
    if gives.schema:
        content = {"application/json": {"schema": named(gives.schema)}, **content}
    found: dict[str, Any] = {"description": about}
    if content:
        found["content"] = content
    if gives.etag:
        found["headers"] = {"ETag": _header("Send it as If-None-Match to be answered 304 while nothing has changed.")}
    if gives.status == 201:
        found["headers"] = {"Location": _header("The path of what was made.")}
    return found


def _good_ones(operation: Operation) -> dict[str, Any]:
    found = {str(gives.status): _good(gives) for gives in operation.gives}
    if any(gives.etag for gives in operation.gives):
        found["304"] = {"description": "It is as you have it."}
    return found


def _header(about: str) -> dict[str, Any]:
    return {"description": about, "schema": {"type": "string"}}


_POLICY = 'The limits that apply: `"token";q=600;w=60` is 600 requests in 60 seconds.'
_HEADERS = {
    401: {"WWW-Authenticate": _header("Bearer, and why.")},
    415: {"Accept": _header("What is taken instead.")},
    429: {
        "Retry-After": _header("Seconds after which to try again."),
        "RateLimit": _header('Which limit is used up, and for how many seconds: `"token";r=0;t=3`.'),
        "RateLimit-Policy": _header(_POLICY),
    },
    503: {"Retry-After": _header("Seconds after which to try again.")},
}
"""Headers of problems, by status."""


def _problems(operation: Operation) -> dict[str, Any]:
    names = [*_ALWAYS, *operation.problems]
    if operation.scope:
        names += _TOKEN
    if operation.query or operation.body is not None:
        names.append("invalid-value")
    if operation.body is not None:
        names += _BODY
    if "{id}" in operation.template:
        names.append("not-found")
    return _problems_of(names)


def _problems_of(names: Iterable[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    for name in dict.fromkeys(names):
        by_status.setdefault(KINDS[name].status, []).append(name)
    return {
        str(status): {
            "description": "; ".join(f"{name}: {KINDS[name].title.lower()}" for name in kinds),
            "content": {MEDIA_TYPE: {"schema": _schema(kinds)}},
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status, kinds in sorted(by_status.items())
    }


def _schema(kinds: list[str]) -> dict[str, Any]:
    schemas = dict.fromkeys(_OWN.get(kind, "Problem") for kind in kinds)
    return named(next(iter(schemas))) if len(schemas) == 1 else {"anyOf": [named(schema) for schema in schemas]}


def _page(name: str, summary: str, about: str, answers: dict[str, tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    responses = {
        status: {"description": text, "content": {kind: {"schema": schema}}}
        for status, (text, kind, schema) in answers.items()
    }
    operation = {"operationId": name, "summary": summary, "description": about, "tags": ["status"], "parameters": []}
    return {
        "get": {**operation, "responses": responses | _problems_of(("wrong-host", "foreign-origin")), "security": []}
    }


_PLAIN: dict[str, Any] = {"type": "string"}
_STATUS = {
    "/healthz": _page(
        "getLiveness",
        "Is the process alive",
        "Needs no token.",
        {"200": ("It runs.", "text/plain", _PLAIN), "503": ("It is stopping.", "text/plain", _PLAIN)},
    ),
    "/readyz": _page(
        "getReadiness",
        "Do the database and the queue answer",
        "Needs no token.",
        {
            "200": ("All do.", "application/json", named("Readiness")),
            "503": ("Some do not, or it is stopping.", "application/json", named("Readiness")),
        },
    ),
    "/metrics": _page(
        "getMetrics",
        "What has been counted, for Prometheus",
        "Needs no token.",
        {"200": ("The Prometheus text form.", "text/plain", _PLAIN)},
    ),
}
_REFUSES_SOCKET = (
    "bad-request",
    "unauthenticated",
    "foreign-origin",
    "wrong-host",
    "upgrade-required",
    "too-many-requests",
    "too-many-connections",
    "unavailable",
    "stopping",
)
_WEBSOCKET = {
    "/v1/events": {
        "get": {
            "operationId": "openEvents",
            "summary": "Open the WebSocket of events",
            "description": "See above. The token, where one is asked for, goes into the Authorization header or the "
            "first message, never into the address.",
            "tags": ["events"],
            "parameters": [],
            "responses": {
                "101": {"description": "From here on WebSocket (RFC 6455)."},
                **_problems_of(_REFUSES_SOCKET),
            },
            "security": [{}, {"token": ["messages:read"]}],
        }
    }
}
