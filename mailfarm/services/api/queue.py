"""GET /v1/queue; GET /v1/queue/entries, .../{id}, .../{id}/raw; POST .../{id}/retry, .../{id}/drop: what waits between
its 250 and its mailbox, and what was set aside.

Whose entries a token is shown and may decide about:

=====================  =======================================================================
queue:read             look at the entries of its account
messages:read too      read their mail
queue:write            retry and drop entries of its account
queue:all too          the same for every account's entries; where they are and who has them
queue:all alone        the depth of the whole queue, and of each shard: numbers
=====================  =======================================================================

An entry of another account is not found. Only what was set aside can be retried or dropped: the rest is in hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from klein import Klein
from twisted.internet.defer import DeferredSemaphore
from twisted.logger import Logger

from mailfarm.errors import Damaged, NotFound, QueueUnavailable
from mailfarm.events import rfc3339
from mailfarm.net.problems import Problem
from mailfarm.ports import Depth, Entry, Spooled
from mailfarm.ports import Queue as QueuePort

from .access import Access, need
from .answering import Answer
from .asking import Body, Field
from .errors import AGAIN
from .raw import GIVES, TRACE, send_raw
from .routes import Ask, Gives, Resource, route

EVERYONES = "queue:all"
_SECOND = 1_000_000
_CONFIRM = Body(
    (Field("confirm", "text", "The id of the entry, once more: its mail is gone for good then.", most=26),),
    required=("confirm",),
)
_NOTHING = Body(())

log = Logger()


class Queue(Resource):
    """The queue, as far as the caller may see it."""

    app = Klein()

    def __init__(self, access: Access, queue: QueuePort | None, clock: Callable[[], int]) -> None:
        super().__init__(access)
        self._given = queue
        self._clock = clock
        self._turn = DeferredSemaphore(1)

    @route(
        app,
        "GET",
        "/v1/queue",
        "How much is in the queue",
        name="getQueue",
        gives=Gives(200, "QueueDepth"),
        scope=EVERYONES,
        problems=("queue-unavailable",),
    )
    async def depth(self, ask: Ask) -> Answer:
        """Of all accounts, and of each shard. An entry whose lease has ended counts as leased until somebody takes
        it."""
        shards = await self._queue.depths()
        known = [shard.depth for shard in shards if shard.depth is not None]
        if not known:
            raise QueueUnavailable("; ".join(shard.why for shard in shards))
        whole = Depth(
            sum(depth.waiting for depth in known),
            sum(depth.leased for depth in known),
            sum(depth.aside for depth in known),
            min((depth.oldest for depth in known if depth.oldest is not None), default=None),
        )
        forms = [{"name": shard.name, "why": shard.why, **self._numbers(shard.depth)} for shard in shards]
        return Answer({**self._numbers(whole), "shards": forms})

    @route(
        app,
        "GET",
        "/v1/queue/entries",
        "List entries of the queue",
        name="listQueueEntries",
        gives=Gives(200, "QueueEntries"),
        scope="queue:read",
        query=(
            Field("state", "text", "Which.", default="aside", choices=("waiting", "leased", "aside")),
            Field("limit", "integer", "How many at most.", default=100, least=1, most=1000),
        ),
        problems=("queue-unavailable",),
    )
    async def list_(self, ask: Ask) -> Answer:
        """The oldest first; those of the caller's account, or with the scope queue:all of every account. An account's
        own are looked for among the 10,000 oldest of each shard."""
        limit = ask.query["limit"]
        queue, state = self._queue, ask.query["state"]
        if EVERYONES in ask.caller.scopes:
            entries = await queue.inspect(state, limit + 1)
        else:
            # a look that may read 10,000 entries of each shard, from which listeners want their 250s: one at a time
            await self._turn.acquire()
            try:
                entries = await queue.inspect(state, limit + 1, ask.account)
            finally:
                self._turn.release()
        forms = [self._form(ask, entry) for entry in entries[:limit]]
        return Answer({"entries": forms, "more": len(entries) > limit})

    @route(
        app,
        "GET",
        "/v1/queue/entries/<id>",
        "Look at an entry of the queue",
        name="getQueueEntry",
        gives=Gives(200, "QueueEntry"),
        scope="queue:read",
        problems=("queue-unavailable",),
    )
    async def read(self, ask: Ask) -> Answer:
        """Whatever its state. One that is not found was filed, or dropped."""
        return Answer(self._form(ask, await self._entry(ask)))

    @route(
        app,
        "GET",
        "/v1/queue/entries/<id>/raw",
        "Read the mail of an entry as it came",
        name="getRawQueueEntry",
        gives=GIVES,
        scope="queue:read",
        query=(TRACE,),
        problems=("queue-unavailable",),
    )
    async def raw(self, ask: Ask) -> Answer | None:
        """Byte for byte; needs the scope messages:read too. With `trace=false` exactly what was sent after DATA."""
        need(ask.caller, "messages:read")
        await self._entry(ask)
        spooled = await self._queue.read(ask.id)
        await send_raw(ask, spooled.sha256, spooled.trace, spooled.content.size, _checked(spooled))
        return None

    @route(
        app,
        "POST",
        "/v1/queue/entries/<id>/retry",
        "Let an entry that was set aside be tried again",
        name="retryQueueEntry",
        gives=Gives(204),
        scope="queue:write",
        body=_NOTHING,
        problems=("queue-unavailable", "not-set-aside"),
    )
    async def retry(self, ask: Ask) -> Answer:
        """Its tries are forgotten. The body is `{}`."""
        self._was_set_aside(await self._entry(ask))
        await self._queue.requeue(ask.id)
        self._told(ask, "waits again")
        return Answer(status=204)

    @route(
        app,
        "POST",
        "/v1/queue/entries/<id>/drop",
        "Forget an entry that was set aside, and its mail",
        name="dropQueueEntry",
        gives=Gives(204),
        scope="queue:write",
        body=_CONFIRM,
        problems=("queue-unavailable", "not-set-aside"),
    )
    async def drop(self, ask: Ask) -> Answer:
        """For good: it was answered with 250 and is in no mailbox. `confirm` must be its id."""
        if ask.body["confirm"] != ask.id:
            raise Problem("invalid-value", "confirm must be the id of the entry that is to be dropped", name="confirm")
        self._was_set_aside(await self._entry(ask))
        await self._queue.drop(ask.id)
        self._told(ask, "was dropped")
        return Answer(status=204)

    @property
    def _queue(self) -> QueuePort:
        if self._given is None:
            raise Problem(
                "queue-unavailable", "this api was not told where the queue is: set MAILFARM_QUEUE_URL", headers=AGAIN
            )
        return self._given

    async def _entry(self, ask: Ask) -> Entry:
        """The entry in the path, if it is the caller's to see. Raises NotFound."""
        try:
            entry = await self._queue.find(ask.id)
        except NotFound:
            entry = None
        if entry is None or (EVERYONES not in ask.caller.scopes and entry.account != ask.account):
            raise NotFound(f"the queue has no entry {ask.id}")
        return entry

    def _was_set_aside(self, entry: Entry) -> None:
        if entry.state != "aside":
            raise Problem("not-set-aside", f"the entry is {entry.state}; only what was set aside can be decided about")

    def _told(self, ask: Ask, what: str) -> None:
        """Who decided stands in the log: the mail is nowhere else."""
        log.info("entry {id} of the queue {what}, says token {token}", id=ask.id, what=what, token=ask.caller.token)

    def _numbers(self, depth: Depth | None) -> Mapping[str, Any]:
        if depth is None:
            return dict.fromkeys(("waiting", "leased", "aside", "oldest_seconds"))
        age = None if depth.oldest is None else self._age(depth.oldest)
        return {"waiting": depth.waiting, "leased": depth.leased, "aside": depth.aside, "oldest_seconds": age}

    def _age(self, since: int) -> float:
        return max(0.0, (self._clock() - since) / _SECOND)

    def _form(self, ask: Ask, entry: Entry) -> dict[str, Any]:
        everyones = EVERYONES in ask.caller.scopes
        ends = None if entry.until is None else rfc3339(entry.until)
        return {
            "id": entry.id,
            "state": entry.state,
            "account": entry.account,
            "put_at": rfc3339(entry.put_at),
            "age_seconds": self._age(entry.put_at),
            "tries": entry.tries,
            "size": entry.size,
            "sender": entry.sender,
            "recipients": list(entry.recipients),
            "reason": entry.reason,
            "lease_ends_at": ends if entry.state == "leased" else None,
            "waits_until": ends if entry.state == "waiting" else None,
            "holder": entry.holder if everyones else "",
            "shard": entry.shard if everyones else "",
        }


def _checked(spooled: Spooled) -> Any:
    """Reads one piece after another, and not the last one unless all are what was sent."""
    pieces = spooled.content.chunks()
    digest, left = sha256(), spooled.content.size

    async def read(_: int) -> bytes | None:
        nonlocal left
        piece = await anext(pieces, None)
        if piece is not None:
            digest.update(piece)
            left -= len(piece)
            if left <= 0 and digest.digest() != spooled.sha256:
                raise Damaged(f"the content of entry {spooled.id} is not what was sent: its SHA-256 differs")
        return piece

    return read
