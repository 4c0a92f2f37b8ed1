"""What is proved: a target, its parts, and how it is set up. ``dev``, ``processes`` and ``stack`` implement it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from .sender import Sender
    from .wire import Wire

SERVICES = ("mx", "submission", "inbound", "sweep", "api", "live")
STORES = ("redis-queue", "redis-cache", "sentinel", "postgres")


@dataclass(frozen=True)
class Options:
    """How a target is set up. A fault may ask for its own, and then has a target of its own.

    ``replicas`` says how many there are of a kind (1); ``settings`` are every service's, as environment variables;
    ``redis_options`` and ``postgres_options`` are appended to the command lines of the queue's Redis and of Postgres;
    ``disks`` gives a part's folder a file system of its own: the options of a tmpfs, as in ``size=20m,nr_inodes=200``.
    With ``spool`` listeners have a local spool, and there is a service of that name.
    ``program`` starts mailfarm, as in ``(sys.executable, "-m", "mailfarm")``, which is what empty means.
    """

    shards: int = 1
    sentinel: bool = False
    spool: bool = False
    replicas: Mapping[str, int] = field(default_factory=dict)
    redis_options: tuple[str, ...] = ()
    postgres_options: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    disks: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ()


class Part(ABC):
    """One process (task, container) of a target. Replicas of a kind are numbered: ``mx-1``, ``mx-2``."""

    name: str
    kind: str

    @abstractmethod
    def pid(self) -> int:
        """The id of the process itself, not of what stands in front of it; 0 where it runs elsewhere or not at all."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL, and return when it is gone."""

    @abstractmethod
    def stop_clean(self) -> None:
        """SIGTERM, and return when it has ended."""

    @abstractmethod
    def pause(self) -> None:
        """SIGSTOP: it neither runs nor ends."""

    @abstractmethod
    def resume(self) -> None:
        """SIGCONT."""

    @abstractmethod
    def start(self, *, before: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> None:
        """Start it again, on the same data and ports, behind the command ``before``, with ``environ`` added.

        A store is waited for until it answers. A service is not: see ``Target.healthy``.
        """

    @abstractmethod
    def running(self) -> bool:
        """Whether its process is there."""

    def said(self) -> str:
        """The end of its log; empty where we cannot see it."""
        return ""


@dataclass(frozen=True, slots=True)
class Door:
    """Where clients send: a listener, and who signs in there. ``security`` is plain, starttls or tls. Without a user
    anybody's mail is taken for any mailbox; with one it is taken for the mailbox ``address``."""

    host: str
    port: int
    security: str = "plain"
    user: str = ""
    secret: str = ""
    address: str = ""


class Target(ABC):
    """A mailfarm that runs, with its stores. Set up on entering the ``with``, gone after it."""

    name: str
    folder: Path
    parts: Sequence[Part]
    smtp: Sequence[tuple[str, int]]
    """Where mail for any mailbox is taken: the mx listeners."""
    submission: Sequence[tuple[str, int]] = ()
    """Where mail is taken from who signs in."""
    submission_security = "plain"
    """How it is taken there: plain, starttls or tls."""
    url: str
    live: str
    """The address of the WebSocket's service; that of the API where they are one."""
    token: str = ""
    cafile: str = ""
    addresses: Sequence[str] = ()
    """The addresses of the hosts in ``url`` and ``live``, where no name service knows them."""
    sources: Sequence[str] = ()
    """Addresses of ours to send from, in turn; none: whichever."""
    rate = 30.0
    """Messages a second that it is sent."""
    mail: Sender
    """Mail that a fault sends itself; set by the run."""

    def part(self, name: str) -> Part:
        """The part with this name; KeyError."""
        for each in self.parts:
            if each.name == name:
                return each
        raise KeyError(name)

    def of(self, kind: str) -> list[Part]:
        """All parts of a kind."""
        return [each for each in self.parts if each.kind == kind]

    def wire(self, a: str, b: str) -> Wire:
        """The relay between the parts ``a`` and ``b``, as in ``wire("mx-1", "redis-queue-1")``; KeyError where there is
        none."""
        raise KeyError(f"{self.name} has no wire between {a} and {b}")

    @abstractmethod
    def healthy(self, seconds: float = 120) -> None:
        """Wait until every part serves; each target knows how long is fair. Raises TimeoutError with what does not."""

    @abstractmethod
    def up(self) -> None:
        """Set it up, and return when it is healthy."""

    @abstractmethod
    def down(self) -> None:
        """End all that was started, at once."""

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
