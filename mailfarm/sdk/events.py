"""Live events without I/O: Server-Sent Events taken apart, frames made values, and where to go on after a cut.

The blocking and the asyncio client read ``GET /v1/mailboxes/{id}/events`` as an event stream, the Twisted client the
WebSocket ``/v1/events``; the events are the same. Each arrives once and in order: after a cut the next connection goes
on after the last change number that was seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .errors import NoSuchMailbox, problem_error
from .values import Event, Summary, moment_or_none
from .verbs import Criteria
from .wire import Request, Response, segment

SILENCE: Final = 60.0
"""Seconds without a byte after which a stream counts as cut; the server sends a heartbeat more often."""
CHANGES: Final = frozenset({"filed", "seen", "deleted", "expired"})
LARGEST: Final = 4 << 20


class SseParser:
    """Takes an event stream apart (WHATWG HTML §9.2.6). ``feed`` gives the data of each event that is complete."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that ``piece`` completes."""
        found: list[str] = []
        *lines, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        if len(self._rest) > LARGEST:
            raise ValueError("an event is too large")
        for raw in lines:
            if not raw:
                if self._data:
                    found.append("\n".join(self._data))
                self._data = []
            elif raw.startswith(b"data:"):
                self._data.append(raw[5:].removeprefix(b" ").decode("utf-8", "replace"))
        return found


@dataclass(slots=True)
class Following:
    """One consumer's place in a mailbox's changes. ``closed`` once the mailbox is gone."""

    mailbox: str
    criteria: Criteria
    cursor: int
    closed: bool = False

    def ended(self) -> bool:
        """Whether the mailbox is gone, so that nothing more will come."""
        return self.closed

    def stream(self) -> Request:
        """The request for the event stream after the last change seen."""
        query = (*self.criteria.query(), ("after", str(self.cursor)))
        path = f"/v1/mailboxes/{segment(self.mailbox)}/events"
        return Request("GET", path, query, timeout=SILENCE, accept="text/event-stream")

    def subscribe(self) -> dict[str, Any]:
        """The same as a frame of the WebSocket."""
        frame: dict[str, Any] = {"op": "subscribe", "mailbox": self.mailbox, "after": self.cursor}
        if self.criteria.query():
            frame["filter"] = dict(self.criteria.query())
        return frame

    def refused(self, response: Response) -> Event[Summary]:
        """What an answer to ``stream`` that is not 200 means: a resync, or it raises."""
        form = response.problem()
        if response.status == 410 and "cursor" in form:
            return self._resync(form)
        raise problem_error(response.status, form, str(self.stream()), NoSuchMailbox)

    def receive(self, text: str | bytes) -> Event[Summary] | None:
        """The event of one frame; None for what is no news: a repetition, a heartbeat, something not yet known.

        Raises ApiError for a problem, and ValueError for what is no JSON object.
        """
        form = json.loads(text)
        if not isinstance(form, dict):
            raise ValueError("an event is not a JSON object")
        kind = str(form.get("type", ""))
        if kind in CHANGES:
            return self._change(kind, form)
        if kind == "resync":
            return self._resync(form)
        if kind == "mailbox-closed" and form.get("mailbox") == self.mailbox:
            self.closed = True
            return Event(kind, self.mailbox, self.cursor, moment_or_none(form.get("at")))
        if kind == "problem":
            problem = {**form, "type": form.get("problem", "")}
            raise problem_error(int(form.get("status", 400)), problem, "live events", NoSuchMailbox)
        return None

    def _change(self, kind: str, form: Mapping[str, Any]) -> Event[Summary] | None:
        seq = int(form["seq"])
        if form["mailbox"] != self.mailbox or seq <= self.cursor:
            return None
        self.cursor = seq
        if kind == "filed" and (form.get("gone") or form.get("message") is None):
            return None  # deleted before we could be told of it
        return Event(
            kind,
            self.mailbox,
            seq,
            moment_or_none(form.get("at")),
            Summary.of(form["message"]) if kind == "filed" else None,
            tuple(form.get("messages", ())),
            form.get("seen"),
        )

    def _resync(self, form: Mapping[str, Any]) -> Event[Summary]:
        self.cursor = int(form["cursor"])
        return Event("resync", self.mailbox, self.cursor)
