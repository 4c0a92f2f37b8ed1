"""Server-Sent Events (the HTML standard's text/event-stream): the changes of one mailbox, for plain ``curl -N``.

    id: 17
    data: {"type":"filed", "seq":17, ...}

A line ``: `` comes every 15 seconds. The end of the mailbox is an event without an id, the last one; so is
``{"type":"resync", "mailbox", "oldest", "cursor"}``, told to who fell behind what is kept. While a client takes
nothing, nothing is kept for it: its feed pauses, and catches up from the database. A client that takes nothing for a
minute is dropped; it goes on with Last-Event-ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.web.server import Request

from mailfarm.errors import CursorTooOld
from mailfarm.events import Change, MailboxClosed, to_json
from mailfarm.mailboxes.feed import Feed, Feeds, Told
from mailfarm.mailboxes.match import Criteria
from mailfarm.net.problems import Problem

from .access import Access
from .counting import Counts
from .routes import Ask
from .slots import Slots
from .streaming import Flow, abort, release

HEARTBEAT = 15.0
STALLED_BEATS = 4


class Streams:
    """Opens event streams."""

    def __init__(self, access: Access, feeds: Feeds, slots: Slots, counts: Counts, reactor: Any) -> None:
        self._access = access
        self._feeds = feeds
        self._slots = slots
        self._counts = counts
        self._reactor = reactor

    async def run(self, ask: Ask, after: int | None, criteria: Criteria) -> None:
        """Follow the mailbox until it or the token ends, the client goes or the service stops."""
        resume = ask.request.getHeader("last-event-id")
        if resume is not None:
            if not resume.isascii() or not resume.isdigit() or len(resume) > 15:
                raise Problem("invalid-value", "Last-Event-ID must be a change number", name="Last-Event-ID")
            after = int(resume)
        stream = _Stream(ask.request)
        lasts = self._access.lasts(ask.request, ask.caller, stream.end)
        with self._slots.take(stream.end, self._counts.streams), lasts:
            # the headers are written when the feed begins, so that a refusal can still be a problem
            feed = await self._feeds.follow(
                ask.account, ask.id, after, stream.hear, criteria=criteria, ready=lambda _: stream.begin()
            )
            heartbeat = LoopingCall(stream.beat)
            heartbeat.clock = self._reactor
            try:
                stream.attach(feed)
                heartbeat.start(HEARTBEAT, now=False)
                ask.request.give_way()  # type: ignore[attr-defined]  # it is a GuardedRequest
                await stream.ended
            finally:
                if heartbeat.running:
                    heartbeat.stop()
                feed.stop()
                stream.close()


class _Stream:
    """One client's stream. ``ended`` fires when it is over, and is cancelled when the client goes."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._flow = Flow()
        self._feed: Feed | None = None
        self._stalled = 0
        self.ended: Deferred[None] = Deferred()

    def begin(self) -> None:
        """Write the headers."""
        request = self._request
        request.setHeader("Content-Type", "text/event-stream; charset=utf-8")
        request.setHeader("Cache-Control", "no-store")
        request.setHeader("X-Accel-Buffering", "no")  # nginx would hold events back
        request.registerProducer(self._flow, True)
        request.write(b": mailfarm\n\n")

    def attach(self, feed: Feed) -> None:
        """Pause the feed whenever the client does not keep up."""
        self._feed = feed
        self._flow.resumed = feed.resume
        if self._flow.paused:
            feed.pause()

    def hear(self, told: Sequence[Told]) -> None:
        """Send what the feed tells."""
        if self.ended.called:
            return
        changes = [b"id: %d\ndata: %b\n\n" % (each.seq, to_json(each)) for each in told if isinstance(each, Change)]
        if changes:
            self._request.write(b"".join(changes))
            if self._flow.paused and self._feed is not None:
                self._feed.pause()
        last = told[-1]
        if isinstance(last, CursorTooOld):
            self._write({"type": "resync", "mailbox": "", "oldest": last.oldest, "cursor": last.last})
            self.end()
        elif isinstance(last, MailboxClosed):
            self._request.write(b"data: " + to_json(last) + b"\n\n")
            self.end()

    def _write(self, form: dict[str, Any]) -> None:
        if self._feed is not None:
            form["mailbox"] = self._feed.mailbox
        self._request.write(b"data: " + orjson.dumps(form) + b"\n\n")

    def beat(self) -> None:
        """Show that we are here, to the client and to what stands between; drop a client that takes nothing."""
        self._stalled = self._stalled + 1 if self._flow.paused else 0
        if self._stalled >= STALLED_BEATS:
            abort(self._request)  # which cancels `ended`
        elif not self._flow.paused:
            self._request.write(b": \n\n")

    def end(self) -> None:
        """No more will come."""
        if not self.ended.called:
            self.ended.callback(None)

    def close(self) -> None:
        """Let go of the request; who called us finishes it."""
        self._flow.resumed = lambda: None
        release(self._request)
