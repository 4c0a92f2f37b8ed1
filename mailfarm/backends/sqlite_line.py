"""What waits to be written, and which of two threads has the connection that writes.

Most jobs are run and committed by the writer's thread. A statement lets the interpreter lock go, and the writer then
waits for it up to 5 ms, while the reactor's thread works on the next mail. So small jobs that come by the thousand are
*gathered*: the reactor's thread runs them itself, one group at a time, and the writer's thread only commits. ::

    reactor                                  writer
    take_gathered ── the connection is the reactor's
    begun ─────────────────────────────────► next_turn: commits it, with what else waits
                                             let_go ── the connection is for either

Who gathers tries ``take_gathered`` again whenever the writer has let go. What was gathered is the writer's all the same
where it has other jobs to run, at the end, and when the reactor's thread does not come for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition

from mailfarm.errors import DatabaseUnavailable

from .sqlite_group import Job

GATHERED = 64
"""Jobs in a group of the reactor's thread at most, ..."""
GATHERED_OCTETS = 1024 * 1024
"""... and their octets, unless it is one that is larger: it is held up for a few milliseconds."""

_NONE: deque[Job] = deque()


class Line:
    """At most ``max_jobs`` jobs and ``max_octets`` octets of theirs wait at once, or are being written."""

    def __init__(self, max_jobs: int, max_octets: int) -> None:
        self._max_jobs = max_jobs
        self._max_octets = max_octets
        self._ready = Condition()  # and the lock of all below
        self._jobs = 0
        self._octets = 0
        self._waiting: deque[Job] = deque()
        self._gathered: deque[Job] = deque()
        self._begun: list[Job] | None = None
        self._free = True
        self._closing = False
        self.over = False
        """Nothing waits, and nothing will."""

    @property
    def filled(self) -> float:
        """The part of what may wait that does."""
        return max(self._jobs / self._max_jobs, self._octets / self._max_octets)

    @property
    def gathered(self) -> bool:
        """Whether something waits for the reactor's thread."""
        return bool(self._gathered)

    def add(self, job: Job, *, gather: bool = False) -> None:
        """Raises DatabaseUnavailable when it is full, or closed."""
        with self._ready:
            if self._closing:
                raise DatabaseUnavailable("the database is closed")
            if self._jobs >= self._max_jobs:
                raise DatabaseUnavailable(f"{self._jobs} jobs already wait for the database")
            # one job larger than the cap may wait alone: what it holds is in memory already
            if self._octets and self._octets + job.size > self._max_octets:
                raise DatabaseUnavailable(f"{self._octets} octets already wait for the database")
            self._jobs += 1
            self._octets += job.size
            if gather:
                self._gathered.append(job)
            else:
                self._waiting.append(job)
                self._ready.notify()

    def ended(self, jobs: Sequence[Job]) -> None:
        """These were written, or have failed."""
        with self._ready:
            self._jobs -= len(jobs)
            self._octets -= sum(job.size for job in jobs)

    def close(self) -> None:
        """Take no more."""
        with self._ready:
            self._closing = True
            self._ready.notify()

    # The reactor's thread

    def take_gathered(self) -> list[Job]:
        """A group, and the connection with it; empty when there is none, or the writer has the connection."""
        with self._ready:
            group: list[Job] = []
            if not self._free or not self._gathered:
                return group
            self._free = False
            octets = 0
            while self._gathered and len(group) < GATHERED and octets < GATHERED_OCTETS:
                group.append(self._gathered.popleft())
                octets += group[-1].size
            return group

    def begun(self, group: list[Job]) -> None:
        """Its statements have run: the connection is the writer's, to commit."""
        with self._ready:
            self._begun = group
            self._ready.notify()

    def not_begun(self, group: Sequence[Job]) -> None:
        """It could not begin: the writer is to run it like any other."""
        with self._ready:
            self._free = True
            self._waiting.extendleft(reversed(group))
            self._ready.notify()

    # The writer's thread

    def next_turn(self, rest: Callable[[], float | None]) -> tuple[list[Job] | None, Job | None]:
        """A group to be committed, or the first job of one, or neither: all is ``over``, or nothing came for ``rest``
        seconds. Either way the connection is the writer's."""
        rested = False
        with self._ready:
            while True:
                begun, self._begun = self._begun, None
                if begun is not None:
                    return begun, None
                if self._free:
                    line = self._waiting or (self._gathered if self._closing or rested else _NONE)
                    if line or self._closing or rested:
                        self._free = False
                        self.over = not line and self._closing
                        return None, line.popleft() if line else None
                rested = not self._ready.wait(rest())

    def next_waiting(self) -> Job | None:
        """Another job for a group that was begun."""
        with self._ready:
            return self._waiting.popleft() if self._waiting else None

    def next_any(self) -> Job | None:
        """Another job for a group of the writer's own."""
        with self._ready:
            line = self._waiting or self._gathered
            return line.popleft() if line else None

    def let_go(self) -> bool:
        """The connection is for either thread. Whether something was gathered meanwhile."""
        with self._ready:
            self._free = True
            return bool(self._gathered)
