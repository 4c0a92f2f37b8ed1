"""The order oracle: what was confirmed was synced before, read from the system calls of those who did it.

A kill proves little, because what was written and not synced is in the kernel's memory and survives it; only a power
cut would lose it. So this looks at the calls themselves (``trace.read``). Each function returns a ``Step`` for every
confirmation it finds, with what is wrong about it. One trace holds all processes of a step.

=================  ===============================================================================================
``spooled``        mx says 250 to what Redis has synced: the entry is written to the append-only file, that is synced,
                   and then 250 leaves.
``redis_answers``  Redis answers nobody while there is something in its append-only file that is not synced.
``committed``      PostgreSQL says COMMIT to the unit that files a message when its write-ahead log was synced since it
                   was asked to.
``ended``          The queue's entry is ended after that, never before.
``logged``         SQLite: nothing in the log is unsynced when 250 leaves. For mail that comes one at a time.
=================  ===============================================================================================

Messages are found by their spool id, which is in the 250, in the entry, and in the unit that files it: they have to be
small, or what strace shows of a call does not reach it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .trace import HEARS, SENDS, SYNCS, Call

_SPOOLED = re.compile(r'"250 2\.0\.0 spooled as ([0-9a-z]+)')
_AOF = ".aof"
_WAL = "/pg_wal/"
_LOG = "-wal"
_FORGOTTEN = re.compile(r"HDEL\\r\\n\$\d+\\r\\n[^\\]+:ids(.*?)(?:\\r\\n\*|\"|$)")
_COMMITTED = r"COMMIT\0"
_ANSWER = "TCP"


@dataclass(frozen=True, slots=True)
class Step:
    """Something was confirmed: of which message (a spool id, or empty), and ``wrong``, empty if the order was right."""

    id: str
    wrong: str


def spooled(calls: Sequence[Call]) -> list[Step]:
    """For each 250 behind content: whether Redis had synced the entry."""
    steps = []
    for said, id in _confirmations(calls):
        written = next((call for call in calls if _writes(call, _AOF) and id in call.text), None)
        if written is None:
            wrong = "its entry was not written to the append-only file"
        else:
            wrong = _unsynced(calls, _AOF, written, said)
        steps.append(Step(id, wrong))
    return steps


def redis_answers(calls: Sequence[Call]) -> list[Step]:
    """For each answer of a Redis after it had written to its append-only file: whether all of that was synced."""
    steps = []
    servers = {call.thread for call in calls if _writes(call, _AOF)}
    for server in servers:
        own = [call for call in calls if call.thread == server or call.name in SYNCS]
        wrote = False
        for call in own:
            if _writes(call, _AOF):
                wrote = True
            elif wrote and call.thread == server and call.name in SENDS and call.file.startswith(_ANSWER):
                wrong = _dirty(own, _AOF, call)
                steps.append(Step("", wrong))
                wrote = bool(wrong)
    return steps


def committed(calls: Sequence[Call]) -> list[Step]:
    """For each message that was confirmed with 250 and filed: whether its unit's COMMIT was synced when it was
    answered. One whose unit was not asked for is not among them."""
    return [step for _, step in _commits(calls)]


def ended(calls: Sequence[Call]) -> list[Step]:
    """For each message whose entry was ended: whether its COMMIT had been answered before."""
    answered = {step.id: answer for answer, step in _commits(calls)}
    steps = []
    for _, id in _confirmations(calls):
        for call in calls:
            if _writes(call, _AOF) and _ends(call.text, id):
                answer = answered.get(id)
                late = answer is None or answer.entered > call.entered
                steps.append(Step(id, "its entry was ended before COMMIT was answered" if late else ""))
                break
    return steps


def logged(calls: Sequence[Call], confirms: Callable[[Call], bool] | None = None) -> list[Step]:
    """For each 250 behind content (or each call that ``confirms``): whether SQLite's log was synced."""
    found = list(_confirmations(calls)) if confirms is None else [(call, "") for call in calls if confirms(call)]
    return [Step(id, _dirty(calls, _LOG, said)) for said, id in found]


def _confirmations(calls: Sequence[Call]) -> Iterator[tuple[Call, str]]:
    for call in calls:
        if call.name in SENDS and call.file.startswith(_ANSWER) and (match := _SPOOLED.search(call.text)):
            yield call, match[1]


def _commits(calls: Sequence[Call]) -> Iterator[tuple[Call, Step]]:
    """The answer to the COMMIT that filed a message, and whether the log was synced between its question and it."""
    for _, id in _confirmations(calls):
        backends = {call.thread for call in calls if _files(call, id)}
        for backend in sorted(backends):
            asked: Call | None = None
            for call in calls:
                if call.thread != backend or call.left is None:
                    continue
                if call.name in HEARS and (call.result or 0) > 0 and call.file.startswith(_ANSWER):
                    asked = call if asked is not None or _files(call, id) else None
                elif asked and call.name in SENDS and _COMMITTED in call.text:
                    yield call, Step(id, _unsynced(calls, _WAL, asked, call))
                    break


def _files(call: Call, id: str) -> bool:
    """Whether a backend of PostgreSQL hears a statement about a message with values: a unit that writes."""
    return call.name in HEARS and call.file.startswith(_ANSWER) and id in call.text and _BIND in call.text


_BIND = r"\0m"


def _writes(call: Call, file: str) -> bool:
    return call.name in SENDS and file in call.file


def _ends(text: str, id: str) -> bool:
    """Whether an entry is taken out of the queue for good here: its id is forgotten."""
    return any(id in forgotten[1] for forgotten in _FORGOTTEN.finditer(text))


def _synced(calls: Sequence[Call], file: str, after: int, before: int) -> bool:
    """Whether a sync of the file began after one place and had succeeded before another."""
    return any(
        call.name in SYNCS
        and file in call.file
        and call.result == 0
        and call.entered > after
        and call.left is not None
        and call.left < before
        for call in calls
    )


def _unsynced(calls: Sequence[Call], file: str, written: Call, said: Call) -> str:
    """What is wrong when ``said`` confirms what was ``written``, or asked for."""
    if written.left is None or written.left > said.entered:
        return "it was confirmed before it was written"
    if not _synced(calls, file, written.left, said.entered):
        return "it was confirmed without a sync"
    return ""


def _dirty(calls: Sequence[Call], file: str, said: Call) -> str:
    """What is wrong when ``said`` confirms all that was written to the file before it."""
    last = None
    for call in calls:
        if call.entered >= said.entered:
            break
        if _writes(call, file):
            last = call
    if last is None:
        return "nothing was written before it"
    return _unsynced(calls, file, last, said)
