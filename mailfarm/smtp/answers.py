"""What follows from the host's answers, and the table of it: the other half of ``commands``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from mailfarm.mail.reply import Reply

from . import replies
from .commands import auth_refused
from .config import capabilities
from .requests import Auth, Data, End, Hello, Mail, Rcpt, StartTls
from .state import BDAT, DATA, HANDSHAKE, SWALLOW, State


def hello(s: State, reply: Reply, question: Hello) -> None:
    if not reply.positive:
        return s.say(reply)  # RFC 5321 §4.1.4: and everything stays as it was
    s.discard()
    s.hello = question
    if question.verb == "HELO":
        return s.say(Reply(250, "", s.config.hostname))
    wire = capabilities(s.config, s.tls, s.authenticated)
    s.out.append(wire)
    s.log.append(wire)
    if reply.close:
        s.close()
    return None


def auth(s: State, reply: Reply, _: Auth) -> None:
    if reply.code == 235:
        s.authenticated = True
        s.say(reply)
    elif reply.code >= 500:
        auth_refused(s, reply)
    else:
        s.say(reply)


def starttls(s: State, reply: Reply, _: StartTls) -> None:
    s.say(reply)
    if reply.positive and not s.closing:
        s.phase = HANDSHAKE


def mail(s: State, reply: Reply, question: Mail) -> None:
    if reply.positive:
        s.mail = question
        s.began = s.now
        s.transactions += 1
    s.say(reply)


def rcpt(s: State, reply: Reply, question: Rcpt) -> None:
    if reply.positive:
        s.recipients.append(question.recipient)
    else:
        s.refused = True
    s.say(reply)


def data(s: State, reply: Reply, _: Data) -> None:
    chunked = s.bdat_size >= 0
    s.fresh = 0
    if reply.positive:
        s.begin_content(dots=not chunked)
        if chunked:
            s.phase = BDAT
        else:
            s.phase = DATA
            s.say(replies.GO_AHEAD)
        return
    s.end_transaction()
    if chunked:
        s.phase = SWALLOW
        s.bdat_reply = reply
    else:
        s.say(reply)


def end(s: State, reply: Reply, _: End) -> None:
    s.end_transaction()
    if reply.positive:
        s.errors = 0
    else:
        s.quiet = False
    s.say(reply)


ANSWERS: Final[dict[type, Callable[[State, Reply, Any], None]]] = {
    Hello: hello,
    Auth: auth,
    StartTls: starttls,
    Mail: mail,
    Rcpt: rcpt,
    Data: data,
    End: end,
}
