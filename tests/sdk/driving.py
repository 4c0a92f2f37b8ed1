"""Drives the SDK's verbs without I/O: a clock that only pauses and answers move, and answers from a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from mailfarm.sdk.values import MailboxState
from mailfarm.sdk.wire import Failure, Pause, Request, Response, Steps

T = TypeVar("T")
TIME = "2026-01-31T12:00:00.000000Z"
BOX = {
    "id": "01kf7w2m9xq4t6z8b0c2d4e6f8",
    "address": "t-1@mailfarm.test",
    "kind": "sandbox",
    "cursor": 0,
    "messages": 0,
    "unseen": 0,
    "created_at": TIME,
    "starts_at": TIME,
    "ends_at": None,
    "retention": None,
}
STATE = MailboxState.of(BOX)


def summary(seq: int, subject: str = "Hello", **more: Any) -> dict[str, Any]:
    """A summary's JSON form."""
    return {
        "id": f"m{seq}",
        "mailbox": BOX["id"],
        "seq": seq,
        "received_at": TIME,
        "sender": "app@example.org",
        "recipients": ["t-1@mailfarm.test"],
        "from": {"name": "App", "address": "app@example.org"},
        "to": [{"name": "", "address": "t-1@mailfarm.test"}],
        "cc": [],
        "subject": subject,
        "snippet": "",
        "message_id": f"<{seq}@example.org>",
        "size": 100,
        "attachments": 0,
        "seen": False,
        "duplicate_of": None,
    } | more


def answer(status: int, body: Any = None, **headers: str) -> Response:
    """An answer with a JSON body."""
    return Response(status, b"" if body is None else json.dumps(body).encode(), headers)


def problem(status: int, name: str, **members: Any) -> Response:
    """An answer that is a problem."""
    return answer(status, {"type": f"/v1/problems/{name}", "title": name, "status": status, "detail": name, **members})


class Clock:
    """Monotonic seconds that only move when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def drive(steps: Steps[T], serve: Callable[[Request], Response | Failure], clock: Clock) -> tuple[T, list[Request]]:
    """The verb's value, and what it asked. What it raises passes through, with ``asked`` noted on it."""
    asked: list[Request] = []
    try:
        step = next(steps)
        while True:
            assert len(asked) < 1000, "the verb goes on for ever"
            if isinstance(step, Pause):
                assert step.seconds > 0
                clock.now += step.seconds
                step = steps.send(None)
                continue
            asked.append(step)
            served = serve(step)
            step = steps.throw(served) if isinstance(served, Failure) else steps.send(served)
    except StopIteration as stop:
        return stop.value, asked
