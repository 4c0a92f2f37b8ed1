"""The local spool: mail on this machine's disk while no shard of the queue takes it, and until one has it again.

A mail is kept when it would survive a power cut (``spool_folder``, ``spool_keeping``). All of that is done in threads
of its own, so a slow disk holds up nobody but those whose mail it is.

===================================  ===================================================================
mails, octets of a process' own      capped, in blocks of 4 KiB; past a cap QueueFull
the disk's free octets               below ``reserve``, or with no room for a file: QueueFull
octets in memory                     a small mail's own, or 256 KiB of a large one; a window when drained
what is known of each mail           a number and its size, about 100 octets
===================================  ===================================================================

What a process that has ended left is taken over by ``adopt``, and is not counted against the caps: it was accepted.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from mailfarm.errors import ConfigurationError, Damaged, QueueFull, QueueUnavailable, Temporary
from mailfarm.ports import CHUNK, Spooled

from .spool_entry import beginning
from .spool_folder import SpoolFolder, damaged, free, on_disk, others
from .spool_form import NewerFormError
from .spool_keeping import Keeping
from .spool_metrics import SpoolMetrics
from .spool_read import Kept, read

T = TypeVar("T")

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_AGE: Final = 1.0  # seconds for which a look at the disk is good
_THREADS: Final = 3  # one keeps, one writes large content, one reads

_log = Logger(namespace="mailfarm.spool")


@dataclass(slots=True)
class _Held:
    """A folder we hold, and what waits in it: (number, octets), the oldest first."""

    folder: SpoolFolder
    own: bool
    waiting: deque[tuple[int, int]] = field(default_factory=deque)


class DiskSpool:
    """``path`` is the folder that all processes of a machine share, ``owner`` the name of this one's in it. ``clock``
    gives microseconds since 1970. ``max_entries`` and ``max_octets`` cap this process' own mail."""

    def __init__(
        self,
        path: Path,
        owner: str,
        reactor: Any,
        registry: CollectorRegistry,
        clock: Callable[[], int],
        *,
        max_octets: int,
        max_entries: int,
        reserve: int,
    ) -> None:
        self.path = path
        self.heard: Callable[[], None] = lambda: None
        """Called when there is something new to drain."""
        self._owner = owner
        self._reactor = reactor
        self._clock = clock
        self._max_octets = max_octets
        self._max_entries = max_entries
        self._reserve = reserve
        self._pool = ThreadPool(0, _THREADS, "spool")
        self._own: _Held | None = None
        self._held: list[_Held] = []
        self._left: set[Path] = set()  # what only a newer mailfarm can read
        self._closed: set[Path] = set()  # what cannot be looked into, which is said once
        self._entries = 0  # of our own, those under way included
        self._octets = 0
        self._keeping: Keeping | None = None
        self._looked: float | None = None
        self._free = 0
        self._files = 0
        self._metrics = SpoolMetrics(registry, lambda: self.depth[0], lambda: self.depth[1], self.oldest_age)

    async def start(self) -> None:
        """Make the folder, and take over what has no owner: that also where the disk is full, or it would stay so.
        Raises ConfigurationError."""
        self._pool.start()
        try:
            try:
                await self._open()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                _log.warn("mail cannot be kept in {folder} yet: {why}", folder=str(self.path), why=error.strerror)
            await self.adopt()
        except OSError as error:
            await self.stop()
            why = error.strerror or str(error)
            raise ConfigurationError([f"MAILFARM_SPOOL: mail cannot be kept in {self.path}: {why}"]) from None

    async def _open(self) -> None:
        """Have a folder of our own. Raises OSError."""
        folder = await self._run(lambda: SpoolFolder.make(self.path / self._owner))
        self._own = _Held(folder, own=True)
        self._held.append(self._own)
        self._keeping = Keeping(folder, self._run, self._clock)

    async def _open_again(self) -> None:
        """If we have no folder, or somebody has removed it."""
        own = self._own
        if own is not None and not await self._run(own.folder.path.exists) and not self._entries:
            _log.error("{folder} is gone: it is made again", folder=str(own.folder))
            self._own = None
            self._held.remove(own)
            await self._run(own.folder.let_go)
        if self._own is None:
            with suppress(OSError):
                await self._open()

    async def stop(self) -> None:
        """Let go of all folders, once what is being kept is. What waits in them waits for who comes. Idempotent."""
        if self._keeping is not None:
            await self._keeping.idle()
        held, self._held, self._own = self._held, [], None
        if not self._pool.started:
            return
        for each in held:
            await self._run(each.folder.let_go)
        self._pool.stop()

    # What there is

    @property
    def backlog(self) -> bool:
        """Whether mail of this process' own waits, or is being kept."""
        return self._entries > 0

    @property
    def depth(self) -> tuple[int, int]:
        """Mails that wait in all folders we hold, and their octets on the disk."""
        waiting = [each.waiting for each in self._held]
        return sum(map(len, waiting)), sum(octets for each in waiting for _, octets in each)

    def oldest_age(self) -> float:
        """Seconds for which the oldest has waited; 0 when none does."""
        first = min((each.waiting[0][0] for each in self._held if each.waiting), default=None)
        return 0.0 if first is None else max(0.0, (self._clock() - first) / 1_000_000)

    async def is_empty(self) -> None:
        """For who asks how the process is. Raises Temporary while mail waits."""
        entries, octets = self.depth
        if entries:
            raise Temporary(
                f"{entries} mails wait on this machine's disk for the queue, {octets} octets, the oldest for "
                f"{self.oldest_age():.0f} s"
            )

    # Keeping

    def check(self, size: int) -> None:
        """Whether content of ``size`` octets (0: unknown) would find room. Raises QueueFull, QueueUnavailable."""
        if self._own is None:
            raise QueueUnavailable("the local spool is not open")
        octets = on_disk(size)
        if self._entries >= self._max_entries:
            raise QueueFull(f"no queue takes mail, and the spool holds {self._entries} mails, which is its cap")
        if self._octets + octets > self._max_octets:
            raise QueueFull(f"no queue takes mail, and the spool holds {self._octets} octets of {self._max_octets}")
        now = self._reactor.seconds()
        if self._looked is None or now - self._looked >= _AGE:
            try:
                self._free, self._files = free(self.path)
            except OSError as error:
                raise QueueUnavailable(f"{self.path} is gone: {error.strerror}") from None
            self._looked = now
        if self._free - octets < self._reserve:
            raise QueueFull(
                f"no queue takes mail, and {self._free} octets are left in {self.path}, of which {self._reserve} are "
                "kept in reserve"
            )
        if self._files <= 0:
            raise QueueFull(f"no queue takes mail, and {self.path} has no room for another file")

    async def put(self, spooled: Spooled) -> None:
        """Returns when the mail would survive a power cut. Raises QueueFull, QueueUnavailable, Invalid, and what the
        content raises."""
        start = beginning(spooled)
        octets = on_disk(len(start) + spooled.content.size)
        self.check(octets)
        own, keeping = self._own, self._keeping
        assert own is not None
        assert keeping is not None
        first = not self._entries
        self._take(1, octets)
        try:
            number = await keeping.keep(start, spooled)
        except OSError as error:
            self._take(-1, -octets)
            raise _translated(error, self.path) from None
        except BaseException:
            self._take(-1, -octets)
            raise
        own.waiting.append((number, octets))
        self._metrics.stored.inc()
        if first:
            _log.warn(
                "no queue takes mail: it is kept in {folder}, and goes into the queue once one does",
                folder=str(own.folder),
            )
        self.heard()

    def _take(self, entries: int, octets: int) -> None:
        self._entries += entries
        self._octets += octets
        self._free -= octets
        self._files -= entries

    # Draining

    async def adopt(self) -> int:
        """Take over what processes that have ended left: how many mails. Raises OSError when nothing can be looked at;
        a folder that cannot is passed over, and tried again the next time."""
        await self._open_again()
        known = [each.folder.path for each in self._held]
        adopted = 0
        for path in await self._run(lambda: others(self.path, [*known, *self._left])):
            try:
                claimed = await self._run(partial(_claimed, path))
            except OSError as error:
                if path not in self._closed:
                    self._closed.add(path)
                    _log.error(
                        "{folder} cannot be looked into, and mail in it waits: {why}",
                        folder=str(path),
                        why=error.strerror or str(error),
                    )
                continue
            self._closed.discard(path)
            if claimed is None:
                continue
            folder, mails, unfinished = claimed
            if unfinished:
                _log.info(
                    "{count} unfinished files in {folder} were removed: nobody was told that we had them",
                    count=unfinished,
                    folder=str(folder),
                )
            if not mails:
                await self._run(folder.let_go)
                continue
            self._held.append(_Held(folder, own=False, waiting=deque(mails)))
            adopted += len(mails)
            self._metrics.adopted.inc(len(mails))
            _log.warn(
                "{count} mails in {folder} have no owner any more: they are drained from here",
                count=len(mails),
                folder=str(folder),
            )
        self._metrics.damaged.set(await self._run(lambda: damaged(self.path)))
        return adopted

    async def oldest(self, most: int, octets: int) -> Sequence[Kept]:
        """The oldest mails, all of one folder, in order: ``most`` of them and so many octets on the disk at most, or a
        large one alone. None only if there is none that can be read. They stay until ``forget``. Raises OSError."""
        while held := self._eldest():
            wanted: list[tuple[int, int]] = []
            left = octets
            for number, size in held.waiting:
                left -= size
                large = size > CHUNK  # a queue stores it in pieces and its entry last: others would overtake it
                if wanted and (large or left < 0 or len(wanted) == most):
                    break
                wanted.append((number, size))
                if large:
                    break
            found = await self._run(lambda: self._read(held, wanted))  # noqa: B023 - awaited here
            if found:
                return found
        return ()

    def _eldest(self) -> _Held | None:
        return min((each for each in self._held if each.waiting), key=lambda each: each.waiting[0], default=None)

    def _read(self, held: _Held, wanted: Sequence[tuple[int, int]]) -> list[Kept]:
        """In a thread: what can be read of these. The others are put aside."""
        found = []
        for number, octets in wanted:
            try:
                found.append(read(held.folder.path, held.folder.mail(number), number, octets, self._run))
            except FileNotFoundError:
                self._reactor.callFromThread(self._gone, held, number, "somebody has removed it")
            except (Damaged, NewerFormError) as error:
                if isinstance(error, NewerFormError) and not held.own:
                    if not found:
                        self._reactor.callFromThread(self._leave, held, str(error))
                    break
                try:
                    kept = f"it is kept as {held.folder.set_aside(number)}"
                except OSError as trouble:  # who takes the folder over tries again
                    kept = f"it stays there, as it cannot be put aside: {trouble.strerror}"
                self._reactor.callFromThread(self._gone, held, number, f"{error}; {kept}")
        return found

    def _leave(self, held: _Held, why: str) -> None:
        """Let a newer mailfarm have it."""
        if held in self._held:
            self._held.remove(held)
            self._left.add(held.folder.path)
            held.folder.let_go()
            _log.warn("mails in {folder} wait for another process: {why}", folder=str(held.folder), why=why)

    def _gone(self, held: _Held, number: int, why: str) -> None:
        self._forget(held, {number})
        _log.error(
            "mail {number} in {folder} cannot go into the queue: {why}",
            number=number,
            folder=str(held.folder),
            why=why,
        )

    async def forget(self, mails: Sequence[Kept]) -> None:
        """They are in the queue. Raises OSError: then who takes the folder over drains them once more, and they are
        filed once; here what is behind them is next."""
        for held in tuple(self._held):
            numbers = [mail.number for mail in mails if mail.place == held.folder.path]
            if numbers:
                try:
                    await self._run(lambda: held.folder.remove(numbers))  # noqa: B023 - awaited here
                finally:
                    self._forget(held, set(numbers))
                self._metrics.drained.inc(len(numbers))

    async def set_aside(self, mail: Kept, why: str) -> None:
        """The queue will never take it: keep it for a person to look at. Raises OSError."""
        for held in tuple(self._held):
            if mail.place == held.folder.path:
                there = await self._run(lambda: held.folder.set_aside(mail.number))  # noqa: B023 - awaited here
                self._gone(held, mail.number, f"{why}; it is kept as {there}")

    def _forget(self, held: _Held, numbers: set[int]) -> None:
        later = []
        while numbers and held.waiting:
            number, octets = held.waiting.popleft()
            if number in numbers:
                numbers.discard(number)
                if held.own:
                    self._take(-1, -octets)
            else:
                later.append((number, octets))
        held.waiting.extendleft(reversed(later))
        if not held.waiting and not held.own and held in self._held:
            self._held.remove(held)
            self._pool.callInThread(held.folder.let_go)

    def _run(self, work: Callable[[], T]) -> Deferred[T]:
        done: Deferred[T] = deferToThreadPool(self._reactor, self._pool, work)
        return done


def _claimed(path: Path) -> tuple[SpoolFolder, list[tuple[int, int]], int] | None:
    """In a thread: a folder that has no living owner, and what was found in it. Raises OSError, and holds nothing."""
    folder = SpoolFolder.claim(path)
    if folder is None:
        return None
    try:
        return folder, *folder.found()
    except BaseException:
        folder.let_go()  # or nobody could have it for as long as we live
        raise


def _translated(error: OSError, path: Path) -> QueueFull | QueueUnavailable:
    why = error.strerror or os.strerror(error.errno or 0)
    if error.errno in _FULL:
        return QueueFull(f"no queue takes mail, and the disk of {path} is full: {why}")
    return QueueUnavailable(f"no queue takes mail, and it cannot be kept in {path}: {why}")
