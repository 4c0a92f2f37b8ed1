"""One declaration for each route: it routes, checks and reads the request, and is its part of the OpenAPI document.

class Mailboxes(Resource):
    app = Klein()

    @route(app, "GET", "/v1/mailboxes/<id>", "Read a mailbox", name="getMailbox", gives=Gives(200, "Mailbox"))
    async def read(self, ask: Ask) -> Answer: ...
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from mailfarm.errors import MailfarmError
from mailfarm.ids import is_id
from mailfarm.net.problems import Problem

from .access import Access, Caller
from .answering import Answer, write
from .asking import Body, Field, read_body, read_query

MAX_BODY = 1 << 20

log = Logger()


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, checked. ``query`` and ``path`` hold every declared name, ``body`` the members that were given."""

    request: Request
    caller: Caller
    path: Mapping[str, Any]
    query: Mapping[str, Any]
    body: Mapping[str, Any]

    @property
    def account(self) -> str:
        """The caller's account."""
        return self.caller.account

    @property
    def id(self) -> str:
        """The id in the path."""
        found: str = self.path["id"]
        return found


@dataclass(frozen=True, slots=True)
class Gives:
    """One good answer: a status with a schema by name, or with other media types."""

    status: int
    schema: str = ""
    types: tuple[str, ...] = ()
    about: str = ""
    etag: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """A route as the document shows it."""

    method: str
    path: str
    name: str
    summary: str
    about: str
    gives: tuple[Gives, ...]
    scope: str
    query: tuple[Field, ...]
    body: Body | None
    problems: tuple[str, ...]
    tag: str

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it: ``/v1/mailboxes/{id}``."""
        return re.sub(r"<(?:[a-z]+:)?([a-z]+)>", r"{\1}", self.path)


class Resource:
    """The base of the REST resources: what `route` needs of them."""

    app: Klein

    def __init__(self, access: Access) -> None:
        self._access = access


Handler = Callable[[Any, Ask], Awaitable[Answer | None]]


def route(
    app: Klein,
    method: str,
    path: str,
    summary: str,
    *,
    name: str,
    gives: Gives | tuple[Gives, ...],
    scope: str = "",
    query: tuple[Field, ...] = (),
    body: Body | None = None,
    problems: tuple[str, ...] = (),
) -> Callable[[Handler], Handler]:
    """Make a coroutine method a route. ``name`` is its operationId. A scope of ``""`` needs no token.

    The method returns an Answer, or None when it has written one itself; it never finishes the request.
    """

    def declare(function: Handler) -> Handler:
        operation = Operation(
            method,
            path,
            name,
            summary,
            " ".join((function.__doc__ or "").split()),
            gives if isinstance(gives, tuple) else (gives,),
            scope,
            query,
            body,
            problems,
            function.__qualname__.partition(".")[0].lower(),
        )

        async def handle(self: Resource, request: Request, **path: Any) -> None:
            if scope:
                caller = await self._access.admit(request, scope)
            else:
                await self._access.let_in(request)
                caller = Caller("", frozenset())
            values = read_query(request.uri.partition(b"?")[2], query)
            members = _members(request, body)
            if "id" in path and not is_id(path["id"]):
                raise Problem("not-found", "there is no such id")
            work = function(self, Ask(request, caller, path, values, members))
            answer = await (work if request.method in (b"GET", b"HEAD") else _to_the_end(work))
            if answer is not None:
                write(request, answer)

        handle.operation = operation  # type: ignore[attr-defined]  # a function takes it
        app.route(path, methods=[method], endpoint=f"{method} {path}")(handle)
        return function

    return declare


def _to_the_end(work: Awaitable[Answer | None]) -> Deferred[Answer | None]:
    """What changes something is not left half done, and its change not untold, because the client went away: the
    answer is given up then, the work is not."""
    answered: Deferred[Answer | None] = Deferred()

    def done(result: Any) -> None:
        if not answered.called:  # it is, if it was cancelled
            answered.callback(result)
        elif isinstance(result, Failure) and not result.check(MailfarmError, Problem):
            log.failure("What a client that went away had asked for failed", result)

    Deferred.fromCoroutine(work).addBoth(done)  # type: ignore[arg-type]  # a route is a coroutine
    return answered


def _members(request: Request, body: Body | None) -> Mapping[str, Any]:
    """The body of the request. Only ``application/json`` is taken, which no form can send and no page of another
    origin without asking first."""
    if request.method in (b"GET", b"HEAD"):
        return {}
    raw = request.content.read() if request.content is not None else b""
    if body is None:
        if raw:
            raise Problem("invalid-value", "this takes no body")
        return {}
    coding = (request.getHeader("content-encoding") or "identity").strip().lower()
    if coding != "identity":
        raise Problem(
            "not-json", "send the body as it is, without Content-Encoding", headers={"Accept-Encoding": "identity"}
        )
    if not raw and request.getHeader("content-type") is None:
        raise Problem("invalid-json", "a JSON body is needed; say {} if there is nothing to say")
    kind, _, parameters = (request.getHeader("content-type") or "").lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "").strip()
    if kind.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        raise Problem(
            "not-json",
            "the body must be JSON in UTF-8, sent with the header Content-Type: application/json",
            headers={"Accept": "application/json"},
        )
    return read_body(raw, body)


def operations(resources: Iterable[type[Resource] | Resource]) -> list[Operation]:
    """Every declared route of these resources."""
    handlers: list[Any] = [handler for resource in resources for handler in resource.app.endpoints.values()]
    return [handler.operation for handler in handlers]
