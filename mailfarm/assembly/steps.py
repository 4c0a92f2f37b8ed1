"""What is started one after the other, and stopped in the opposite order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

_log = Logger()


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is started and stopped. One that is ``patient`` is stopped to its end, however great the hurry."""

    name: str
    start: Callable[[], Awaitable[object]]
    stop: Callable[[], Awaitable[object]]
    patient: bool = False


class Steps:
    """The steps that were taken."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._taken: list[Step] = []
        self._pauses: set[Deferred[None]] = set()
        self._hurried: Deferred[None] = Deferred()
        self._down = False

    @property
    def down(self) -> bool:
        """Whether it goes down, or is down."""
        return self._down

    async def up(self, *steps: Step) -> None:
        """Take these steps, in this order, as long as nobody says ``go_down``. Raises what a step raises."""
        for step in steps:
            if self._down:
                return
            await step.start()
            self._taken.append(step)

    def go_down(self) -> None:
        """Take no more steps, and end pauses."""
        self._down = True
        self._wake()

    async def pause(self, seconds: float) -> bool:
        """Wait, unless in a hurry; whether it is not on the way down then."""
        if not self._hurried.called:
            over: Deferred[None] = Deferred()
            call = self._reactor.callLater(seconds, over.callback, None)
            self._pauses.add(over)
            await over
            self._pauses.discard(over)
            if call.active():
                call.cancel()
        return not self._down

    async def down_all(self) -> None:
        """Undo what was done. What fails to stop is logged and does not keep the rest from it."""
        self._down = True
        while self._taken:
            step = self._taken.pop()
            stopped = Deferred.fromCoroutine(_stop(step))
            await (stopped if step.patient else _first(stopped, self._hurried))

    def hurry(self) -> None:
        """Wait for nobody any more."""
        if not self._hurried.called:
            self._hurried.callback(None)
        self._wake()

    def _wake(self) -> None:
        for over in tuple(self._pauses):
            if not over.called:
                over.callback(None)


async def _stop(step: Step) -> None:
    try:
        await step.stop()
    except Exception:
        _log.failure("{name} did not stop as it should", name=step.name)


def _first(one: Deferred[None], other: Deferred[None]) -> Deferred[None]:
    """Fires with whichever fires first; neither is cancelled."""
    first: Deferred[None] = Deferred()

    def fired(result: None) -> None:
        if not first.called:
            first.callback(None)

    one.addCallback(fired)
    other.addCallback(fired)
    return first
