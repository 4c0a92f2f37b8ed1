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
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

import httpx

from .client import STALE, TIMEOUT, WAIT, failure_of, http_timeout, is_local
from .errors import CannotConnect, NoSuchMailbox
from .events import Following, SseParser
from .message import AttachmentBase, MessageBase
from .values import Event, MailboxState, Part, Refusal, Smtp, Summary
from .verbs import Criteria, Loaded, Order, Verbs
from .waits import Waits
from .wire import BUSY, FIRST_PAUSE, LONGEST_PAUSE, Failure, Pause, Request, Response, Server, Steps, base_url

T = TypeVar("T")


class AsyncAttachment(AttachmentBase):
    """An attachment. ``await attachment.read()`` fetches its content; after that ``content`` has it too."""

    def __init__(self, farm: AsyncFarm, message: str, part: Part) -> None:
        super().__init__(message, part)
        self._farm = farm

    async def read(self) -> bytes:
        """The decoded octets."""
        if self._content is None:
            self._content = await self._farm._run(self._farm._verbs.octets(self.message, f"parts/{self.n}"))
        return self._content


class AsyncMessage(MessageBase[AsyncAttachment]):
    """A message."""

    def __init__(self, farm: AsyncFarm, loaded: Loaded) -> None:
        super().__init__(loaded.summary, loaded.detail, loaded.headers)
        self._farm = farm

    async def load(self) -> AsyncMessage:
        """Fetch what a list does not hold: texts, links, codes, parts, headers. Messages from a wait have it."""
        if self._detail is None:
            self._detail = await self._farm._run(self._farm._verbs.detail(self.id))
        if self._headers is None:
            self._headers = await self._farm._run(self._farm._verbs.headers(self.id))
        return self

    async def read_raw(self) -> bytes:
        """The bytes as they were sent, with the server's Received header on top; after that ``raw`` has them too."""
        if self._raw is None:
            self._raw = await self._farm._run(self._farm._verbs.octets(self.id, "raw"))
        return self._raw

    async def read_part(self, n: int) -> bytes:
        """The decoded octets of the part with this number, attachment or not. Raises NoSuchMessage."""
        return await self._farm._run(self._farm._verbs.octets(self.id, f"parts/{n}"))

    async def mark_seen(self, seen: bool = True) -> None:
        """Mark it seen, or not seen. Raises NoSuchMessage."""
        self.summary = await self._farm._run(self._farm._verbs.mark_seen(self.id, seen))

    async def delete(self) -> None:
        """Delete it. Raises NoSuchMessage."""
        await self._farm._run(self._farm._verbs.delete_message(self.id))

    def _attachment(self, part: Part) -> AsyncAttachment:
        return AsyncAttachment(self._farm, self.id, part)


class AsyncInbox:
    """A mailbox; see ``Inbox``. With ``async with`` it is deleted at the end."""

    def __init__(self, farm: AsyncFarm, state: MailboxState, smtp: Smtp) -> None:
        self.farm = farm
        self.state = state
        self.smtp = smtp
        self._waits = Waits(farm._verbs, state)

    @property
    def id(self) -> str:
        """Its id."""
        return self.state.id

    @property
    def address(self) -> str:
        """The address mail reaches it by."""
        return self.state.address

    async def refresh(self) -> MailboxState:
        """Ask for its state again. Raises NoSuchMailbox."""
        self.state = await self.farm._run(self.farm._verbs.mailbox(self.id))
        return self.state

    async def messages(
        self,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        seen: bool | None = None,
        after: int | None = None,
        before: int | None = None,
        order: Order = "asc",
        limit: int | None = None,
        load: bool = False,
    ) -> list[AsyncMessage]:
        """As ``Inbox.messages``; with ``load`` each is fetched whole, which takes two requests a message."""
        criteria = Criteria(from_, to, subject, contains)
        steps = self.farm._verbs.messages(
            self.id, criteria, seen=seen, after=after, before=before, order=order, limit=limit, load=load
        )
        return [AsyncMessage(self.farm, loaded) for loaded in await self.farm._run(steps)]

    async def wait_for(
        self,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        timeout: float = WAIT,  # noqa: ASYNC109 - it is the server that waits
        after: int | None = None,
    ) -> AsyncMessage:
        """As ``Inbox.wait_for``; the message is there whole."""
        (message,) = await self.wait_for_all(
            1, from_=from_, to=to, subject=subject, contains=contains, timeout=timeout, after=after
        )
        return message

    async def wait_for_all(
        self,
        count: int,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        timeout: float = WAIT,  # noqa: ASYNC109
        after: int | None = None,
        exact: bool = False,
        load: bool = True,
    ) -> list[AsyncMessage]:
        """As ``Inbox.wait_for_all``; the messages are there whole, unless ``load`` is False."""
        criteria = Criteria(from_, to, subject, contains)
        summaries = await self.farm._run(self._waits.wait_for_all(count, criteria, timeout, after, exact))
        if load:
            loaded = await self.farm._run(self.farm._verbs.load_all(summaries))
        else:
            loaded = [Loaded(summary) for summary in summaries]
        return [AsyncMessage(self.farm, each) for each in loaded]

    async def assert_none(
        self,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        within: float = 1.0,
        after: int | None = None,
    ) -> None:
        """As ``Inbox.assert_none``."""
        await self.farm._run(self._waits.assert_none(Criteria(from_, to, subject, contains), within, after))

    async def skip_existing(self) -> None:
        """As ``Inbox.skip_existing``."""
        await self.farm._run(self._waits.skip_existing())

    def events(
        self,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        after: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Event[AsyncMessage]]:
        """As ``Inbox.events``: ``async for event in inbox.events(): …``"""
        criteria = Criteria(from_, to, subject, contains)
        following = Following(self.id, criteria, self.state.cursor if after is None else after)
        return self.farm._follow(following, timeout)

    async def refusals(self) -> list[Refusal]:
        """As ``Inbox.refusals``."""
        return await self.farm._run(self.farm._verbs.refusals(f"/v1/mailboxes/{self.id}/refusals", ()))

    async def mark_all_seen(self, seen: bool = True) -> int:
        """As ``Inbox.mark_all_seen``."""
        return await self.farm._run(self.farm._verbs.mark_all_seen(self.id, seen))

    async def clear(self) -> int:
        """As ``Inbox.clear``."""
        return await self.farm._run(self.farm._verbs.clear(self.id))

    async def delete(self) -> None:
        """As ``Inbox.delete``."""
        await self.farm._run(self.farm._verbs.delete_mailbox(self.id))

    async def __aenter__(self) -> AsyncInbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(NoSuchMailbox, CannotConnect):  # it ended by itself, or everything did
            await self.delete()

    def __repr__(self) -> str:
        return f"<AsyncInbox {self.address} {self.id}>"


class AsyncFarm:
    """A mailfarm at a URL; see ``Farm``. Belongs to the event loop it is first used in."""

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = TIMEOUT, smtp: Smtp | None = None
    ) -> None:
        self.url = base_url(url)
        self._token = token
        self._timeout = timeout
        self._verbs = Verbs(Server(self.url), time.monotonic, smtp)
        self._http = httpx.AsyncClient(
            timeout=timeout,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=not is_local(self.url),
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

    async def _follow(self, following: Following, timeout: float | None) -> AsyncIterator[Event[AsyncMessage]]:  # noqa: ASYNC109
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_PAUSE
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
