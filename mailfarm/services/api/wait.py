"""GET /v1/mailboxes/{id}/wait: answer when the messages asked for are there, or when the time is over."""

from __future__ import annotations

from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred

from mailfarm.events import form, summary_form
from mailfarm.mailboxes import store
from mailfarm.mailboxes.feed import Feeds, Spawn
from mailfarm.mailboxes.mailbox import Mailbox
from mailfarm.mailboxes.near import NearMiss, near_misses
from mailfarm.mailboxes.waiting import LARGEST as MOST_MESSAGES
from mailfarm.mailboxes.waiting import Answer as Outcome
from mailfarm.mailboxes.waiting import Need, Wait
from mailfarm.net.problems import Problem
from mailfarm.ports import Database, Tx

from .access import Access
from .answering import Answer
from .asking import LARGEST, Field
from .counting import Counts
from .lasting import ended
from .messages import FILTER, criteria
from .refusals import RefusalLog
from .routes import Ask, Gives, Resource, route
from .slots import Slots, stopping

LONGEST = 300.0


class Waits(Resource):
    """Waits for messages."""

    app = Klein()

    def __init__(
        self,
        access: Access,
        database: Database,
        feeds: Feeds,
        spawn: Spawn,
        refusals: RefusalLog,
        slots: Slots,
        counts: Counts,
        reactor: Any,
    ) -> None:
        super().__init__(access)
        self._database = database
        self._feeds = feeds
        self._spawn = spawn
        self._refusals = refusals
        self._slots = slots
        self._counts = counts
        self._reactor = reactor

    @route(
        app,
        "GET",
        "/v1/mailboxes/<id>/wait",
        "Wait for messages",
        name="waitForMessages",
        gives=Gives(200, "Found"),
        scope="messages:read",
        query=(
            *FILTER,
            Field("count", "integer", "At least so many (1 if nothing is said).", least=1, most=MOST_MESSAGES),
            Field("exact", "integer", "So many and no more until the time is over.", most=MOST_MESSAGES),
            Field("none", "boolean", "True: not one until the time is over.", default=False),
            Field("after", "integer", "Only messages filed after this change.", default=0, most=LARGEST),
            Field("timeout", "number", "Seconds to wait.", default=30, most=int(LONGEST)),
        ),
        problems=("wait-timed-out", "too-many-messages", "too-many-waits"),
    )
    async def wait(self, ask: Ask) -> Answer:
        """Messages that are there already count. Give one of `count`, `exact` and `none`. When the time is over: 408
        with the criteria, what matched, what came near and what was refused; 409 when more came than were to come."""
        query = ask.query
        need = _need(query)
        if ask.request.method == b"HEAD":  # asks about the resource, not for mail
            mailbox = await self._database.read(lambda tx: store.find(tx, ask.account, ask.id), once=True)
            return Answer({"messages": [], "cursor": mailbox.cursor})
        answered: Deferred[Outcome | Problem] = Deferred()

        def answer(outcome: Outcome | Problem) -> None:
            if not answered.called:
                answered.callback(outcome)

        wait = Wait(
            self._feeds, self._database, self._spawn, ask.account, ask.id, criteria(query), need, answer, query["after"]
        )
        lasts = self._access.lasts(ask.request, ask.caller, lambda: answer(ended()))
        with self._slots.take(lambda: answer(stopping()), self._counts.waits), lasts:
            end = self._reactor.seconds() + query["timeout"]
            timer = None
            try:
                # what is there already is looked at even with a timeout of 0
                await wait.start()
                ask.request.give_way()  # type: ignore[attr-defined]  # it is a GuardedRequest
                timer = self._reactor.callLater(max(0.0, end - self._reactor.seconds()), wait.time_out)
                outcome = await answered
            finally:
                # also when the client has gone: then this coroutine is cancelled
                if timer is not None and timer.active():
                    timer.cancel()
                wait.stop()
        if isinstance(outcome, Problem):
            raise outcome
        return await self._tell(ask, need, outcome)

    async def _tell(self, ask: Ask, need: Need, outcome: Outcome) -> Answer:
        found = [summary_form(message) for message in outcome.messages]
        if outcome.kind == "found":
            return Answer({"messages": found, "cursor": outcome.cursor})
        if outcome.kind == "closed":
            raise Problem("not-found", f"the mailbox {ask.id} ended while it was waited for")
        after = ask.query["after"]

        async def look(tx: Tx) -> tuple[Mailbox, tuple[NearMiss, ...]]:
            mailbox = await store.find(tx, ask.account, ask.id)
            return mailbox, await near_misses(tx, ask.id, criteria(ask.query), after=after, upto=outcome.cursor)

        mailbox, near = await self._database.read(look)
        refusals = self._refusals.of_mailbox(mailbox) if "refusals:read" in ask.caller.scopes else ()
        members: dict[str, Any] = {
            "criteria": {
                **dict(criteria(ask.query).asked()),
                need.mode: True if need.mode == "none" else need.n,
                "after": after,
                "timeout": ask.query["timeout"],
            },
            "cursor": outcome.cursor,
            "messages": found,
            "near_misses": [{"message": summary_form(miss.message), "failed": list(miss.failed)} for miss in near],
            "refusals": [form(one) for one in refusals],
        }
        if outcome.kind == "too-many":
            came = f"{len(found)} {'message' if len(found) == 1 else 'messages'} matched"
            wanted = "none" if need.n == 0 else f"exactly {need.n}"
            raise Problem("too-many-messages", f"{came}; {wanted} should", **members)
        raise Problem("wait-timed-out", _sentence(ask, need, len(found), len(near)), **members)


def _need(query: Any) -> Need:
    given = [name for name in ("count", "exact") if query[name] is not None] + ["none"] * bool(query["none"])
    if len(given) > 1:
        raise Problem("invalid-value", f"give one of {' and '.join(given)}, not both", name=given[1])
    if query["none"]:
        return Need.none()
    return Need.exactly(query["exact"]) if query["exact"] is not None else Need.at_least(query["count"] or 1)


def _sentence(ask: Ask, need: Need, matched: int, near: int) -> str:
    plural = "message" if need.n == 1 else "messages"
    return f"{matched} of {need.n} {plural} came within {ask.query['timeout']:g} s" + (
        f"; {near} more came near, see near_misses" if near else ""
    )
