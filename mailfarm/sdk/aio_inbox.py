"""Mailboxes, messages and attachments of the asyncio client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from .errors import CannotConnect, NoSuchMailbox
from .events import Following
from .message import AttachmentBase, MessageBase
from .values import Event, MailboxState, Part, Refusal, Smtp
from .verbs import Criteria, Loaded, Order
from .waits import WAIT, Waits

if TYPE_CHECKING:
    from .aio import AsyncFarm


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
        __tracebackhide__ = True
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
        timeout: float = WAIT,  # noqa: ASYNC109 - it is the server that waits
        after: int | None = None,
        exact: bool = False,
        load: bool = True,
    ) -> list[AsyncMessage]:
        """As ``Inbox.wait_for_all``; the messages are there whole, unless ``load`` is False."""
        __tracebackhide__ = True
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
        __tracebackhide__ = True
        await self.farm._run(self._waits.assert_none(Criteria(from_, to, subject, contains), within, after))

    async def skip_existing(self) -> None:
        """As ``Inbox.skip_existing``."""
        __tracebackhide__ = True
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
