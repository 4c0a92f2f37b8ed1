"""Asking a Session, one question at a time, and answering for it when it fails.

What a decision raises is bland outside and full in the log. Unknown means temporary.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EDQUOT, ENOSPC
from typing import Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from mailfarm.errors import QueueFull, Temporary
from mailfarm.mail.reply import Reply
from mailfarm.smtp.requests import Auth, Data, Discarded, End, Hello, Mail, Question, Rcpt, Refused

from .content import SpillContent
from .driving import drive
from .smtp_metrics import SMTPMetrics
from .smtp_session import Answer, Session

FAILED: Final = Reply(451, "4.3.0", "Something failed here; try again later")
NO_ROOM: Final = Reply(452, "4.3.1", "Not enough storage; try again later")
TOO_SLOW: Final = Reply(451, "4.3.0", "This takes too long; try again later")


class Decision:
    """A question and its answer. ``question`` None: whether to greet; ``content`` comes with the end of content and is
    closed when that is answered. ``reply`` is None while it waits, ``late`` is called with this when that ends."""

    __slots__ = ("began", "content", "late", "question", "reply")

    def __init__(self, question: Question | None, began: float, content: SpillContent | None = None) -> None:
        self.question = question
        self.began = began
        self.content = content
        self.reply: Reply | None = None
        self.late: Callable[[Decision], None] | None = None


class Asking:
    """Asks the sessions of one listener."""

    def __init__(self, metrics: SMTPMetrics, log: Logger) -> None:
        self._metrics = metrics
        self._log = log

    def ask(self, session: Session, decision: Decision, client: str) -> Reply | None:
        """The answer if it came at once. Otherwise None, and ``decision.late`` is called once it comes."""
        try:
            answer = _put(session, decision)
            if isinstance(answer, Reply):
                return self._decided(decision, answer)
            waiting = drive(answer)
            if isinstance(waiting, Reply):
                return self._decided(decision, waiting)
        except Exception:
            return self._decided(decision, self._failed(Failure(), decision, client))
        waiting.addErrback(self._failed, decision, client).addCallback(self._arrived, decision).addErrback(
            lambda failure: self._log.failure("A decision could not be answered", failure)
        )
        return decision.reply

    def tell(self, session: Session, discarded: Discarded) -> None:
        """Tell a session that its transaction ended without its content."""
        self._metrics.discarded.inc()
        try:
            session.discarded(discarded)
        except Exception:
            self._log.failure("A discarded transaction could not be told")

    def tell_refused(self, session: Session, refused: Refused) -> None:
        """Tell a session what was refused in its name."""
        if refused.recipient:
            self._metrics.recipient(refused.reply)
        try:
            session.refused(refused)
        except Exception:
            self._log.failure("A refusal could not be told")

    def _arrived(self, reply: Reply, decision: Decision) -> None:
        self._decided(decision, reply)
        if decision.late is not None:
            decision.late(decision)

    def _decided(self, decision: Decision, reply: Reply) -> Reply:
        question = decision.question
        if isinstance(question, Rcpt):
            self._metrics.recipient(reply)
        elif isinstance(question, Auth):
            self._metrics.login(reply)
        elif isinstance(question, End):
            self._metrics.message(reply, question.size)
            if decision.content is not None:
                decision.content.close()
        decision.reply = reply
        return reply

    def _failed(self, failure: Failure, decision: Decision, client: str) -> Reply:
        self._metrics.errors.inc()
        error = failure.value
        reply = refusal_for(error)
        asked = "the greeting" if decision.question is None else type(decision.question).__name__
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
        return reply if decision.question is not None else closing(reply)


def _put(session: Session, decision: Decision) -> Answer:
    question = decision.question
    if isinstance(question, Rcpt):
        return session.rcpt(question)
    if isinstance(question, Mail):
        return session.mail(question)
    if isinstance(question, Hello):
        return session.hello(question)
    if isinstance(question, Data):
        return session.data(question.envelope)
    if isinstance(question, End):
        assert decision.content is not None
        return session.content(question.envelope, decision.content)
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
