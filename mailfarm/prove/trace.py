"""strace beside a process: what it asks of the system, in order, and calls that are made slow, fail or kill.

``Trace`` attaches to processes that run and writes what they call to a file; ``read`` makes ``Call`` values of that
file. One strace that is attached to several processes sees what all of them do in one order: it holds each of them at
every call, so what one did before another heard of it stands before what that one did then.

``inject`` are strace's own expressions, as in ``fdatasync:delay_enter=1500000`` (µs), ``fdatasync:error=EIO`` or
``sendto:signal=SIGKILL:when=7``; they end when it detaches.
"""

from __future__ import annotations

import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from .child import guarded

SENDS = ("write", "writev", "sendto", "sendmsg", "pwrite64", "pwritev")
HEARS = ("read", "recvfrom", "recvmsg")
SYNCS = ("fdatasync", "fsync")
OCTETS = 16 * 1024
"""What is shown of each text, so many octets of it."""
_ATTACHING = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """A system call of a thread. ``fd`` (-1: none) is its first argument, ``file`` the path of that or its connection
    (``TCP:[here->there]``), and ``text`` what stands behind it, as strace writes it. ``entered`` and ``left`` are
    places in the one order of all calls; ``left`` None: it never returned. ``result`` None: unknown, or
    strace said that it succeeded and it never happened."""

    thread: int
    name: str
    fd: int
    file: str
    text: str
    entered: int
    left: int | None
    result: int | None


_LINE = re.compile(r"(?:(\d+) +)?(?:\d+\.\d+ )?(.*)", re.DOTALL)
_BEGUN = re.compile(r"(\w+)\((.*)", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_FILE = re.compile(r"(\d+)<((?:->|[^<>])*)>(.*)", re.DOTALL)
_RESULT = re.compile(r" += (-?\d+|0x[0-9a-f]+|\?)[^\"]*$")
_UNFINISHED = "<unfinished ...>"
_INJECTED = "(INJECTED)"  # strace has answered it, and the system never heard of it


def read(lines: Iterable[str]) -> list[Call]:
    """The calls in what strace -yy wrote, in the order in which they began. Without -f it names no thread: it is 0."""
    calls: list[Call] = []
    open_calls: dict[int, int] = {}  # thread -> place in calls
    for place, line in enumerate(lines):
        match = _LINE.match(line.rstrip("\n"))
        if match is None:
            continue
        thread, said = int(match[1] or 0), match[2]
        if resumed := _RESUMED.match(said):
            at = open_calls.pop(thread, None)
            if at is not None:
                text, result = _ended(resumed[2])
                calls[at] = replace(calls[at], text=calls[at].text + text, left=place, result=result)
        elif begun := _BEGUN.match(said):
            name, rest = begun[1], begun[2]
            file = _FILE.match(rest)
            fd, path, rest = (int(file[1]), file[2], file[3]) if file else (-1, "", rest)
            if rest.endswith(_UNFINISHED):
                open_calls[thread] = len(calls)
                calls.append(Call(thread, name, fd, path, rest.removesuffix(_UNFINISHED), place, None, None))
            else:
                text, result = _ended(rest)
                calls.append(Call(thread, name, fd, path, text, place, place, result))
    return calls


def _ended(rest: str) -> tuple[str, int | None]:
    match = _RESULT.search(rest)
    if match is None:
        return rest, None
    never = match[1] == "?" or (rest.endswith(_INJECTED) and not match[1].startswith("-"))
    return rest[: match.start()], None if never else int(match[1], 0)


class Trace:
    """strace, attached to threads of processes until ``detach``, or until all of them have ended.

    ``calls`` are the names that are followed (empty: all), ``whole`` says whether all threads of a process and what it
    forks are, or no more than the one thread whose id was given. In ``when=N`` each thread counts calls of each name by
    itself. Raises ChildProcessError when it cannot attach.
    """

    def __init__(
        self,
        pids: Sequence[int],
        file: Path,
        *,
        calls: Sequence[str] = (),
        inject: Sequence[str] = (),
        octets: int = OCTETS,
        whole: bool = True,
    ) -> None:
        self.file = file
        command = ["strace", "-yy", "-s", str(octets), "-o", str(file)]
        command += ["-f"] if whole else []
        command += ["-e", f"trace={','.join(calls)}"] if calls else []
        for each in inject:
            command += ["-e", f"inject={each}"]
        for pid in pids:
            command += ["-p", str(pid)]
        self._process = subprocess.Popen(
            guarded(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            self._attached(set(pids))
        except BaseException:
            self._close()
            raise

    def _attached(self, missing: set[int]) -> None:
        """Wait until it says so of every process."""
        assert self._process.stderr is not None
        deadline = time.monotonic() + _ATTACHING
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stderr, selectors.EVENT_READ)
            while missing and selector.select(max(0.0, deadline - time.monotonic())):
                more = self._process.stderr.read1(65536)  # type: ignore[attr-defined]  # a buffered reader
                said += more
                missing -= {int(pid) for pid in re.findall(rb"Process (\d+) attached(?=[ \n])", said)}
                if not more:
                    break
        if missing:
            raise ChildProcessError(f"strace did not attach: {said.decode('utf-8', 'replace').strip()}")

    @property
    def running(self) -> bool:
        """Whether it is attached to something that lives."""
        return self._process.poll() is None

    def ended(self, seconds: float) -> bool:
        """Wait until all that it is attached to has ended. Whether it has."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def detach(self) -> list[Call]:
        """Let go of what lives still, and return what was called. May be called again."""
        if self.running:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_ATTACHING)
        finally:
            self._close()
        with open(self.file, encoding="utf-8", errors="replace") as lines:
            return read(lines)

    def _close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def missing() -> str:
    """Why nothing can be traced here; empty if it can."""
    if shutil.which("strace") is None:
        return "there is no strace on this machine: install the package strace"
    return ""


def threads(pid: int) -> list[int]:
    """The ids of a process's threads, the oldest first."""
    return sorted(int(each.name) for each in Path(f"/proc/{pid}/task").iterdir())


def children(pid: int) -> list[int]:
    """The ids of the processes that a process has forked."""
    return [int(child) for thread in threads(pid) for child in _forked(pid, thread)]


def _forked(pid: int, thread: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
