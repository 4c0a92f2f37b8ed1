"""Mailboxes, messages and attachments of the Twisted client."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from .errors import CannotConnect, NoSuchMailbox
from .events import Following
from .message import AttachmentBase, MessageBase
from .twisted_events import TwistedEvents
from .values import MailboxState, Part, Refusal, Smtp
from .verbs import Criteria, Loaded, Order
from .waits import WAIT, Waits
from .wire import Steps

if TYPE_CHECKING:
    from .twisted import TwistedFarm


class TwistedAttachment(AttachmentBase):
    """An attachment. ``await attachment.read()`` fetches its content; after that ``content`` has it too."""

    def __init__(self, farm: TwistedFarm, message: str, part: Part) -> None:
        super().__init__(message, part)
        self._farm = farm

    def read(self) -> Deferred[bytes]:
        """The decoded octets."""
        return Deferred.fromCoroutine(self._read())

    async def _read(self) -> bytes:
        if self._content is None:
            self._content = await self._farm._run(self._farm._verbs.octets(self.message, f"parts/{self.n}"))
        return self._content


class TwistedMessage(MessageBase[TwistedAttachment]):
    """A message."""

    def __init__(self, farm: TwistedFarm, loaded: Loaded) -> None:
        super().__init__(loaded.summary, loaded.detail, loaded.headers)
        self._farm = farm

    def load(self) -> Deferred[TwistedMessage]:
        """Fetch what a list does not hold: texts, links, codes, parts, headers. Messages from a wait have it."""
        return Deferred.fromCoroutine(self._load())

    def read_raw(self) -> Deferred[bytes]:
        """The bytes as they were sent, with the server's Received header on top; after that ``raw`` has them too."""
        return Deferred.fromCoroutine(self._read_raw())

    def read_part(self, n: int) -> Deferred[bytes]:
        """The decoded octets of the part with this number, attachment or not. Fails with NoSuchMessage."""
        return self._farm._do(self._farm._verbs.octets(self.id, f"parts/{n}"))

    def mark_seen(self, seen: bool = True) -> Deferred[None]:
        """Mark it seen, or not seen. Fails with NoSuchMessage."""
        return Deferred.fromCoroutine(self._mark_seen(seen))

    def delete(self) -> Deferred[None]:
        """Delete it. Fails with NoSuchMessage."""
        return self._farm._do(self._farm._verbs.delete_message(self.id))

    async def _load(self) -> TwistedMessage:
        if self._detail is None:
            self._detail = await self._farm._run(self._farm._verbs.detail(self.id))
        if self._headers is None:
            self._headers = await self._farm._run(self._farm._verbs.headers(self.id))
        return self

    async def _read_raw(self) -> bytes:
        if self._raw is None:
            self._raw = await self._farm._run(self._farm._verbs.octets(self.id, "raw"))
        return self._raw

    async def _mark_seen(self, seen: bool) -> None:
        self.summary = await self._farm._run(self._farm._verbs.mark_seen(self.id, seen))

    def _attachment(self, part: Part) -> TwistedAttachment:
        return TwistedAttachment(self._farm, self.id, part)


class TwistedInbox:
    """A mailbox; see ``Inbox``. With ``async with`` it is deleted at the end."""

    def __init__(self, farm: TwistedFarm, state: MailboxState, smtp: Smtp) -> None:
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

    def refresh(self) -> Deferred[MailboxState]:
        """Ask for its state again. Fails with NoSuchMailbox."""
        return Deferred.fromCoroutine(self._refresh())

    async def _refresh(self) -> MailboxState:
        self.state = await self.farm._run(self.farm._verbs.mailbox(self.id))
        return self.state

    def messages(
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
    ) -> Deferred[list[TwistedMessage]]:
        """As ``Inbox.messages``; with ``load`` each is fetched whole, which takes two requests a message."""
        criteria = Criteria(from_, to, subject, contains)
        steps = self.farm._verbs.messages(
            self.id, criteria, seen=seen, after=after, before=before, order=order, limit=limit, load=load
        )
        return Deferred.fromCoroutine(self._shown(steps))

    def wait_for(
        self,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        timeout: float = WAIT,
        after: int | None = None,
    ) -> Deferred[TwistedMessage]:
        """As ``Inbox.wait_for``; the message is there whole."""
        __tracebackhide__ = True
        found = self.wait_for_all(
            1, from_=from_, to=to, subject=subject, contains=contains, timeout=timeout, after=after
        )
        return found.addCallback(lambda messages: messages[0])

    def wait_for_all(
        self,
        count: int,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        timeout: float = WAIT,
        after: int | None = None,
        exact: bool = False,
        load: bool = True,
    ) -> Deferred[list[TwistedMessage]]:
        """As ``Inbox.wait_for_all``; the messages are there whole, unless ``load`` is False."""
        __tracebackhide__ = True
        criteria = Criteria(from_, to, subject, contains)
        steps = self._waits.wait_for_all(count, criteria, timeout, after, exact)

        def whole() -> Steps[list[Loaded]]:
            __tracebackhide__ = True
            summaries = yield from steps
            if not load:
                return [Loaded(summary) for summary in summaries]
            return (yield from self.farm._verbs.load_all(summaries))

        return Deferred.fromCoroutine(self._shown(whole()))

    def assert_none(
        self,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        within: float = 1.0,
        after: int | None = None,
    ) -> Deferred[None]:
        """As ``Inbox.assert_none``."""
        __tracebackhide__ = True
        return self.farm._do(self._waits.assert_none(Criteria(from_, to, subject, contains), within, after))

    def skip_existing(self) -> Deferred[None]:
        """As ``Inbox.skip_existing``."""
        __tracebackhide__ = True
        return self.farm._do(self._waits.skip_existing())

    def events(
        self,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        after: int | None = None,
        timeout: float | None = None,
    ) -> TwistedEvents[TwistedMessage]:
        """As ``Inbox.events``, over a WebSocket: ``async for event in inbox.events(): …``, or ``next()`` Deferreds.

        ``close()`` it when you leave the loop early.
        """
        criteria = Criteria(from_, to, subject, contains)
        farm = self.farm
        return TwistedEvents(
            farm.reactor,
            farm._verbs.server,
            farm._token,
            Following(self.id, criteria, self.state.cursor if after is None else after),
            lambda summary: TwistedMessage(farm, Loaded(summary)),
            timeout,
            farm._roots,
        )

    def refusals(self) -> Deferred[list[Refusal]]:
        """As ``Inbox.refusals``."""
        return self.farm._do(self.farm._verbs.refusals(f"/v1/mailboxes/{self.id}/refusals", ()))

    def mark_all_seen(self, seen: bool = True) -> Deferred[int]:
        """As ``Inbox.mark_all_seen``."""
        return self.farm._do(self.farm._verbs.mark_all_seen(self.id, seen))

    def clear(self) -> Deferred[int]:
        """As ``Inbox.clear``."""
        return self.farm._do(self.farm._verbs.clear(self.id))

    def delete(self) -> Deferred[None]:
        """As ``Inbox.delete``."""
        return self.farm._do(self.farm._verbs.delete_mailbox(self.id))

    async def _shown(self, steps: Steps[list[Loaded]]) -> list[TwistedMessage]:
        __tracebackhide__ = True
        return [TwistedMessage(self.farm, loaded) for loaded in await self.farm._run(steps)]

    async def __aenter__(self) -> TwistedInbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(NoSuchMailbox, CannotConnect):  # it ended by itself, or everything did
            await self.delete()

    def __repr__(self) -> str:
        return f"<TwistedInbox {self.address} {self.id}>"
