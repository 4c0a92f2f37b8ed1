"""The asyncio client: the verbs of ``Farm``, each to be awaited.

>>> async with AsyncFarm("http://127.0.0.1:8025") as farm:   # doctest: +SKIP
...     inbox = await farm.create_mailbox()
...     mail = await inbox.wait_for(subject="Reset", timeout=5)
...     mail.link("reset"), mail.code()                       # a message from a wait is there whole
...     await mail.attachments[0].read()                      # only bytes are fetched later

Messages from ``messages()`` and from events are summaries: ``await mail.load()`` fetches the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from . import checks, trust
from .aio_inbox import AsyncInbox, AsyncMessage
from .client import CLOSED, STALE, TIMEOUT, failure_of, http_timeout, is_local
from .events import Following, SseParser
from .values import Event, Refusal, Smtp, Summary
from .verbs import Loaded, Verbs
from .wire import BUSY, FIRST_PAUSE, LONGEST_PAUSE, Failure, Pause, Request, Response, Server, Steps, base_url

T = TypeVar("T")


class AsyncFarm:
    """A mailfarm at a URL; see ``Farm``. Belongs to the event loop it is first used in."""

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
        self._http = httpx.AsyncClient(
            timeout=timeout,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=not is_local(self.url),
            verify=True if ca is None else trust.context(ca),
        )

    async def create_mailbox(
        self,
        address: str | None = None,
        *,
        kind: str | None = None,
        lifetime: float | None = None,
        retention: float | None = None,
    ) -> AsyncInbox:
        """As ``Farm.create_mailbox``."""
        return AsyncInbox(self, *await self._run(self._verbs.create_mailbox(address, kind, lifetime, retention)))

    async def mailbox(self, which: str) -> AsyncInbox:
        """As ``Farm.mailbox``."""
        state = await self._run(self._verbs.mailbox(which))
        return AsyncInbox(self, state, await self._run(self._verbs.where_smtp()))

    async def mailboxes(self) -> list[AsyncInbox]:
        """As ``Farm.mailboxes``."""
        smtp = await self._run(self._verbs.where_smtp())
        return [AsyncInbox(self, state, smtp) for state in await self._run(self._verbs.mailboxes())]

    async def delete_mailbox(self, which: str) -> None:
        """As ``Farm.delete_mailbox``."""
        state = await self._run(self._verbs.mailbox(which))
        await self._run(self._verbs.delete_mailbox(state.id))

    async def message(self, id: str) -> AsyncMessage:
        """As ``Farm.message``."""
        return AsyncMessage(self, await self._run(self._verbs.message(id)))

    async def refusals(self, address: str) -> list[Refusal]:
        """As ``Farm.refusals``."""
        return await self._run(self._verbs.refusals("/v1/refusals", (("address", address),)))

    async def version(self) -> dict[str, object]:
        """As ``Farm.version``."""
        return dict(await self._run(self._verbs.version()))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncFarm:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncFarm {self.url}>"

    # I/O

    async def _run(self, steps: Steps[T]) -> T:
        """Drive a verb."""
        __tracebackhide__ = True
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
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
        if self._http.is_closed:
            raise ValueError(CLOSED)
        try:
            answer = await self._http.request(
                request.method,
                self.url + request.target,
                content=request.body,
                headers=request.headers(self._token),
                timeout=http_timeout(request, self._timeout),
            )
        except httpx.RequestError as error:
            raise failure_of(error) from error
        return Response(answer.status_code, answer.content, {k.lower(): v for k, v in answer.headers.items()})

    async def _follow(self, following: Following, timeout: float | None) -> AsyncIterator[Event[AsyncMessage]]:  # noqa: ASYNC109 - httpx has it
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
                async with self._http.stream(
                    "GET",
                    self.url + request.target,
                    headers=request.headers(self._token),
                    timeout=http_timeout(request, self._timeout, deadline and deadline - began),
                ) as answer:
                    self._verbs.server.reached = True
                    if answer.status_code == 200:
                        pause = FIRST_PAUSE
                        parser = SseParser()
                        async for piece in answer.aiter_bytes():
                            for data in parser.feed(piece):
                                event = following.receive(data)
                                if event is not None:
                                    yield self._event(event)
                            if following.ended() or (deadline is not None and time.monotonic() > began + STALE):
                                break  # the time-out of a read is fixed when a stream begins, and ours has shrunk
                    elif answer.status_code not in BUSY:
                        yield self._event(following.refused(Response(answer.status_code, await answer.aread())))
                        continue
            except httpx.RequestError as error:
                if not self._verbs.server.reached:
                    raise self._verbs.server.unreachable(failure_of(error)) from error
            if following.ended():
                return
            await asyncio.sleep(pause if deadline is None else max(min(pause, deadline - time.monotonic()), 0.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _event(self, event: Event[Summary]) -> Event[AsyncMessage]:
        message = None if event.message is None else AsyncMessage(self, Loaded(event.message))
        return Event(event.type, event.mailbox, event.seq, event.at, message, event.ids, event.seen)
