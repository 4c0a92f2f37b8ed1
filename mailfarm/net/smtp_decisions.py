"""Asking a Session, one question at a time, and answering for it when it fails.

What a decision raises is bland outside and full in the log. Unknown means temporary.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EDQUOT, ENOSPC
from functools import partial
from typing import Any, Final, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure

from mailfarm.errors import QueueFull, Temporary
from mailfarm.mail.reply import Reply
from mailfarm.smtp.requests import Auth, Data, Discarded, End, Hello, Mail, Question, Rcpt, Refused

from .content import SpillContent
from .driving import WAITING, drive
from .smtp_metrics import SMTPMetrics
from .smtp_session import Answer, Session

FAILED: Final = Reply(451, "4.3.0", "Something failed here; try again later")
NO_ROOM: Final = Reply(452, "4.3.1", "Not enough storage; try again later")
TOO_SLOW: Final = Reply(451, "4.3.0", "This takes too long; try again later")
_COUNTED: Final = frozenset((Rcpt, End, Auth))


class Waiting(Protocol):
    """Who asks, as far as it has to be known here."""

    client: str

    def late(self, decision: Decision) -> None:
        """The answer has come, to a decision that was waited for."""


class Decision:
    """A decision that is waited for. ``question`` None: whether to greet; ``content`` comes with the end of content and
    is closed when that is answered. ``began`` is in seconds, ``reply`` is None until it is there."""

    __slots__ = ("began", "content", "question", "reply", "who")

    def __init__(self, question: Question | None, content: SpillContent | None, began: float) -> None:
        self.question = question
        self.content = content
        self.began = began
        self.reply: Reply | None = None
        self.who: Waiting | None = None


class Asking:
    """Asks the sessions of one listener. ``seconds`` is a clock that does not run backwards."""

    def __init__(self, metrics: SMTPMetrics, log: Logger, seconds: Callable[[], float]) -> None:
        self._metrics = metrics
        self._log = log
        self._seconds = seconds

    def ask(
        self, session: Session, question: Question | None, content: SpillContent | None, who: Waiting
    ) -> Reply | Decision:
        """The answer if it came at once. Otherwise the decision, and ``who.late`` is called with it once it comes."""
        kind = type(question)
        decision: Decision | None = None
        try:
            # of kind mypy does not see that it is the question's type
            if kind is Rcpt:
                answer = session.rcpt(question)  # type: ignore[arg-type]  # it is a Rcpt
            elif kind is Mail:
                answer = session.mail(question)  # type: ignore[arg-type]  # it is a Mail
            elif kind is Data:
                answer = session.data(question.envelope)  # type: ignore[union-attr]  # it is a Data
            else:
                answer = _put(session, question, content)
            if isinstance(answer, Reply):
                outcome: Any = answer
            else:
                decision = Decision(question, content, self._seconds())
                outcome = drive(answer, partial(self._told, decision, who.client))
        except Exception:
            outcome = self._failed(Failure(), question, who.client)
        if outcome is WAITING and decision is not None:
            decision.who = who
            return decision.reply or decision
        reply: Reply = outcome
        if kind in _COUNTED:
            self._count(question, content, reply)
        return reply

    def tell(self, session: Session, discarded: Discarded) -> None:
        """Tell a session that its transaction ended without its content."""
        self._metrics.discarded += 1
        try:
            session.discarded(discarded)
        except Exception:
            self._log.failure("A discarded transaction could not be told")

    def tell_refused(self, session: Session, refused: Refused) -> None:
        """Tell a session what was refused in its name."""
        if refused.recipient:
            self._metrics.recipients[refused.reply.code // 100] += 1
        try:
            session.refused(refused)
        except Exception:
            self._log.failure("A refusal could not be told")

    def _told(self, decision: Decision, client: str, outcome: Any) -> None:
        try:
            question = decision.question
            reply: Reply = self._failed(outcome, question, client) if isinstance(outcome, Failure) else outcome
            self._count(question, decision.content, reply)
            decision.reply = reply
            if decision.who is not None:
                decision.who.late(decision)
        except Exception:
            self._log.failure("A decision could not be answered")

    def _count(self, question: Question | None, content: SpillContent | None, reply: Reply) -> None:
        if isinstance(question, Rcpt):
            self._metrics.recipients[reply.code // 100] += 1
        elif isinstance(question, End):
            self._metrics.message(reply, question.size)
            if content is not None:
                content.close()
        elif isinstance(question, Auth):
            self._metrics.logins[reply.code // 100] += 1

    def _failed(self, failure: Failure, question: Question | None, client: str) -> Reply:
        self._metrics.errors += 1
        error = failure.value
        reply = refusal_for(error)
        asked = "the greeting" if question is None else type(question).__name__
        if isinstance(error, Temporary) or reply is NO_ROOM:
            self._log.warn(
                "{question} of {client} was answered {code}: {why}",
                question=asked,
                client=client,
                code=reply.code,
                why=str(error),
            )
        else:
            self._log.failure(
                "{question} of {client} failed and was answered 451", failure, question=asked, client=client
            )
        return reply if question is not None else closing(reply)


def _put(session: Session, question: Question | None, content: SpillContent | None) -> Answer:
    """Those that do not come with each recipient."""
    if isinstance(question, End):
        assert content is not None
        return session.content(question.envelope, content)
    if isinstance(question, Hello):
        return session.hello(question)
    if question is None:
        return session.connected()
    assert isinstance(question, Auth)
    return session.authenticate(question)


def refusal_for(error: BaseException) -> Reply:
    """What the client hears of an error."""
    full = isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT)
    return NO_ROOM if full or isinstance(error, QueueFull) else FAILED


def closing(reply: Reply) -> Reply:
    """A refusal as a greeting: 421 is what ends a session (RFC 5321 §3.8)."""
    return Reply(421, reply.enhanced, reply.text, close=True)


def brief(failure: Failure) -> str:
    """An error in one short line."""
    return " ".join(str(failure.value).split())[:200] or failure.type.__name__
