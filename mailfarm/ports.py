"""The ports: what mailfarm needs of the world, and the values that cross.

Each port has more than one implementation, in ``backends/``, and one contract suite in ``tests/ports/`` that all of
them pass. What a method returns is awaitable from a coroutine (a coroutine or a Deferred; callers cannot tell).
Times are microseconds since 1970, UTC; spans of time are seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from mailfarm.values import value

from .events import Event, FiledAlike
from .limits import Limit, Quota
from .mail.envelope import Envelope

T = TypeVar("T")

CHUNK = 256 * 1024
"""The largest piece of content that crosses a port, in octets, and the size above which a queue stores content first
and its entry last."""

NEVER = 2**63 - 1
"""In place of a moment: it does not come."""


class Content(Protocol):
    """The exact bytes after DATA, read in chunks, so that a large one never stands in memory whole.

    May be read more than once, from the start each time. ``close`` frees what it holds (a file); idempotent.
    """

    @property
    def size(self) -> int: ...
    def chunks(self) -> AsyncIterator[bytes]:
        """Pieces of at most ``CHUNK`` octets, none of them empty."""

    def close(self) -> None: ...


@value
class Origin:
    """Where a transaction came from. ``client`` is the real client's address, behind whatever proxies.

    ``protocol`` is the RFC 3848 and RFC 6531 name: SMTP, ESMTP, ESMTPS, ESMTPSA, UTF8SMTPSA and so on.
    ``tls`` is empty or "TLSv1.3 TLS_AES_256_GCM_SHA384". ``credential`` is its id, never its secret, or empty.
    """

    service: str
    client: str
    port: int
    helo: str
    protocol: str
    tls: str = ""
    credential: str = ""


@value
class Spooled:
    """Content and envelope for which we answer, or have answered, 250.

    ``mailboxes`` says for each recipient of the envelope, in order, the id of the mailbox it leads to.
    ``trace`` is our Received header (RFC 5321 §4.4), kept beside the content and shown above it.
    ``sha256`` is of the content alone, 32 octets.
    """

    id: str
    account: str
    accepted_at: int
    envelope: Envelope
    origin: Origin
    mailboxes: tuple[str, ...]
    trace: bytes
    sha256: bytes
    content: Content


@value
class Attempt:
    """One worker's turn at a queue entry. ``tries`` counts this one; the fence is only good until the lease ends."""

    fence: str
    tries: int
    spooled: Spooled


State = Literal["waiting", "leased", "aside"]


@value
class Entry:
    """A queue entry as an operator sees it. ``reason`` is the last failure's.

    ``until`` is the end of its lease, which may have passed when nobody has taken since, or of its pause while it waits
    to be tried again; None when it has neither. ``holder`` is the process that has it leased, ``shard`` the server it
    is on; either may be empty. ``account`` is empty where its form cannot be read: then it is the operator's alone.
    """

    id: str
    state: State
    put_at: int
    tries: int
    size: int
    account: str
    sender: str
    recipients: tuple[str, ...]
    reason: str
    until: int | None = None
    holder: str = ""
    shard: str = ""


@dataclass(frozen=True, slots=True)
class Depth:
    """How many entries are in each state, and when the oldest waiting one was put (None when none waits)."""

    waiting: int
    leased: int
    aside: int
    oldest: int | None


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the servers that hold a queue. ``depth`` is None when it does not answer; ``why`` says why not."""

    name: str
    depth: Depth | None
    why: str = ""


class Queue(Protocol):
    """Durable work for one service. Each entry is handed out until ``done``, or set aside after a few failed tries."""

    def admit(self, size: int) -> Awaitable[None]:
        """Say before DATA whether content of ``size`` octets (0: unknown) would find room. Raises QueueFull,
        QueueBehind (there is room; how much should come it says), QueueUnavailable."""

    def put(self, spooled: Spooled) -> Awaitable[None]:
        """Return only when the entry would survive a crash. The same id twice is one entry.

        Raises QueueFull; QueueUnavailable (then it may be stored all the same).
        """

    def take(self, limit: int, lease: float, wait: float = 0.0) -> Awaitable[Sequence[Attempt]]:
        """At most ``limit`` entries, the oldest first, for ``lease`` seconds; entries whose lease has ended come
        again. Waits up to ``wait`` seconds for the first. Entries that were taken too often are set aside instead."""

    def extend(self, fence: str, lease: float) -> Awaitable[None]:
        """Hold on for ``lease`` seconds from now. Raises LeaseLost."""

    def done(self, fences: Sequence[str], within: float = 0.0) -> Awaitable[None]:
        """End these entries and forget their content. An old fence is passed over in silence: its entry is another
        worker's now. It may wait for ``within`` seconds, for a take to go with; returns when they have ended."""

    def fail(self, fence: str, reason: str, retry_after: float = 0.0) -> Awaitable[None]:
        """Give up this turn; the entry comes again after ``retry_after`` seconds, or is set aside when it has had its
        tries. Raises LeaseLost."""

    def give_back(self, fences: Sequence[str], reason: str = "", after: float = 0.0) -> Awaitable[None]:
        """Undo the taking of these entries: they wait again, from ``after`` seconds on, and this turn does not count
        among their tries. For a worker that stops, and for what stands in the way of an entry and is not its fault;
        then ``reason`` says what. An old fence is passed over. Raises nothing: what the queue cannot be told comes
        again when its lease ends."""

    def depth(self) -> Awaitable[Depth]: ...
    def depths(self) -> Awaitable[Sequence[Shard]]:
        """The depth of each server that holds the queue; one where there is one. Raises nothing."""

    def inspect(self, state: State, limit: int = 100, account: str = "") -> Awaitable[Sequence[Entry]]:
        """The oldest entries in a state; with an ``account``, those that are its own."""

    def find(self, id: str) -> Awaitable[Entry]:
        """One entry, whatever its state. Raises NotFound."""

    def read(self, id: str) -> Awaitable[Spooled]:
        """An entry's spooled mail, whatever its state. Raises NotFound."""

    def requeue(self, id: str) -> Awaitable[None]:
        """Make an entry that was set aside wait again, its tries forgotten. Raises NotFound."""

    def drop(self, id: str) -> Awaitable[None]:
        """Forget an entry that was set aside. Raises NotFound."""


class Rows:
    """Many rows as one parameter, at least one, of ``str``, ``int`` or ``bytes`` in each column: SQL reads them from
    ``(values ?) as v``, with the columns ``v.column1``, ``v.column2`` and so on."""

    __slots__ = ("rows",)

    def __init__(self, rows: Sequence[Sequence[Any]]) -> None:
        self.rows = rows


class _Now:
    __slots__ = ()

    def __repr__(self) -> str:
        return "NOW"


NOW: Final = _Now()
"""As a parameter: the database's clock. For what is asked before ``Tx.now`` is known."""


class Tx(Protocol):
    """An open unit. SQL is the subset SQLite and PostgreSQL share, with ``?`` for each parameter.

    A statement that fails may doom the unit, whatever ``work`` makes of the error.
    """

    @property
    def now(self) -> int:
        """The database's clock when the unit began: it decides what has ended."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> Awaitable[int]:
        """The number of rows changed."""

    def rows(self, sql: str, params: Sequence[Any] = ()) -> Awaitable[Sequence[tuple[Any, ...]]]:
        """All rows; also those of RETURNING. Ask with a LIMIT."""

    def row(self, sql: str, params: Sequence[Any] = ()) -> Awaitable[tuple[Any, ...] | None]:
        """The first row, or None."""

    def several(self, questions: Sequence[tuple[str, Sequence[Any]]]) -> Awaitable[Sequence[Sequence[tuple[Any, ...]]]]:
        """The rows of several statements, run in this order. To a server that is one journey. Parameters are ``None``,
        ``str``, ``int``, ``bytes``, ``Rows`` or ``NOW``."""

    def tell(self, sql: str, params: Sequence[Any] = ()) -> Awaitable[None]:
        """Execute it, before whatever is asked next or at the end of the unit. Parameters as in ``several``."""

    def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, ignore: bool = False
    ) -> Awaitable[int]:
        """Insert many rows, in as few statements as the engine likes; with ``ignore``, rows whose key is taken are
        passed over (ON CONFLICT DO NOTHING). The number inserted. Without ``ignore`` it may be put off like ``tell``:
        an error may come later, and dooms the unit all the same."""

    def lock(self, table: str, ids: Sequence[str]) -> Awaitable[None]:
        """Lock rows by id, in id order, until the unit ends. Where writers are one at a time this does nothing.

        A unit that begins with this (also with no ids) takes its turn at these rows, and each of its statements sees
        what has been committed by then: its locks hold it together. Any other unit sees one snapshot, and is run again
        when another has changed a row that it changes. The order of locking is mailboxes, all in one call; then
        contents; then the rest.
        """


class Database(Protocol):
    """Where mailfarm keeps what it knows."""

    def unit(self, work: Callable[[Tx], Awaitable[T]], *, late: bool = False) -> Awaitable[T]:
        """Run ``work`` in one database transaction and return its result once that is durable.

        ``work`` awaits only its ``tx`` and may be run again from the start; what it raises rolls the unit back and is
        raised here. Raises DatabaseUnavailable. ``late``: ``work`` locks its rows first and then asks ``several``;
        ``tx.now`` is known when these have been answered. Saves a server two journeys."""

    def read(self, work: Callable[[Tx], Awaitable[T]], *, once: bool = False) -> Awaitable[T]:
        """The same on a snapshot that cannot be written. ``once``: ``work`` asks once as a rule, by ``rows``, ``row``
        or ``several``; ``tx.now`` is known when that has been answered. Saves a server two journeys; if it does ask
        again, it is run again from the start."""

    def prune(self) -> Awaitable[int]:
        """One bounded step of removing content whose time is over (``content.until``, by the database's clock) and of
        which no message is left, and of making room for content to come. How many things were removed; 0 when there
        is nothing left to do now. Engines differ: rows, or whole partitions, a day at a time. Several at once do no
        harm. Raises DatabaseUnavailable."""


class Subscription(Protocol):
    """A standing wish to hear a topic."""

    def stop(self) -> None: ...


class Bus(Protocol):
    """Everyone who listens hears, no promises: a hint to look. Topics: a mailbox id, ``account:<id>``,
    ``refused``, ``lookup``."""

    def publish(self, topic: str, event: Event) -> None:
        """Tell whoever listens now. Never waits, never raises."""

    def publish_alike(self, events: FiledAlike, also: str) -> None:
        """Tell each of these events, in order, on its mailbox's topic and on ``also``. Never waits, never raises."""

    def subscribe(
        self, topic: str, hear: Callable[[Event], None], missed: Callable[[], None] | None = None
    ) -> Awaitable[Subscription]:
        """Hear ``topic`` from the moment this returns. ``hear`` must not block; what it raises is logged. ``missed`` is
        called when events may have been missed, and whatever comes from now on is heard again."""


@dataclass(frozen=True, slots=True)
class Charge:
    """``cost`` units against ``limit`` on the account of ``key``; a cost of 0 only asks. What was far from its limit a
    moment ago need not be asked again, unless ``always``."""

    key: str
    limit: Limit | Quota
    cost: int = 1
    always: bool = False

    def __post_init__(self) -> None:
        if self.cost < 0:
            raise ValueError("a cost below 0 would give units back")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The first key over its limit, and the seconds until the charge would be allowed."""

    key: str
    wait: float


class Hold(Protocol):
    """A place that is taken."""

    def release(self) -> None:
        """Give it back. Never waits, never raises; idempotent."""


class Limiter(Protocol):
    """Rates over a span, quotas of fixed windows, and places held at the same time, counted over all replicas.

    Nothing here raises: when the store is away, a local count takes over, and that is counted in a metric.
    """

    def charge(self, charges: Sequence[Charge]) -> Awaitable[Refusal | None]:
        """None when allowed. All keys are checked, and only if all allow it are they all charged."""

    def far(self, charges: Sequence[Charge]) -> bool:
        """Whether ``charges``, which only ask, are known to be allowed: then there is no need to ask."""

    def enter(self, charges: Sequence[Charge], key: str, most: int) -> Awaitable[Hold | Refusal | None]:
        """``charge``, and if that is allowed ``hold``: the place, or the refusal, or None when all are taken. What was
        charged is not given back then."""

    def hold(self, key: str, most: int) -> Awaitable[Hold | None]:
        """One of ``most`` places of ``key``, kept until it is released; None when all are taken. The places of a
        replica that died are free again within a minute."""
