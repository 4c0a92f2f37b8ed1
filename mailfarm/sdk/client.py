"""The blocking client.

>>> from mailfarm.sdk import Farm
>>> with Farm("http://127.0.0.1:8025") as farm:             # doctest: +SKIP
...     inbox = farm.create_mailbox()                        # its own address, SMTP user and password
...     ...                                                  # the app under test sends to inbox.address
...     mail = inbox.wait_for(subject="Reset", timeout=5)
...     mail.link("reset"), mail.code(), mail.attachments[0].content

A ``Farm`` may be shared by threads. It keeps its connections open; ``close`` ends them, as leaving its ``with`` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from . import checks, trust
from .events import Following, SseParser
from .inbox import Inbox, Message
from .values import Event, Refusal, Smtp, Summary
from .verbs import Loaded, Verbs
from .wire import BUSY, FIRST_PAUSE, LONGEST_PAUSE, Failure, Pause, Request, Response, Server, Steps, base_url

T = TypeVar("T")
TIMEOUT = 10.0
STALE = 0.5
CLOSED = "this farm was closed: make another one"


class Farm:
    """A mailfarm at a URL.

    ``token`` is needed where the server asks for one. ``timeout`` is the seconds any single answer may take; waits
    have their own. ``smtp`` says where the server takes mail, if it does not say so itself. ``ca`` is a PEM file with
    the authority that signed the server's certificate, where the system does not know it. Raises ValueError for what is
    no URL or no such file, and for a token a header cannot hold; every method may raise CannotConnect, NotAllowed and
    ApiError.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT,
        smtp: Smtp | None = None,
        ca: str | Path | None = None,
    ) -> None:
        self.url = base_url(url)
        checks.token(token)
        checks.span("timeout", timeout)
        self._token = token
        self._timeout = timeout
        self._verbs = Verbs(Server(self.url), time.monotonic, smtp)
        self._on_made: Callable[[Inbox], None] | None = None  # the pytest plugin's
        self._http = httpx.Client(
            timeout=timeout,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=not is_local(self.url),
            verify=True if ca is None else trust.context(ca),
        )

    def create_mailbox(
        self,
        address: str | None = None,
        *,
        kind: str | None = None,
        lifetime: float | None = None,
        retention: float | None = None,
    ) -> Inbox:
        """Make a mailbox; without ``address`` the server chooses one.

        ``kind`` is sandbox (the default), disposable or permanent; ``lifetime`` the seconds it lives, ``retention``
        the seconds each message is kept. Raises AddressTaken, and ApiError for values that cannot be.
        """
        inbox = Inbox(self, *self._run(self._verbs.create_mailbox(address, kind, lifetime, retention)))
        if self._on_made is not None:
            self._on_made(inbox)
        return inbox

    def mailbox(self, which: str) -> Inbox:
        """A mailbox that exists, by id or by address. Raises NoSuchMailbox, which names some there are."""
        return Inbox(self, self._run(self._verbs.mailbox(which)))

    def mailboxes(self) -> list[Inbox]:
        """All mailboxes, the oldest first."""
        return [Inbox(self, state) for state in self._run(self._verbs.mailboxes())]

    def delete_mailbox(self, which: str) -> None:
        """Delete a mailbox, by id or by address, with all that is in it. Raises NoSuchMailbox."""
        self._run(self._verbs.delete_mailbox(self._run(self._verbs.mailbox(which)).id))

    def message(self, id: str) -> Message:
        """One message by its id, loaded. Raises NoSuchMessage."""
        return Message(self, self._run(self._verbs.message(id)))

    def refusals(self, address: str) -> list[Refusal]:
        """What the server lately refused for an address, the newest last."""
        return self._run(self._verbs.refusals("/v1/refusals", (("address", address),)))

    def version(self) -> dict[str, object]:
        """What the server says of itself."""
        return dict(self._run(self._verbs.version()))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Farm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Farm {self.url}>"

    # I/O

    def _run(self, steps: Steps[T]) -> T:
        """Drive a verb."""
        __tracebackhide__ = True
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = steps.send(None)
                    continue
                try:
                    response = self._send(step)
                except Failure as failure:
                    step = steps.throw(failure)
                else:
                    step = steps.send(response)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _send(self, request: Request) -> Response:
        __tracebackhide__ = True
        if self._http.is_closed:
            raise ValueError(CLOSED)
        try:
            answer = self._http.request(
                request.method,
                self.url + request.target,
                content=request.body,
                headers=request.headers(self._token),
                timeout=http_timeout(request, self._timeout),
            )
        except httpx.RequestError as error:
            raise failure_of(error) from error
        return Response(answer.status_code, answer.content, {k.lower(): v for k, v in answer.headers.items()})

    def _follow(self, following: Following, timeout: float | None) -> Iterator[Event[Message]]:
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_PAUSE
        if self._http.is_closed:
            raise ValueError(CLOSED)
        while not following.ended():
            began = time.monotonic()
            if deadline is not None and began >= deadline:
                return
            request = following.stream()
            try:
                with self._http.stream(
                    "GET",
                    self.url + request.target,
                    headers=request.headers(self._token),
                    timeout=http_timeout(request, self._timeout, deadline and deadline - began),
                ) as answer:
                    self._verbs.server.reached = True
                    if answer.status_code == 200:
                        pause = FIRST_PAUSE
                        parser = SseParser()
                        for piece in answer.iter_bytes():
                            for data in parser.feed(piece):
                                event = following.receive(data)
                                if event is not None:
                                    yield self._event(event)
                            if following.ended() or (deadline is not None and time.monotonic() > began + STALE):
                                break  # the time-out of a read is fixed when a stream begins, and ours has shrunk
                    elif answer.status_code not in BUSY:
                        yield self._event(following.refused(Response(answer.status_code, answer.read())))
                        continue
            except httpx.RequestError as error:
                if not self._verbs.server.reached:
                    raise self._verbs.server.unreachable(failure_of(error)) from error
            if following.ended():
                return
            time.sleep(pause if deadline is None else max(min(pause, deadline - time.monotonic()), 0.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _event(self, event: Event[Summary]) -> Event[Message]:
        message = None if event.message is None else Message(self, Loaded(event.message))
        return Event(event.type, event.mailbox, event.seq, event.at, message, event.ids, event.seen)


def http_timeout(request: Request, usual: float, left: float | None = None) -> httpx.Timeout:
    """Connecting may take the usual time, the answer what the request says."""
    answer = usual if request.timeout is None else request.timeout
    if left is not None:
        answer = min(answer, max(left, 0.01))
    return httpx.Timeout(usual, read=answer)


def failure_of(error: httpx.RequestError) -> Failure:
    """What the verbs know of an error of httpx."""
    reason = str(error).partition("] ")[2] if str(error).startswith("[Errno") else str(error)
    return Failure(
        reason or type(error).__name__,
        sent=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout),
    )


def is_local(url: str) -> bool:
    """Whether ``url`` is on this machine, where no proxy of the environment may come between."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.endswith(".localhost") or host.startswith("127.")
