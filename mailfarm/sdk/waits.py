"""Waiting for messages, without I/O: what is handed out, what is asked, what a wait in vain says.

Each inbox object hands a message out once: a second wait with the same criteria waits for the next message that meets
them. It remembers the ids it has handed out and, for each criteria, the change number up to which every match has been
handed out, which is where the next wait begins. ``after=`` overrides both.

The server does the waiting (a long poll). A wait longer than ``LONGEST_POLL`` is asked for in pieces. A connection that
is cut and a server that is busy or restarting are borne until the deadline: the next piece looks first, so that nothing
that came meanwhile is missed. Where the last piece failed, one last look decides.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from . import checks
from .errors import NoSuchMailbox, UnexpectedMessage, WaitTimeout, problem_error
from .plain import line, seconds
from .values import MailboxState, NearMiss, Refusal, Summary
from .verbs import Criteria, Verbs, as_time
from .wire import BUSY, FIRST_PAUSE, LONGEST_PAUSE, Failure, Pause, Request, Response, Steps, segment

LONGEST_POLL: Final = 60.0
"""The server allows 300 s. Shorter pieces notice sooner that the other end has silently gone."""
GRACE: Final = 10.0
"""Seconds an answer may be late before the connection counts as cut."""
WAIT: Final = 10.0
CRITERIA_KEPT: Final = 256
LISTED: Final = 10


@dataclass(slots=True)
class Handed:
    """What one inbox object has handed out."""

    ids: dict[str, object] = field(default_factory=dict)
    start: int = 0
    _after: OrderedDict[Criteria, int] = field(default_factory=OrderedDict)

    def after(self, criteria: Criteria) -> int:
        """The change number after which there may be a match that was not handed out."""
        return max(self.start, self._after.get(criteria, 0))

    def advance(self, criteria: Criteria, seq: int) -> None:
        """Every match up to ``seq`` has been handed out."""
        self._after[criteria] = max(seq, self._after.get(criteria, 0))
        self._after.move_to_end(criteria)
        if len(self._after) > CRITERIA_KEPT:  # forgotten ones are found again by id, only more slowly
            self._after.popitem(last=False)

    def note(self, summaries: Sequence[Summary]) -> None:
        """These are handed out, whether or not they were before."""
        for summary in summaries:
            self.ids.setdefault(summary.id, self)

    def claim(self, summaries: Sequence[Summary]) -> bool:
        """Hand these out, all or none: another thread or task may have had one meanwhile."""
        mine = object()
        for number, summary in enumerate(summaries):
            if self.ids.setdefault(summary.id, mine) is not mine:  # one step, so that two threads never both have it
                for earlier in summaries[:number]:
                    del self.ids[earlier.id]
                return False
        return True


@dataclass(frozen=True, slots=True)
class Answer:
    """How one wait ended. ``messages`` are the matches after the number asked for, in their order."""

    kind: Literal["found", "timeout", "too-many"]
    messages: tuple[Summary, ...]
    cursor: int
    near_misses: tuple[NearMiss, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    problem: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Waits:
    """The waits of one inbox object."""

    verbs: Verbs
    mailbox: MailboxState
    handed: Handed = field(default_factory=Handed)
    longest_poll: float = LONGEST_POLL

    def wait_for_all(
        self, count: int, criteria: Criteria, timeout: float, after: int | None, exact: bool = False
    ) -> Steps[list[Summary]]:
        """The first ``count`` matches that were not handed out; with ``exact``, no more may come until the end."""
        __tracebackhide__ = True
        if count == 0:
            raise ValueError("count must be 1 or more; to be sure that none comes use assert_none")
        checks.whole("count", count, 1)
        checks.span("timeout", timeout)
        if after is not None:
            checks.whole("after", after)
        deadline = self.verbs.clock() + timeout
        start = self.handed.after(criteria) if after is None else after
        skip = 0
        while True:
            need = ("exact" if exact else "count", str(count + skip))
            answer = yield from self._poll(criteria, need, start, deadline)
            fresh = [m for m in answer.messages if after is not None or m.id not in self.handed.ids]
            if exact and len(fresh) > count:
                raise UnexpectedMessage(self._too_many(count, criteria, timeout, fresh), messages=fresh)
            if answer.kind == "timeout":
                raise (yield from self._in_vain(count, criteria, timeout, after, answer, fresh))
            if len(fresh) >= count and answer.kind == "found":
                if after is not None:
                    self.handed.note(fresh[:count])
                    return fresh[:count]
                if self.handed.claim(fresh[:count]):
                    self._advance(criteria, answer.messages)
                    return fresh[:count]
            # some of the matches were handed out before: go on past those, and ask for as many more
            start = max(start, self._advance(criteria, answer.messages))
            skip = sum(1 for m in answer.messages if m.seq > start and m.id in self.handed.ids)

    def assert_none(self, criteria: Criteria, within: float, after: int | None) -> Steps[None]:
        """No match that was not handed out may be there, or come within so many seconds."""
        __tracebackhide__ = True
        checks.span("within", within)
        if after is not None:
            checks.whole("after", after)
        deadline = self.verbs.clock() + within
        start = self.handed.after(criteria) if after is None else after
        while True:
            answer = yield from self._poll(criteria, ("none", "true"), start, deadline)
            fresh = [m for m in answer.messages if after is not None or m.id not in self.handed.ids]
            if fresh:
                raise UnexpectedMessage(self._too_many(0, criteria, within, fresh), messages=fresh)
            if answer.kind == "found":
                return
            start = max((m.seq for m in answer.messages), default=answer.cursor)

    def skip_existing(self) -> Steps[None]:
        """From now on only what comes after this moment counts."""
        __tracebackhide__ = True
        state = yield from self.verbs.mailbox(self.mailbox.id)
        self.handed.start = max(self.handed.start, state.cursor)

    def _advance(self, criteria: Criteria, messages: Sequence[Summary]) -> int:
        """Go on past the matches at the front that have been handed out."""
        seq = 0
        for message in messages:
            if message.id not in self.handed.ids:
                break
            seq = message.seq
        if seq:
            self.handed.advance(criteria, seq)
        return seq

    def _poll(self, criteria: Criteria, need: tuple[str, str], after: int, deadline: float) -> Steps[Answer]:
        """One wait at the server, until the deadline, in as many requests as it takes."""
        __tracebackhide__ = True
        verbs, server = self.verbs, self.verbs.server
        path = f"/v1/mailboxes/{segment(self.mailbox.id)}/wait"
        pause, last_look = FIRST_PAUSE, False
        while True:
            left = max(deadline - verbs.clock(), 0.0)
            piece = min(left, self.longest_poll)
            query = (*criteria.query(), need, ("after", str(after)), ("timeout", f"{piece:.3f}"))
            request = Request("GET", path, query, timeout=piece + GRACE)
            try:
                response: Response = yield request
            except Failure as failure:
                if last_look or not (server.reached or failure.sent):
                    raise server.unreachable(failure) from failure
            else:
                server.reached = True
                answer = _answer(response, request)
                if answer is not None:
                    chained = answer.kind == "timeout" or (answer.kind == "found" and need[0] in ("exact", "none"))
                    if not chained or piece >= left:
                        return answer
                    pause = FIRST_PAUSE
                    continue
                if last_look:
                    raise problem_error(response.status, response.problem(), str(request))
                pause = response.retry_after(pause)
            left = deadline - verbs.clock()
            last_look = left <= pause
            yield Pause(min(pause, max(left, 0.01)))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _in_vain(
        self,
        count: int,
        criteria: Criteria,
        timeout: float,
        after: int | None,
        answer: Answer,
        fresh: Sequence[Summary],
    ) -> Steps[WaitTimeout]:
        """The error that says what did arrive."""
        holds: int | None = None
        with suppress(NoSuchMailbox):
            holds = (yield from self.verbs.mailbox(self.mailbox.id)).messages
        what = "no message" if count == 1 else f"{len(fresh)} of {count} messages"
        lines = [f"{what}{_with(criteria)} reached {self.mailbox.address} within {seconds(timeout)}"]
        if holds is None:
            lines.append("The mailbox is gone.")
        elif holds == 0:
            lines.append("The mailbox is empty: nothing has arrived at all.")
        else:
            lines.append(f"The mailbox holds {holds} message{'s' if holds > 1 else ''}.")
        lines += _listed("These did arrive:", [_shown(m) for m in fresh] if count > 1 else [])
        lines += _listed(
            "These came near:",
            [f"{_shown(miss.message)}: not the {' nor the '.join(miss.failed)}" for miss in answer.near_misses],
        )
        if after is None and self.handed.ids:
            earlier = len(self.handed.ids)
            lines.append(
                f"{earlier} message{'s were' if earlier > 1 else ' was'} handed out before by this inbox object, and "
                "each is handed out once (after=0 looks at all again)."
            )
        elif after:
            lines.append(f"Only messages after number {after} were looked at.")
        for refusal in answer.refusals[-3:]:
            lines.append(f"Refused at {as_time(refusal.at)}: {refusal}")
            lines += [f"    {line(said, 200)}" for said in refusal.lines[-8:]]
        return WaitTimeout(
            "\n".join([lines[0], *(f"  {text}" for text in lines[1:])]),
            messages=fresh,
            near_misses=answer.near_misses,
            refusals=answer.refusals,
            in_mailbox=holds,
            cursor=answer.cursor,
            problem=answer.problem,
        )

    def _too_many(self, count: int, criteria: Criteria, timeout: float, fresh: Sequence[Summary]) -> str:
        wanted = "no message" if count == 0 else f"exactly {count} message{'s' if count > 1 else ''}"
        head = (
            f"{wanted}{_with(criteria)} should have reached {self.mailbox.address} within {seconds(timeout)}, "
            f"but {len(fresh)} did"
        )
        return "\n  ".join([head, *_listed("", [_shown(m) for m in fresh])])


def _answer(response: Response, request: Request) -> Answer | None:
    """What the server said; None when it says to try again."""
    __tracebackhide__ = True
    if response.status in BUSY:
        return None
    form = response.json() if response.status == 200 else response.problem()
    name = str(form.get("type", "")).rpartition("/")[2]
    kind: Literal["found", "timeout", "too-many"]
    if response.status == 200:
        kind = "found"
    elif response.status == 408 and name == "wait-timed-out":
        kind = "timeout"
    elif response.status == 409 and name == "too-many-messages":
        kind = "too-many"
    elif response.status == 408:  # a proxy's
        return None
    else:
        raise problem_error(response.status, form, str(request), NoSuchMailbox)
    return Answer(
        kind,
        tuple(sorted(map(Summary.of, form["messages"]), key=lambda summary: summary.seq)),
        form["cursor"],
        tuple(map(NearMiss.of, form.get("near_misses", ()))),
        tuple(sorted(map(Refusal.of, form.get("refusals", ())), key=lambda refusal: refusal.at)),
        form if response.status != 200 else {},
    )


def _with(criteria: Criteria) -> str:
    return f" with {criteria}" if criteria.query() else ""


def _shown(summary: Summary) -> str:
    return f"{summary} to {line(', '.join(summary.recipients), 60)} at {as_time(summary.received_at)}"


def _listed(head: str, items: Sequence[str]) -> list[str]:
    """At most ``LISTED`` items under a head."""
    if not items:
        return []
    rest = [f"  … and {len(items) - LISTED} more"] if len(items) > LISTED else []
    return ([head] if head else []) + [f"  {item}" for item in items[:LISTED]] + rest
