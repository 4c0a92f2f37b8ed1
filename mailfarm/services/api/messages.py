"""GET, PATCH, DELETE /v1/mailboxes/{id}/messages; GET, PATCH, DELETE /v1/messages/{id}."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from klein import Klein
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.threads import deferToThreadPool

from mailfarm.events import Change, summary_form
from mailfarm.ids import Ids
from mailfarm.inbound.found import find
from mailfarm.mailboxes import messages, store
from mailfarm.mailboxes.announce import announce
from mailfarm.mailboxes.changes import summary_json
from mailfarm.mailboxes.content import Found, StoredMessage
from mailfarm.mailboxes.forms import message_form
from mailfarm.mailboxes.match import LONGEST, Criteria
from mailfarm.net.problems import Problem
from mailfarm.ports import Bus, Database, Tx

from .access import Access
from .answering import Answer
from .asking import LARGEST, Body, Field
from .routes import Ask, Gives, Resource, route

FILTER = (
    Field("from", "text", "A whole address, or a part of `name <address>`.", default="", most=LONGEST),
    Field("to", "text", "The same, of the recipients in header or envelope.", default="", most=LONGEST),
    Field("subject", "text", "A part of the subject; case does not matter.", default="", most=LONGEST),
    Field("contains", "text", "A part of the subject, the text or the visible HTML.", default="", most=LONGEST),
)
_PAGE = (
    *FILTER,
    Field("seen", "boolean", "Only messages seen, or only those not seen."),
    Field("after", "integer", "Only messages filed after this change.", default=0, most=LARGEST),
    Field("before", "integer", "Only messages filed before this change.", most=LARGEST),
    Field("order", "text", "By change number.", default="asc", choices=("asc", "desc")),
    Field("limit", "integer", "How many at most.", default=50, least=1, most=1000),
)
_WHICH = (
    Field("ids", "ids", "These messages."),
    Field("all", "boolean", "True: all messages of the mailbox. Give this or `ids`."),
)
_SEEN = Field("seen", "boolean", "Whether they are seen.")
_BATCH = 500
READ_AT_ONCE = 8
"""Messages read and shown at once."""
_INLINE = 64 * 1024  # characters looked through on the spot: a few milliseconds


def criteria(query: Any) -> Criteria:
    """What the filter parameters ask for."""
    return Criteria(query["from"], query["to"], query["subject"], query["contains"])


class Messages(Resource):
    """The messages of a mailbox, and one message by its id."""

    app = Klein()

    def __init__(self, access: Access, database: Database, bus: Bus, ids: Ids, reactor: Any) -> None:
        super().__init__(access)
        self._reactor = reactor
        self._database = database
        self._bus = bus
        self._ids = ids
        self._few = DeferredSemaphore(READ_AT_ONCE)

    @route(
        app,
        "GET",
        "/v1/mailboxes/<id>/messages",
        "List messages",
        name="listMessages",
        gives=Gives(200, "MessagePage"),
        scope="messages:read",
        query=_PAGE,
    )
    async def list(self, ask: Ask) -> Answer:
        """A page may be short, even empty, and not be the last. `next` is null on the last page; else give it as
        `after` (order asc) or `before` (desc). `cursor` is the last change this very answer takes into account. To
        follow the mailbox after listing it, go on from the `cursor` of the first page (or of the mailbox, read before):
        messages of an earlier page may have been deleted or marked while a later one was read. Being told again of what
        was listed is harmless."""
        query = ask.query

        async def work(tx: Tx) -> Any:
            return await messages.list_as(
                tx,
                summary_json,
                ask.account,
                ask.id,
                criteria(query),
                seen=query["seen"],
                after=query["after"],
                before=query["before"],
                order=query["order"],
                limit=query["limit"],
            )

        page = await self._database.read(work, once=True)
        return Answer({"messages": page.messages, "cursor": page.cursor, "next": page.next})

    @route(
        app,
        "PATCH",
        "/v1/mailboxes/<id>/messages",
        "Mark messages seen, or not seen",
        name="markMessages",
        gives=Gives(200, "Changed"),
        scope="messages:write",
        body=Body((*_WHICH, _SEEN), required=("seen",)),
    )
    async def mark_many(self, ask: Ask) -> Answer:
        """Messages that are so already, or are not there, are passed over."""
        which, seen = _which(ask.body), ask.body["seen"]

        def mark(tx: Tx) -> Awaitable[Sequence[Change]]:
            return messages.mark(tx, self._ids, ask.account, ask.id, which, seen)

        changed, cursor = await self._again(ask, mark, which is None)
        return Answer({"changed": changed, "cursor": cursor})

    @route(
        app,
        "DELETE",
        "/v1/mailboxes/<id>/messages",
        "Delete messages",
        name="deleteMessages",
        gives=Gives(200, "Gone"),
        scope="messages:write",
        body=Body(_WHICH),
    )
    async def delete_many(self, ask: Ask) -> Answer:
        """Needs a body, so that nobody deletes everything by leaving something out. What is not there is passed
        over."""
        which = _which(ask.body)

        def delete(tx: Tx) -> Awaitable[Sequence[Change]]:
            return messages.delete(tx, self._ids, ask.account, ask.id, which)

        deleted, cursor = await self._again(ask, delete, which is None)
        return Answer({"deleted": deleted, "cursor": cursor})

    async def _again(
        self, ask: Ask, work: Callable[[Tx], Awaitable[Sequence[Change]]], until_done: bool
    ) -> tuple[int, int]:
        """Run ``work`` in units of a bounded size until all that was there is done: not until there is nothing, which
        may be never while mail comes in. The number changed, and the cursor then."""
        changed = 0
        cursor: int | None = None
        there = (await self._database.read(lambda tx: store.find(tx, ask.account, ask.id), once=True)).messages
        while True:
            changes = await self._database.unit(work)
            announce(self._bus, changes)
            changed += sum(len(change.messages) for change in changes if hasattr(change, "messages"))
            cursor = changes[-1].seq if changes else cursor
            if not changes or not until_done or changed >= there:
                break
        if cursor is None:
            cursor = (await self._database.read(lambda tx: store.find(tx, ask.account, ask.id), once=True)).cursor
        return changed, cursor

    @route(
        app,
        "GET",
        "/v1/messages/<id>",
        "Read a message",
        name="getMessage",
        gives=Gives(200, "Message"),
        scope="messages:read",
    )
    async def read(self, ask: Ask) -> Answer:
        """Texts, parts, links, one-time codes, envelope and origin. The HTML is as it came; `/html` has it fit to
        show."""
        await self._few.acquire()  # a message is up to 2 MB here, and what is made of it again as much
        try:
            message = await self._database.read(lambda tx: messages.find(tx, ask.account, ask.id))
            return Answer(message_form(message, await self._found(message)))
        finally:
            self._few.release()

    async def _found(self, message: StoredMessage) -> Found:
        subject, text, html = message.summary.subject, message.text, message.html
        if len(text) + len(html) <= _INLINE:
            return find(subject, text, html)
        found: Found = await deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), lambda: find(subject, text, html)
        )
        return found

    @route(
        app,
        "PATCH",
        "/v1/messages/<id>",
        "Mark a message seen, or not seen",
        name="markMessage",
        gives=Gives(200, "Summary"),
        scope="messages:write",
        body=Body((_SEEN,), required=("seen",)),
    )
    async def mark(self, ask: Ask) -> Answer:
        """No change if it is so already."""

        async def work(tx: Tx) -> Any:
            found = await messages.find(tx, ask.account, ask.id)
            changes = await messages.mark(tx, self._ids, ask.account, found.summary.mailbox, [ask.id], ask.body["seen"])
            return changes, (await messages.find(tx, ask.account, ask.id)).summary

        changes, summary = await self._database.unit(work)
        announce(self._bus, changes)
        return Answer(summary_form(summary))

    @route(
        app,
        "DELETE",
        "/v1/messages/<id>",
        "Delete a message",
        name="deleteMessage",
        gives=Gives(204),
        scope="messages:write",
    )
    async def delete(self, ask: Ask) -> Answer:
        """It does not come back, also if a copy of it is delivered again."""

        async def work(tx: Tx) -> Any:
            found = await messages.find(tx, ask.account, ask.id)
            return await messages.delete(tx, self._ids, ask.account, found.summary.mailbox, [ask.id])

        announce(self._bus, await self._database.unit(work))
        return Answer(status=204)


def _which(body: Any) -> Sequence[str] | None:
    """The ids given, or None for all. Raises Problem unless exactly one of both is said."""
    if ("ids" in body) == (body.get("all") is True):
        raise Problem("invalid-value", 'give "ids": [...] or "all": true', name="ids")
    return body.get("ids")
