"""What every service answers over HTTP: is it alive, is it ready, what has it counted.

    GET /healthz   200 "ok" while it serves; 503 "starting: ..." before, and 503 "stopping" from SIGTERM on, so that a
                   proxy looks elsewhere. A store that goes away later changes nothing here: known mailboxes are served
    GET /readyz    200 or 503 with {"ready": bool, "state": "starting", "serving" or "stopping",
                   "checks": {name: "ok" or what is wrong}}, and while it starts "waiting": for what
    GET /metrics   the registry in the Prometheus text form

A check is a function without arguments whose awaitable ends well or raises. All run at once, each with ``timeout``
seconds; probes that overlap share one run. One that is a ``hint`` is told of, and readiness does not hang on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, ensureDeferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from mailfarm.errors import MailfarmError

from .hosts import Hosts
from .plain_site import PlainSite
from .problems import MEDIA_TYPE, Problem

Check = Callable[[], Awaitable[object]]

CONNECTIONS: Final = 100
"""Those of a port that serves these pages alone; above it 503."""
LONGEST_ANSWER: Final = 300
"""Characters of an error's text that ``/readyz`` shows."""


class Status(Resource):
    """The three pages, as a root resource, or one by one as children of another tree: ``children[b"healthz"]``.

    ``starting`` says for what the service waits before it serves; empty from then on.
    """

    log = Logger()

    def __init__(
        self,
        registry: CollectorRegistry,
        checks: Mapping[str, Check],
        reactor: Any,
        *,
        hints: Collection[str] = (),
        timeout: float = 2.0,
    ) -> None:
        super().__init__()
        self.checks = dict(checks)
        self.starting = ""
        self.stopping = False
        self._hints = frozenset(hints)
        self._reactor = reactor
        self._timeout = timeout
        self._running: list[Deferred[dict[str, str]]] | None = None
        pages: Any = {
            b"healthz": _Page(self._healthz),
            b"readyz": _Page(self._readyz),
            b"metrics": _Page(lambda request: _metrics(request, registry)),
        }
        for path, page in pages.items():
            self.putChild(path, page)

    def getChild(self, path: bytes, request: Request) -> Any:
        return _Nothing()

    def stop(self) -> None:
        """From here on ``/healthz`` and ``/readyz`` answer 503."""
        self.stopping = True

    def public(self) -> Resource:
        """``/healthz`` alone, for a port that is open to the world."""
        only = Resource()
        only.putChild(b"healthz", self.children[b"healthz"])
        return only

    @property
    def state(self) -> str:
        """``starting``, ``serving`` or ``stopping``."""
        return "stopping" if self.stopping else "starting" if self.starting else "serving"

    def _healthz(self, request: Request) -> bytes:
        said = {"stopping": "stopping", "starting": f"starting: {self.starting}", "serving": "ok"}[self.state]
        request.setResponseCode(200 if said == "ok" else 503)
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return said.encode() + b"\n"

    def _readyz(self, request: Request) -> Any:
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        def answer(results: dict[str, str]) -> None:
            if gone:
                return
            well = all(text == "ok" for name, text in results.items() if name not in self._hints)
            ready = well and self.state == "serving"
            request.setResponseCode(200 if ready else 503)
            request.setHeader(b"content-type", b"application/json")
            document: dict[str, Any] = {"ready": ready, "state": self.state, "checks": results}
            if self.state == "starting":
                document["waiting"] = self.starting
            request.write(orjson.dumps(document))
            request.finish()

        waiting: Deferred[dict[str, str]] = Deferred()
        waiting.addCallback(answer)
        waiting.addErrback(lambda failure: self.log.failure("/readyz could not be answered", failure))
        if self._running is None:
            self._running = [waiting]
            self._run().addCallback(self._tell)
        else:
            self._running.append(waiting)
        return NOT_DONE_YET

    def _run(self) -> Deferred[dict[str, str]]:
        names = tuple(self.checks)
        return gatherResults([self._one(name) for name in names]).addCallback(
            lambda answers: dict(zip(names, answers, strict=True))
        )

    def _one(self, name: str) -> Deferred[str]:
        async def check() -> str:
            await self.checks[name]()
            return "ok"

        def wrong(failure: Failure) -> str:
            if failure.check(CancelledError, TimeoutError):
                return f"no answer within {self._timeout:g} s"
            if failure.check(MailfarmError):  # its text is written to be read
                return str(failure.value)[:LONGEST_ANSWER]
            self.log.failure("The readiness check {name} failed", failure, name=name)
            return "failed; the log says why"

        return ensureDeferred(check()).addTimeout(self._timeout, self._reactor).addErrback(wrong)

    def _tell(self, results: dict[str, str]) -> None:
        waiting, self._running = self._running or [], None
        for each in waiting:
            each.callback(results)


def status_site(status: Status, *, here_alone: bool) -> PlainSite:
    """A site of its own for a service that serves nothing else over HTTP. ``here_alone``: it listens on loopback, where
    a web page that is visited on this machine must not get at it."""
    return PlainSite(status, Hosts() if here_alone else None, service="status", most=CONNECTIONS)


class _Page(Resource):
    isLeaf = True

    def __init__(self, render: Callable[[Request], Any]) -> None:
        super().__init__()
        self._render = render

    def render(self, request: Request) -> Any:
        if request.method not in (b"GET", b"HEAD"):
            # not left to twisted.web, whose page for this is deprecated and says so in a warning
            request.setHeader(b"allow", b"GET, HEAD")
            return _refused(request, Problem("method-not-allowed", "this path takes GET, HEAD"))
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-content-type-options", b"nosniff")
        return self._render(request)


class _Nothing(Resource):
    isLeaf = True

    def render(self, request: Request) -> bytes:
        return _refused(request, Problem("no-such-route", "there are /healthz, /readyz and /metrics"))


def _refused(request: Request, problem: Problem) -> bytes:
    request.setResponseCode(problem.status)
    request.setHeader(b"content-type", MEDIA_TYPE.encode())
    request.setHeader(b"x-content-type-options", b"nosniff")
    return orjson.dumps(problem.document())


def _metrics(request: Request, registry: CollectorRegistry) -> bytes:
    request.setHeader(b"content-type", CONTENT_TYPE_LATEST.encode("ascii"))
    return generate_latest(registry)
