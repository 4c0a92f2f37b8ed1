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
from contextlib import suppress
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from .errors import CannotConnect, NoSuchMailbox
from .events import Following, SseParser
from .message import AttachmentBase, MessageBase
from .values import Detail, Event, Headers, MailboxState, Part, Refusal, Smtp, Summary
from .verbs import Criteria, Loaded, Order, Verbs
from .waits import Waits
from .wire import BUSY, FIRST_PAUSE, LONGEST_PAUSE, Failure, Pause, Request, Response, Server, Steps, base_url

T = TypeVar("T")
TIMEOUT = 10.0
WAIT = 10.0
STALE = 0.5


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
        self.farm._run(self._waits.assert_none(Criteria(from_, to, subject, contains), within, after))

    def skip_existing(self) -> None:
        """Forget what is there: from now on waits and ``assert_none`` look only at what comes later."""
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
        self.farm._delete_quietly(self.id)

    def __repr__(self) -> str:
        return f"<Inbox {self.address} {self.id}>"


class Farm:
    """A mailfarm at a URL.

    ``token`` is needed where the server asks for one. ``timeout`` is the seconds any single answer may take; waits
    have their own. ``smtp`` says where the server takes mail, if it does not say so itself. Raises ValueError for what
    is no URL; every method may raise CannotConnect, NotAllowed and ApiError.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = TIMEOUT, smtp: Smtp | None = None
    ) -> None:
        self.url = base_url(url)
        self._token = token
        self._timeout = timeout
        self._verbs = Verbs(Server(self.url), time.monotonic, smtp)
        self._on_made: Callable[[Inbox], None] | None = None  # the pytest plugin's
        self._http = httpx.Client(
            timeout=timeout,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=not is_local(self.url),
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

    def _delete_quietly(self, id: str) -> None:
        with suppress(NoSuchMailbox, CannotConnect):  # it ended by itself, or everything did
            self._run(self._verbs.delete_mailbox(id))


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
