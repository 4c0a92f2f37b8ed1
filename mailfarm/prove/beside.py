"""Several targets at a time, each proved by a process of its own, and all told of here.

Such a process is forked, so it knows what we do; what it started ends with it, and it ends with us (prctl(2),
PR_SET_PDEATHSIG). It is out of reach of the terminal: an interrupt is ours, and we hand it on.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait

from .faults import Tell
from .run import Proof

_PR_SET_PDEATHSIG = 1
Begins = Callable[[int], None]
Prove = Callable[[Tell, Begins], Proof]
"""Proves one target: is given what to tell, and what to tell of how many of its faults are over."""


class Worker:
    """One target that is being proved. ``blank`` is what comes of it when its process ends by itself."""

    def __init__(self, blank: Proof, prove: Prove) -> None:
        self._blank = blank
        forking = multiprocessing.get_context("fork")
        self.ear, mouth = forking.Pipe(duplex=False)
        self.process = forking.Process(target=_work, args=(os.getpid(), mouth, prove))
        self.process.start()
        mouth.close()

    def heard(self) -> str | int | Proof:
        """What it said: a line, how many of its faults are over, or, at its end, what came of it."""
        said: str | int | Proof = self._blank
        with suppress(EOFError):
            said = self.ear.recv()
        if isinstance(said, Proof):
            self.process.join()
            self.ear.close()
        if said is self._blank:
            said.broke = f"the process that proves it ended with exit code {self.process.exitcode}"
        return said


def _work(parent: int, mouth: Connection, prove: Prove) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    os.setsid()
    proof = prove(mouth.send, mouth.send)
    for number in (signal.SIGINT, signal.SIGTERM):  # too late for that: it is judged
        signal.signal(number, signal.SIG_IGN)
    mouth.send(proof)


class Workers:
    """Those that work at the same time."""

    def __init__(self) -> None:
        self._by_ear: dict[Connection, tuple[int, Worker]] = {}
        self.interrupted = False

    def __len__(self) -> int:
        return len(self._by_ear)

    def begin(self, number: int, blank: Proof, prove: Prove) -> None:
        """Have the target ``number`` proved beside the others."""
        worker = Worker(blank, prove)
        self._by_ear[worker.ear] = number, worker

    def heard(self) -> Iterator[tuple[int, str | int | Proof]]:
        """Wait until one of them says something: which target's it is, and what. After a proof it is none of them."""
        for ear in wait(list(self._by_ear)):
            assert isinstance(ear, Connection)
            number, worker = self._by_ear[ear]
            said = worker.heard()
            if isinstance(said, Proof):
                del self._by_ear[ear]
            yield number, said

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Hand each SIGINT and SIGTERM on to all of them meanwhile: the first ends their faults, another one their
        judging too."""
        ours = os.getpid()

        def interrupt(number: int, frame: object) -> None:
            if os.getpid() != ours:  # it is one of them that hears it
                raise KeyboardInterrupt
            self.interrupted = True
            for _, worker in self._by_ear.values():
                with suppress(ProcessLookupError):
                    os.kill(worker.process.pid or 0, signal.SIGINT)

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
