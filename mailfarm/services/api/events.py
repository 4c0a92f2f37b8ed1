"""GET /v1/mailboxes/{id}/events: the changes of a mailbox, as a page of JSON or as Server-Sent Events."""

from __future__ import annotations

from klein import Klein
from orjson import Fragment

from mailfarm.events import Change, Filed, to_json
from mailfarm.mailboxes import events, messages
from mailfarm.mailboxes.match import Matcher
from mailfarm.net.problems import Problem
from mailfarm.ports import Database, Tx

from .access import Access
from .answering import Answer, refused
from .asking import LARGEST, Field
from .messages import FILTER, criteria
from .routes import Ask, Gives, Resource, route
from .sse import Streams

PAGE = 500
AT_ONCE = 100
"""Changes read at a time."""
MOST = 4 * 1024 * 1024
"""Octets of events on a page, unless those read together are more."""


class Events(Resource):
    """The changes of a mailbox."""

    app = Klein()

    def __init__(self, access: Access, database: Database, streams: Streams) -> None:
        super().__init__(access)
        self._database = database
        self._streams = streams

    @route(
        app,
        "GET",
        "/v1/mailboxes/<id>/events",
        "List or follow the changes of a mailbox",
        name="listEvents",
        gives=Gives(200, "EventPage", types=("text/event-stream",)),
        scope="messages:read",
        query=(
            *FILTER,
            Field("after", "integer", "Only changes after this one; a stream without it begins now.", most=LARGEST),
            Field(
                "limit",
                "integer",
                "How many changes a page looks at, 500 if left out; not for a stream.",
                least=1,
                most=1000,
            ),
        ),
        problems=("cursor-too-old", "too-many-waits"),
    )
    async def events(self, ask: Ask) -> Answer | None:
        """With `Accept: text/event-stream` a stream: each event has its change number as `id:`, and `Last-Event-ID`
        goes on after it. The filter keeps back `filed` events of messages that do not match, or are gone.

        As a page: `cursor` is the last change looked at. Ask again with `after=cursor` until the cursor stands still; a
        page may be short, even empty, and not be the last: the filter kept events back, or they are large."""
        after = ask.query["after"]
        if ask.request.method == b"GET" and _wants_stream(ask.request.getHeader("accept")):
            if ask.query["limit"] is not None:
                raise Problem("invalid-value", "limit is for pages; a stream has no end", name="limit")
            await self._streams.run(ask, after, criteria(ask.query))
            return None

        matcher = Matcher(criteria(ask.query))

        async def matches(tx: Tx, event: Change) -> bool:
            if not matcher.criteria or not isinstance(event, Filed):
                return True
            if event.gone:
                return False
            return matcher.matches(
                event.message, await messages.text(tx, event.message.id) if matcher.needs_text else ""
            )

        async def work(tx: Tx) -> tuple[list[bytes], int]:
            kept: list[bytes] = []
            cursor, left = after or 0, ask.query["limit"] or PAGE
            while left and sum(map(len, kept)) < MOST:
                wanted = min(left, AT_ONCE)
                found, cursor = await events.after(tx, ask.account, ask.id, cursor, wanted)
                kept += [to_json(event) for event in found if await matches(tx, event)]
                left = left - wanted if len(found) == wanted else 0
            return kept, cursor

        found, cursor = await self._database.read(work)
        return Answer({"events": [Fragment(event) for event in found], "cursor": cursor})


def _wants_stream(accept: str | None) -> bool:
    for part in (accept or "").lower().split(","):
        kind, _, weight = part.partition(";")
        if kind.strip() == "text/event-stream":
            return not refused(weight)
    return False
