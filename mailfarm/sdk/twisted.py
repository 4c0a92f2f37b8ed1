"""The Twisted client: the verbs of ``Farm``, each giving a Deferred.

    farm = TwistedFarm("http://127.0.0.1:8025")
    inbox = await farm.create_mailbox()                       # or yield, or addCallback
    mail = await inbox.wait_for(subject="Reset", timeout=5)
    mail.link("reset"), mail.code()                           # a message from a wait is there whole
    await mail.attachments[0].read()                          # only bytes are fetched later
    async for event in inbox.events():                        # over one WebSocket
        ...
    await farm.close()

Messages from ``messages()`` and from events are summaries: ``await mail.load()`` fetches the rest. Cancelling a
Deferred ends what it waits for, at the server too. HTTP is treq's, the WebSocket Autobahn's.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
    UnsupportedAddressFamily,
)
from twisted.internet.task import deferLater
from twisted.web import client as web
from twisted.web._newclient import ParseError, RequestNotSent, RequestTransmissionFailed, ResponseFailed
from twisted.web.http_headers import Headers as Fields

from . import checks, trust
from .client import CLOSED, TIMEOUT
from .twisted_inbox import TwistedInbox, TwistedMessage
from .values import Refusal, Smtp
from .verbs import Verbs
from .wire import Failure, Pause, Request, Response, Server, Steps, base_url

T = TypeVar("T")
Agent: Any = web.Agent  # these three are not typed
Policy: Any = web.BrowserLikePolicyForHTTPS
HTTPConnectionPool: Any = web.HTTPConnectionPool
NOT_SENT = (ConnectError, DNSLookupError, UnsupportedAddressFamily, RequestNotSent)
NO_ANSWER = (
    ConnectionClosed,
    ResponseFailed,
    RequestTransmissionFailed,
    ParseError,
    CancelledError,
    ConnectingCancelledError,
)


class TwistedFarm:
    """A mailfarm at a URL; see ``Farm``. Without ``reactor`` it uses the global one."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT,
        smtp: Smtp | None = None,
        ca: str | Path | None = None,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor  # importing it chooses one, so only where none was given
        self.url = base_url(url)
        checks.token(token)
        checks.span("timeout", timeout)
        self.reactor: Any = reactor
        self._token = token
        self._timeout = timeout
        self._closed = False
        self._verbs = Verbs(Server(self.url), reactor.seconds, smtp)
        self._pool: Any = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = 20
        self._roots = None if ca is None else trust.roots(ca)
        self._http = HTTPClient(Agent(reactor, Policy(self._roots), connectTimeout=timeout, pool=self._pool))

    def create_mailbox(
        self,
        address: str | None = None,
        *,
        kind: str | None = None,
        lifetime: float | None = None,
        retention: float | None = None,
    ) -> Deferred[TwistedInbox]:
        """As ``Farm.create_mailbox``."""
        made = self._do(self._verbs.create_mailbox(address, kind, lifetime, retention))
        return made.addCallback(lambda found: TwistedInbox(self, *found))

    def mailbox(self, which: str) -> Deferred[TwistedInbox]:
        """As ``Farm.mailbox``."""
        return Deferred.fromCoroutine(self._mailbox(which))

    async def _mailbox(self, which: str) -> TwistedInbox:
        state = await self._run(self._verbs.mailbox(which))
        return TwistedInbox(self, state, await self._run(self._verbs.where_smtp()))

    def mailboxes(self) -> Deferred[list[TwistedInbox]]:
        """As ``Farm.mailboxes``."""
        return Deferred.fromCoroutine(self._mailboxes())

    async def _mailboxes(self) -> list[TwistedInbox]:
        smtp = await self._run(self._verbs.where_smtp())
        return [TwistedInbox(self, state, smtp) for state in await self._run(self._verbs.mailboxes())]

    def delete_mailbox(self, which: str) -> Deferred[None]:
        """As ``Farm.delete_mailbox``."""
        return self.mailbox(which).addCallback(lambda inbox: inbox.delete())

    def message(self, id: str) -> Deferred[TwistedMessage]:
        """As ``Farm.message``."""
        return self._do(self._verbs.message(id)).addCallback(lambda loaded: TwistedMessage(self, loaded))

    def refusals(self, address: str) -> Deferred[list[Refusal]]:
        """As ``Farm.refusals``."""
        return self._do(self._verbs.refusals("/v1/refusals", (("address", address),)))

    def version(self) -> Deferred[dict[str, object]]:
        """As ``Farm.version``."""
        return self._do(self._verbs.version())

    def close(self) -> Deferred[None]:
        """Close the connections."""
        self._closed = True
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    async def __aenter__(self) -> TwistedFarm:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<TwistedFarm {self.url}>"

    # I/O

    def _do(self, steps: Steps[T]) -> Deferred[T]:
        return Deferred.fromCoroutine(self._run(steps))

    async def _run(self, steps: Steps[T]) -> T:
        """Drive a verb."""
        __tracebackhide__ = True
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await deferLater(self.reactor, step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    response = await self._send(step)
                except Failure as failure:
                    step = steps.throw(failure)
                else:
                    step = steps.send(response)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _send(self, request: Request) -> Response:
        __tracebackhide__ = True
        if self._closed:
            raise ValueError(CLOSED)
        seconds = self._timeout if request.timeout is None else request.timeout
        answering: Deferred[Response] = Deferred.fromCoroutine(self._exchange(request))
        late: list[bool] = []

        def expire() -> None:
            late.append(True)
            answering.cancel()

        timer = self.reactor.callLater(seconds, expire)
        try:
            return await answering
        except (*NOT_SENT, *NO_ANSWER) as error:
            if late:
                raise Failure(f"no answer within {seconds:g} s", sent=True) from error
            if _cancelled(error):  # by whoever waits for us: treq tells it as a lost answer
                raise CancelledError from error
            raise Failure(_reason(error), sent=not isinstance(error, NOT_SENT)) from error
        finally:
            if timer.active():
                timer.cancel()

    async def _exchange(self, request: Request) -> Response:
        fields = Fields({name: [value] for name, value in request.headers(self._token).items()})
        answer = await self._http.request(
            request.method,
            self.url + request.target,
            data=request.body,
            headers=fields,
            allow_redirects=False,
        )
        body = await answer.content()
        names = {
            name.decode("latin-1").lower(): values[-1].decode("latin-1")
            for name, values in answer.headers.getAllRawHeaders()
        }
        return Response(answer.code, body, names)


def _innermost(error: BaseException) -> BaseException:
    reasons = getattr(error, "reasons", None)
    return _innermost(reasons[-1].value) if reasons else error


def _cancelled(error: BaseException) -> bool:
    return isinstance(_innermost(error), CancelledError | ConnectingCancelledError)


def _reason(error: BaseException) -> str:
    """What went wrong, in the words of the innermost error."""
    inner = _innermost(error)
    return str(inner) or type(inner).__name__
