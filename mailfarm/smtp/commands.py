"""The commands of RFC 5321 §4.1 and its extensions, and the table of them: what each one does before the host decides.

A command is given the session and its argument, the octets behind the verb's space. It answers the client itself
(``fail``, ``say``) or asks the host (``ask``); what follows from the host's answer stands in ``answers``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from mailfarm.mail.envelope import Recipient
from mailfarm.mail.reply import Reply

from . import grammar, replies, sasl
from .requests import Auth, Data, Hello, Mail, Rcpt, StartTls
from .state import BDAT, RESPONSE, SWALLOW, State

Command = Callable[[State, bytes], None]

MAX_AUTH_FAILURES: Final = 3


def ehlo(s: State, argument: bytes) -> None:
    _hello(s, argument, "EHLO")


def helo(s: State, argument: bytes) -> None:
    _hello(s, argument, "HELO")


def mail(s: State, argument: bytes) -> None:
    config = s.config
    if s.mail is not None:
        return s.fail(replies.MAIL_NESTED)
    wire_line = s.log[-1]  # the transcript is of one transaction
    s.log.clear()
    s.log.append(wire_line)
    if s.hello is None:
        return s.fail(replies.HELLO_FIRST)
    if config.max_transactions and s.transactions >= config.max_transactions:  # RFC 9422 §4, MAILMAX
        return s.say(replies.TOO_MANY_TRANSACTIONS)
    try:
        request = grammar.mail(argument, config)
    except grammar.Malformed as error:
        return s.refuse(error.reply, grammar.said(argument, b"FROM:"))
    if request.size is not None and request.size > config.max_size:  # RFC 1870 §6.1
        return s.refuse(replies.TOO_BIG, request.sender)
    if s.hello.verb == "HELO":
        # RFC 5321 §2.2.1: parameters are for those who said EHLO. Some clients send SIZE all the same, hence not 555.
        if not request.sender.isascii():
            return s.refuse(grammar.NEEDS_SMTPUTF8, request.sender)
        request = Mail(request.sender)
    return s.ask(request)


def rcpt(s: State, argument: bytes) -> None:
    if s.mail is None:
        return s.fail(replies.MAIL_FIRST)
    if s.envelope is not None:
        return s.fail(replies.CONTENT_BEGUN)
    try:
        request = grammar.rcpt(argument, s.config, s.mail.smtputf8)
    except grammar.Malformed as error:
        s.refused = True
        return s.refuse(error.reply, s.mail.sender, grammar.said(argument, b"TO:"))
    if len(s.recipients) >= s.config.max_recipients:  # RFC 5321 §4.5.3.1.10
        return s.refuse(replies.TOO_MANY_RECIPIENTS, s.mail.sender, request.recipient.address)
    if s.hello is not None and s.hello.verb == "HELO":
        request = Rcpt(Recipient(request.recipient.address), request.route)
    return s.ask(request)


def data(s: State, argument: bytes) -> None:
    if argument.strip():
        return s.fail(replies.NO_ARGUMENT)
    if s.mail is None:
        return s.fail(replies.MAIL_FIRST)
    if s.envelope is not None:
        return s.fail(replies.CONTENT_BEGUN)
    if not s.recipients:
        return s.fail(replies.NO_RECIPIENTS if s.refused else replies.RCPT_FIRST)
    s.bdat_size = -1
    return s.ask(Data(s.fix_envelope()))


def bdat(s: State, argument: bytes) -> None:
    # RFC 3030 §2: whatever the answer, so many octets follow, and none of them is a command
    parsed = grammar.bdat(argument)
    if parsed is None:
        return s.fail(replies.BDAT_SYNTAX)
    size, last = parsed
    if size > 2 * s.config.max_size:
        # nobody means to send that; to swallow it would keep the session until the transaction's time is over
        s.discard(replies.TOO_BIG_TO_READ)
        return s.say(replies.TOO_BIG_TO_READ)
    s.bdat_size = s.bdat_left = size
    s.bdat_last = last
    s.bdat_reply = None
    s.fresh = 0
    if s.mail is None:
        s.began = s.now
    if not s.config.chunking:
        s.bdat_reply = replies.NO_CHUNKING
    elif s.mail is None:
        s.bdat_reply = replies.MAIL_FIRST
    elif not s.recipients:
        s.bdat_reply = replies.NO_RECIPIENTS if s.refused else replies.RCPT_FIRST
    elif size + (s.content.size if s.content is not None and s.envelope is not None else 0) > s.config.max_size:
        s.bdat_reply = replies.TOO_BIG
    if s.bdat_reply is not None:
        s.phase = SWALLOW
    elif s.envelope is None:
        s.ask(Data(s.fix_envelope()))
    else:
        s.phase = BDAT
    return None


def rset(s: State, argument: bytes) -> None:
    if argument.strip():
        return s.fail(replies.NO_ARGUMENT)
    s.discard()
    return s.say(replies.OK)


def noop(s: State, argument: bytes) -> None:
    s.say(replies.OK)


def help_(s: State, argument: bytes) -> None:
    s.say(replies.HELP)


def vrfy(s: State, argument: bytes) -> None:
    # RFC 5321 §3.5.3 and §7.3: who has a mailbox is nobody's business
    if argument.strip():
        s.say(replies.CANNOT_VERIFY)
    else:
        s.fail(replies.NEEDS_ARGUMENT)


def quit_(s: State, argument: bytes) -> None:
    if argument.strip():
        return s.fail(replies.NO_ARGUMENT)
    return s.say(replies.BYE)


def starttls(s: State, argument: bytes) -> None:
    # RFC 3207 §4
    if not s.config.starttls:
        return s.fail(replies.TLS_ALREADY if s.tls else replies.NOT_IMPLEMENTED)
    if argument.strip():
        return s.fail(replies.NO_ARGUMENT)
    if s.tls:
        return s.fail(replies.TLS_ALREADY)
    if s.hello is None:
        return s.fail(replies.EHLO_FIRST)
    if s.authenticated:
        return s.fail(replies.TLS_AFTER_AUTH)
    if s.mail is not None:
        return s.fail(replies.IN_TRANSACTION)
    return s.ask(StartTls())


def auth(s: State, argument: bytes) -> None:
    # RFC 4954 §4
    words = argument.split()
    mechanism = words[0].upper().decode("ascii", "replace") if words else ""
    config = s.config
    s.masking = True
    s.log[-1] = b"AUTH %s ***" % mechanism.encode() if mechanism in sasl.EXCHANGES else b"AUTH ***"
    if not config.auth:
        return s.fail(replies.NOT_IMPLEMENTED)
    if s.hello is None:
        return s.fail(replies.EHLO_FIRST)
    if s.authenticated:
        return s.fail(replies.AUTH_ALREADY)
    if s.mail is not None:
        return s.fail(replies.IN_TRANSACTION)
    if not s.tls and not config.auth_without_tls:
        return s.fail(replies.AUTH_NEEDS_TLS)
    if not 1 <= len(words) <= 2:
        return s.fail(replies.AUTH_SYNTAX)
    if mechanism not in config.auth:
        return s.fail(replies.AUTH_UNKNOWN)
    s.mechanism = mechanism
    s.exchange = sasl.EXCHANGES[mechanism]()
    initial = words[1] if len(words) == 2 else None
    return respond(s, b"" if initial == b"=" else initial)  # "=": an empty initial response


def respond(s: State, response: bytes | None) -> None:
    """One step of an AUTH exchange; ``response`` is None if the command brought none."""
    exchange = s.exchange
    assert exchange is not None
    try:
        if response == b"*":
            raise sasl.Failed(replies.AUTH_CANCELLED)
        step = exchange.respond(response)
    except sasl.Failed as error:
        s.end_exchange()
        return auth_refused(s, error.reply) if error.reply.code == 535 else s.fail(error.reply)
    if isinstance(step, sasl.Credentials):
        s.end_exchange()
        return s.ask(Auth(s.mechanism, step.user, step.secret))
    s.phase = RESPONSE
    return s.say(step)


def auth_refused(s: State, reply: Reply) -> None:
    """Wrong credentials: say so, twice; then it is guessing."""
    s.auth_failures += 1
    s.say(reply if s.auth_failures < MAX_AUTH_FAILURES else replies.TOO_MANY_FAILURES)


def expn(s: State, argument: bytes) -> None:
    s.fail(replies.NOT_IMPLEMENTED)


def not_smtp(s: State, argument: bytes) -> None:
    # a web page can make a browser speak to us: not one line further
    s.fail(replies.NOT_SMTP)


def unknown(s: State, line: bytes) -> None:
    """A verb that is not in the table."""
    if s.masking or line.lstrip()[:4].upper() == b"AUTH":
        s.log[-1] = b"***"
    if line[:1] == b"\x16":  # a TLS ClientHello: it will never make sense
        return s.say(replies.BAD_LINE)
    if b" HTTP/" in line:
        return s.fail(replies.NOT_SMTP)
    return s.fail(replies.UNKNOWN)


def _hello(s: State, argument: bytes, verb: Literal["EHLO", "HELO"]) -> None:
    # RFC 5321 §4.1.1.1. Clients give all sorts of names; all we want is one printable word. Nothing is cleared before
    # the host has said yes.
    try:
        domain = argument.strip().decode("utf-8")
    except UnicodeDecodeError:
        domain = ""
    if not domain or len(argument) > 255 or " " in domain or not domain.isprintable():
        return s.fail(replies.HELLO_NEEDS_DOMAIN)
    return s.ask(Hello(verb, domain))


COMMANDS: Final[dict[bytes, Command]] = {
    # RFC 5321 §4.1.1
    b"EHLO": ehlo,
    b"HELO": helo,
    b"MAIL": mail,
    b"RCPT": rcpt,
    b"DATA": data,
    b"RSET": rset,
    b"NOOP": noop,
    b"QUIT": quit_,
    b"VRFY": vrfy,
    b"EXPN": expn,
    b"HELP": help_,
    # RFC 3030, 3207, 4954
    b"BDAT": bdat,
    b"STARTTLS": starttls,
    b"AUTH": auth,
    # known, and not implemented: RFC 821, RFC 1985, RFC 2645
    **dict.fromkeys((b"SEND", b"SOML", b"SAML", b"TURN", b"ETRN", b"ATRN"), expn),
    # not SMTP at all: a browser, or something that would use one
    **dict.fromkeys(
        (b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"CONNECT", b"TRACE", b"PRI", b"HOST:"),
        not_smtp,
    ),
}
