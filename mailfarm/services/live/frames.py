"""Frames: what is sent, encoded once however many it goes to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from autobahn.websocket.protocol import PreparedMessage

from mailfarm.events import Event, to_json
from mailfarm.net.problems import Problem

KEPT = 256


def frame(form: Mapping[str, Any]) -> bytes:
    """The octets of a text frame that says ``form``."""
    return _octets(orjson.dumps(form))


def ping_frame() -> bytes:
    """The octets of a ping without content (RFC 6455 §5.5.2)."""
    return bytes((0x89, 0))


def problem_frame(problem: Problem, op: str = "", mailbox: str = "") -> bytes:
    """A problem as a frame: ``type`` is every frame's own, so the problem's type is ``problem``."""
    document = problem.document()
    form = {**document, "type": "problem", "problem": document["type"]}
    if op:
        form["op"] = op
    if mailbox:
        form["mailbox"] = mailbox
    return frame(form)


class EventFrames:
    """The frames of the last events. The bus hands the same object to every follower: that is the key. (Not its id: a
    ``filed`` event that is read later, when its message is gone, has the same id and says less.)"""

    def __init__(self) -> None:
        self.sent = 0
        """Frames sent, to whomever."""
        self._kept: OrderedDict[int, tuple[Event, bytes]] = OrderedDict()
        self._last: tuple[Sequence[Event], bytes] = ((), b"")

    def together(self, events: Sequence[Event]) -> bytes:
        """The frames of some events, one after the other. A feed gives the same tuple to all who hear the same."""
        last, octets = self._last
        if last is not events:
            octets = b"".join([self.of(event) for event in events])
            self._last = (events, octets)
        return octets

    def of(self, event: Event) -> bytes:
        """The frame of this event."""
        kept = self._kept.get(id(event))
        if kept is not None and kept[0] is event:
            return kept[1]
        octets = _octets(to_json(event))
        self._kept[id(event)] = (event, octets)  # keeps the event, so that its id() stays its own
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return octets


def _octets(payload: bytes) -> bytes:
    octets: bytes = PreparedMessage(payload, False, False, True).payloadHybi
    return octets
