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

from mailfarm.errors import ConfigurationError, Damaged, QueueUnavailable, Temporary
from mailfarm.ports import Spooled

from .spool_entry import beginning
from .spool_folder import SpoolFolder, damaged, on_disk, others
from .spool_form import NewerFormError
from .spool_keeping import Keeping
from .spool_metrics import SpoolMetrics
from .spool_read import Kept, UnreadableError, read
from .spool_room import FULL, SpoolRoom, translated
from .spool_waiting import TRIES, Waiting

T = TypeVar("T")

_OURS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no fault of a mail's
_THREADS: Final = 3  # one keeps, one writes large content, one reads

_log = Logger(namespace="mailfarm.spool")


@dataclass(slots=True)
class _Held:
    """A folder we hold, and what waits in it. ``unreadable``: so was the last one that others were let past."""

    folder: SpoolFolder
    own: bool
    waiting: Waiting = field(default_factory=Waiting)
    unreadable: bool = False


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
        self._room = SpoolRoom(path, reactor.seconds, max_octets=max_octets, max_entries=max_entries, reserve=reserve)
        self._pool = ThreadPool(0, _THREADS, "spool")
        self._own: _Held | None = None
        self._held: list[_Held] = []
        self._left: set[Path] = set()  # what only a newer mailfarm can read
        self._closed: set[Path] = set()  # what cannot be looked into, which is said once
        self._keeping: Keeping | None = None
        self._retrying = False
        self._metrics = SpoolMetrics(
            registry, lambda: self.depth[0], lambda: self.depth[1], self.oldest_age, lambda: self.passed_over
        )

    async def start(self) -> None:
        """Make the folder, and take over what has no owner: that also where the disk is full, or it would stay so.
        Raises ConfigurationError."""
        self._pool.start()
        try:
            try:
                await self._open()
            except OSError as error:
                if error.errno not in FULL:
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
        if own is not None and not await self._run(own.folder.path.exists) and not self._room.entries:
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
        """Whether mail of this process' own waits in line, or is being kept."""
        return self._room.entries > (0 if self._own is None else len(self._own.waiting.passed))

    @property
    def depth(self) -> tuple[int, int]:
        """Mails that wait in all folders we hold, and their octets on the disk."""
        waiting = [each.waiting for each in self._held]
        return sum(map(len, waiting)), sum(each.octets for each in waiting)

    @property
    def passed_over(self) -> int:
        """How many of them others go past, since they were tried in vain."""
        return sum(len(each.waiting.passed) for each in self._held)

    @property
    def ready(self) -> bool:
        """Whether there is one that may be tried now."""
        now = self._reactor.seconds()
        return any(each.waiting.in_line or each.waiting.due(now) for each in self._held)

    def oldest_age(self) -> float:
        """Seconds for which the oldest has waited; 0 when none does."""
        first = min((each.waiting.oldest for each in self._held if each.waiting.oldest is not None), default=None)
        return 0.0 if first is None else max(0.0, (self._clock() - first) / 1_000_000)

    async def is_empty(self) -> None:
        """For who asks how the process is. Raises Temporary while mail waits."""
        entries, octets = self.depth
        if entries:
            text = (
                f"{entries} mails wait on this machine's disk for the queue, {octets} octets, the oldest for "
                f"{self.oldest_age():.0f} s"
            )
            if passed := self.passed_over:
                whys = [each.why for held in self._held for each in held.waiting.passed.values()]
                text += f"; others go past {passed} of them: {whys[-1]}"
            raise Temporary(text)

    # Keeping

    def check(self, size: int) -> None:
        """Whether content of ``size`` octets (0: unknown) would find room. Raises QueueFull, QueueUnavailable."""
        if self._own is None:
            raise QueueUnavailable("the local spool is not open")
        self._room.check(size)

    async def put(self, spooled: Spooled) -> None:
        """Returns when the mail would survive a power cut. Raises QueueFull, QueueUnavailable, Invalid, and what the
        content raises."""
        start = beginning(spooled)
        octets = on_disk(len(start) + spooled.content.size)
        self.check(octets)
        own, keeping = self._own, self._keeping
        assert own is not None
        assert keeping is not None
        first = not self._room.entries
        self._room.take(1, octets)
        try:
            number = await keeping.keep(start, spooled)
        except OSError as error:
            self._room.take(-1, -octets)
            raise translated(error, self.path) from None
        except BaseException:
            self._room.take(-1, -octets)
            raise
        own.waiting.append(number, octets)
        self._metrics.stored.inc()
        if first:
            _log.warn(
                "no queue takes mail: it is kept in {folder}, and goes into the queue once one does",
                folder=str(own.folder),
            )
        self.heard()

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
            self._held.append(_Held(folder, own=False, waiting=Waiting(mails)))
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
        """The oldest mails in line, all of one folder, in order: ``most`` of them and so many octets on the disk at
        most, or a large one alone; every other time one that others went past, if one may be tried again. None only if
        there is none that can be read. They stay until ``forget``. Raises OSError."""
        while some := self._some(most, octets):
            held, wanted = some
            try:
                found = await self._run(partial(self._read, held, wanted))
            except UnreadableError as error:
                tries = 1 if held.unreadable else TRIES  # what is wrong with many is not waited for with each
                if not self._refused(held, error.number, str(error), tries):
                    raise OSError(error.errno, str(error)) from None
                held.unreadable = True
                continue
            if found:
                held.unreadable = False
                return found
        return ()

    def _some(self, most: int, octets: int) -> tuple[_Held, Sequence[tuple[int, int]]] | None:
        """What is tried next."""
        now = self._reactor.seconds()
        self._retrying = not self._retrying
        line = [each for each in self._held if each.waiting.in_line]
        if self._retrying or not line:
            for each in self._held:
                if due := each.waiting.due(now):
                    return each, (due,)
        held = min(line, key=lambda each: each.waiting.first or 0, default=None)
        return None if held is None else (held, held.waiting.window(most, octets))

    def refused(self, mail: Kept, why: str) -> bool:
        """The queue has room, and not for this one. Whether others go past it from now on, until it is tried again."""
        held = next((each for each in self._held if mail.place == each.folder.path), None)
        return held is not None and self._refused(held, mail.number, why, TRIES)

    def _refused(self, held: _Held, number: int, why: str, tries: int) -> bool:
        pause = held.waiting.refused(number, why, self._reactor.seconds(), tries)
        if pause:
            _log.error(
                "mail {number} in {folder} is passed over and tried again in {pause:g} s: {why}",
                number=number,
                folder=str(held.folder),
                pause=pause,
                why=why,
            )
        return pause > 0

    def _read(self, held: _Held, wanted: Sequence[tuple[int, int]]) -> list[Kept]:
        """In a thread: what can be read of these. The others are put aside."""
        found = []
        for number, octets in wanted:
            try:
                found.append(read(held.folder.path, held.folder.mail(number), number, octets, self._run))
            except FileNotFoundError:
                self._reactor.callFromThread(self._gone, held, number, "somebody has removed it")
            except OSError as error:
                if found:
                    break
                if error.errno in _OURS:
                    raise
                raise UnreadableError(number, error) from None
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
                    await self._run(partial(held.folder.remove, numbers))
                finally:
                    self._forget(held, set(numbers))
                self._metrics.drained.inc(len(numbers))

    async def set_aside(self, mail: Kept, why: str) -> None:
        """The queue will never take it: keep it for a person to look at. Raises OSError."""
        for held in tuple(self._held):
            if mail.place == held.folder.path:
                there = await self._run(partial(held.folder.set_aside, mail.number))
                self._gone(held, mail.number, f"{why}; it is kept as {there}")

    def _forget(self, held: _Held, numbers: set[int]) -> None:
        for octets in held.waiting.forget(numbers):
            if held.own:
                self._room.take(-1, -octets)
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
