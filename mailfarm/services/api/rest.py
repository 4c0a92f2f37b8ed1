"""The REST resources behind one door: from a request's path to the method that answers it.

Klein routes: it has every rule, and says what is wrong where none is met. That takes a third of the time of a small
request; so a path that is plainly one of ours, with letters and digits alone where its id stands, is found here with
one look into a table, and answered as Klein would. Everything else is left to Klein.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from klein import Klein
from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.resource import Resource as WebResource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from .errors import answer_failure

log = Logger()

Handle = Callable[..., Any]
_ID = 3
"""Where an id stands: ``/v1/mailboxes/<id>/messages``, parted at its slashes."""


@implementer(IResource)
class Rest(WebResource):
    """``whole`` has all routes; ``incident`` makes an id for the log."""

    isLeaf = True

    def __init__(self, whole: Klein, incident: Callable[[], str]) -> None:
        super().__init__()
        self._whole: Any = whole.resource()
        self._incident = incident
        self._exact: dict[tuple[bytes, bytes], Handle] = {}
        self._by_id: dict[tuple[bytes, ...], Handle] = {}
        for rule in whole.url_map.iter_rules():
            path = rule.rule.encode()
            steps = path.split(b"/")
            for method in [method.encode() for method in rule.methods or ()]:
                if b"<" not in path:
                    self._exact[method, path] = whole.endpoints[rule.endpoint]
                elif steps[_ID] == b"<id>" and path.count(b"<") == 1:
                    self._by_id[_key(method, steps)] = whole.endpoints[rule.endpoint]

    def render(self, request: Request) -> Any:
        """Answer, now or later."""
        found = self._exact.get((request.method, request.path))
        if found is not None:
            self._answer(request, found)
            return NOT_DONE_YET
        steps = request.path.split(b"/")
        if len(steps) > _ID and steps[_ID].isalnum():
            found = self._by_id.get(_key(request.method, steps))
            if found is not None:
                self._answer(request, found, id=steps[_ID].decode("ascii"))
                return NOT_DONE_YET
        return self._whole.render(request)

    def _answer(self, request: Request, handle: Handle, **segments: str) -> None:
        over = False

        def end(_: object) -> None:
            nonlocal over
            over = True

        request.notifyFinish().addBoth(end)
        answering = maybeDeferred(handle, None, request, **segments)
        request.notifyFinish().addErrback(lambda _: answering.cancel())

        def failed(failure: Failure) -> None:
            if not over:
                answer_failure(request, failure, self._incident)
            elif not failure.check(CancelledError):
                log.failure("A request whose client had gone failed", failure)

        def done(_: object) -> None:
            if not over:
                request.finish()

        answering.addErrback(failed).addCallback(done)
        answering.addErrback(lambda failure: log.failure("An answer could not be ended", failure))


def _key(method: bytes, steps: list[bytes]) -> tuple[bytes, ...]:
    return (method, *steps[:_ID], *steps[_ID + 1 :])
