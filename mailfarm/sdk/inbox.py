"""Mailboxes, messages and attachments of the blocking client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from .errors import CannotConnect, NoSuchMailbox
from .events import Following
from .message import AttachmentBase, MessageBase
from .values import Detail, Event, Headers, MailboxState, Part, Refusal, Smtp
from .verbs import Criteria, Loaded, Order
from .waits import WAIT, Waits

if TYPE_CHECKING:
    from .client import Farm


class Attachment(AttachmentBase):
    """An attachment; its content is fetched when first asked for."""

    def __init__(self, farm: Farm, message: str, part: Part) -> None:
        super().__init__(message, part)
        self._farm = farm

    def read(self) -> bytes:
        """The decoded octets, the same as ``content``."""
        if self._content is None:
            self._content = self._farm._run(self._farm._verbs.octets(self.message, f"parts/{self.n}"))
        return self._content

    @property
    def content(self) -> bytes:
        """The decoded octets."""
        return self.read()


class Message(MessageBase[Attachment]):
    """A message; what is not in a list is fetched when first asked for, and kept."""

    def __init__(self, farm: Farm, loaded: Loaded) -> None:
        super().__init__(loaded.summary, loaded.detail, loaded.headers)
        self._farm = farm

    @property
    def detail(self) -> Detail:
        """Texts, links, codes, parts and the rest."""
        if self._detail is None:
            self._detail = self._farm._run(self._farm._verbs.detail(self.id))
        return self._detail

    @property
    def headers(self) -> Headers:
        """All header fields: ``mail.headers["Reply-To"]``, ``mail.headers.all("Received")``."""
        if self._headers is None:
            self._headers = self._farm._run(self._farm._verbs.headers(self.id))
        return self._headers

    @property
    def raw(self) -> bytes:
        """The bytes as they were sent, with the server's Received header on top."""
        return self.read_raw()

    def read_raw(self) -> bytes:
        """The same as ``raw``."""
        if self._raw is None:
            self._raw = self._farm._run(self._farm._verbs.octets(self.id, "raw"))
        return self._raw

    def read_part(self, n: int) -> bytes:
        """The decoded octets of the part with this number, attachment or not. Raises NoSuchMessage."""
        return self._farm._run(self._farm._verbs.octets(self.id, f"parts/{n}"))

    def load(self) -> Message:
        """Fetch detail and headers now."""
        _ = self.detail, self.headers
        return self

    def mark_seen(self, seen: bool = True) -> None:
        """Mark it seen, or not seen. Raises NoSuchMessage."""
        self.summary = self._farm._run(self._farm._verbs.mark_seen(self.id, seen))

    def delete(self) -> None:
        """Delete it. Raises NoSuchMessage."""
        self._farm._run(self._farm._verbs.delete_message(self.id))

    def _attachment(self, part: Part) -> Attachment:
        return Attachment(self._farm, self.id, part)


class Inbox:
    """A mailbox. As a context manager it is deleted at the end, with all that is in it.

    ``state`` is the mailbox as it was when this object was made, or when ``refresh`` was last called.
    """

    def __init__(self, farm: Farm, state: MailboxState, smtp: Smtp | None = None) -> None:
        self.farm = farm
        self.state = state
        self._smtp = smtp
        self._waits = Waits(farm._verbs, state)

    @property
    def id(self) -> str:
        """Its id."""
        return self.state.id

    @property
    def address(self) -> str:
        """The address mail reaches it by."""
        return self.state.address

    @property
    def smtp(self) -> Smtp:
        """Where and as whom to send so that mail lands here: ``inbox.smtp.host``, ``.port``, ``.user``, …"""
        if self._smtp is None:
            self._smtp = self.farm._run(self.farm._verbs.where_smtp())
        return self._smtp

    def refresh(self) -> MailboxState:
        """Ask for its state again. Raises NoSuchMailbox."""
        self.state = self.farm._run(self.farm._verbs.mailbox(self.id))
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
    ) -> list[Message]:
        """What is there now and meets the criteria, the oldest first; all of it, unless there is a ``limit``.

        Criteria are parts of the text, whatever the case; a full address for ``from_`` or ``to`` must be equal.
        Listing hands nothing out: a wait still finds these.
        """
        criteria = Criteria(from_, to, subject, contains)
        steps = self.farm._verbs.messages(
            self.id, criteria, seen=seen, after=after, before=before, order=order, limit=limit
        )
        return [Message(self.farm, loaded) for loaded in self.farm._run(steps)]

    def wait_for(
        self,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        timeout: float = WAIT,
        after: int | None = None,
    ) -> Message:
        """The next message that meets the criteria; one that is there already answers at once.

        Each is handed out once by this object: the same call again waits for the one after. ``after`` looks at all
        messages filed after that change number instead, handed out or not (``after=0``: at all).
        Raises WaitTimeout, which says what did arrive.
        """
        __tracebackhide__ = True
        criteria = Criteria(from_, to, subject, contains)
        (summary,) = self.farm._run(self._waits.wait_for_all(1, criteria, timeout, after))
        return Message(self.farm, Loaded(summary))

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
    ) -> list[Message]:
        """The next ``count`` messages that meet the criteria, once all of them are there.

        With ``exact`` it waits until the end of the time-out, and a message more raises UnexpectedMessage.
        Raises WaitTimeout; then none of them counts as handed out.
        """
        __tracebackhide__ = True
        criteria = Criteria(from_, to, subject, contains)
        summaries = self.farm._run(self._waits.wait_for_all(count, criteria, timeout, after, exact))
        return [Message(self.farm, Loaded(summary)) for summary in summaries]

    def assert_none(
        self,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        within: float = 1.0,
        after: int | None = None,
    ) -> None:
        """No message that meets the criteria is there, apart from those handed out, nor comes within so many seconds.

        Raises UnexpectedMessage at once when there is one.
        """
        __tracebackhide__ = True
        self.farm._run(self._waits.assert_none(Criteria(from_, to, subject, contains), within, after))

    def skip_existing(self) -> None:
        """Forget what is there: from now on waits and ``assert_none`` look only at what comes later."""
        __tracebackhide__ = True
        self.farm._run(self._waits.skip_existing())

    def events(
        self,
        *,
        from_: str = "",
        to: str = "",
        subject: str = "",
        contains: str = "",
        after: int | None = None,
        timeout: float | None = None,
    ) -> Iterator[Event[Message]]:
        """Its changes as they happen, for ever, or for ``timeout`` seconds. See ``Event``.

        They begin with the first change after this object was made, or after the change number ``after``. Cut
        connections are made again, and nothing is missed or comes twice. Ends when the mailbox is deleted.
        """
        criteria = Criteria(from_, to, subject, contains)
        following = Following(self.id, criteria, self.state.cursor if after is None else after)
        return self.farm._follow(following, timeout)

    def refusals(self) -> list[Refusal]:
        """What the server lately refused for this address, the newest last."""
        return self.farm._run(self.farm._verbs.refusals(f"/v1/mailboxes/{self.id}/refusals", ()))

    def mark_all_seen(self, seen: bool = True) -> int:
        """Mark all messages; how many were changed."""
        return self.farm._run(self.farm._verbs.mark_all_seen(self.id, seen))

    def clear(self) -> int:
        """Delete all messages; how many there were."""
        return self.farm._run(self.farm._verbs.clear(self.id))

    def delete(self) -> None:
        """Delete the mailbox with all that is in it. Raises NoSuchMailbox."""
        self.farm._run(self.farm._verbs.delete_mailbox(self.id))

    def __enter__(self) -> Inbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(NoSuchMailbox, CannotConnect):  # it ended by itself, or everything did
            self.delete()

    def __repr__(self) -> str:
        return f"<Inbox {self.address} {self.id}>"
