"""GET /v1/mailboxes/{id}/events: the changes of a mailbox, as a page of JSON or as Server-Sent Events."""

from __future__ import annotations

from klein import Klein

from mailfarm.events import Change, Filed, form
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
        page may be short, even empty, and not be the last, as the filter has kept events back."""
        after = ask.query["after"]
        if ask.request.method == b"GET" and _wants_stream(ask.request.getHeader("accept")):
            if ask.query["limit"] is not None:
                raise Problem("invalid-value", "limit is for pages; a stream has no end", name="limit")
            await self._streams.run(ask, after, criteria(ask.query))
            return None

        matcher = Matcher(criteria(ask.query))

        async def work(tx: Tx) -> tuple[list[Change], int]:
            found, cursor = await events.after(tx, ask.account, ask.id, after or 0, ask.query["limit"] or PAGE)
            kept = []
            for event in found:
                if matcher.criteria and isinstance(event, Filed):
                    if event.gone:
                        continue
                    text = await messages.text(tx, event.message.id) if matcher.needs_text else ""
                    if not matcher.matches(event.message, text):
                        continue
                kept.append(event)
            return kept, cursor

        found, cursor = await self._database.read(work)
        return Answer({"events": [form(event) for event in found], "cursor": cursor})


def _wants_stream(accept: str | None) -> bool:
    for part in (accept or "").lower().split(","):
        kind, _, weight = part.partition(";")
        if kind.strip() == "text/event-stream":
            return not refused(weight)
    return False
