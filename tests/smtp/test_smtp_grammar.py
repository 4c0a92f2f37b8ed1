"""Arguments of commands: any octets are understood or refused, and what is understood is harmless."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfarm.mail.reply import Reply
from mailfarm.smtp import grammar, sasl
from mailfarm.smtp.config import ServerConfig
from mailfarm.smtp.requests import Mail, Rcpt

CONFIG = ServerConfig("mx.example", auth=("PLAIN",))
pieces = st.sampled_from(
    [
        b"FROM:", b"TO:", b"<", b">", b"a", b"@", b"b.c", b".", b'"', b"\\", b" ", b"SIZE=", b"1", b":",
        b"BODY=8BITMIME",
        b"SMTPUTF8", b"NOTIFY=", b"NEVER", b",", b"ORCPT=rfc822;", b"RET=FULL", b"ENVID=", b"+0A", b"+20", b"AUTH=<>",
        b"=", b"\xc3\xbc", b"\xff", b"[1.2.3.4]", b"[IPv6:::1]", b"<a@b>", b"<>", b"postmaster", b"@x:", b"\x01", b"\t",
    ]
)  # fmt: skip
arguments = st.one_of(
    st.lists(pieces, max_size=12).map(b"".join),
    st.lists(pieces, max_size=8).map(lambda more: b"FROM:<a@b.c> " + b"".join(more)),
    st.lists(pieces, max_size=8).map(lambda more: b"TO:<a@b.c> " + b"".join(more)),
    st.binary(max_size=60),
)


@given(arguments, st.booleans())
def test_any_argument(argument: bytes, smtputf8: bool) -> None:
    texts: list[str | None] = []
    refusals: list[Reply] = []
    try:
        mail = grammar.mail(argument, CONFIG)
        texts += [mail.sender, mail.envid, mail.ret, mail.body]
    except grammar.Malformed as error:
        refusals.append(error.reply)
    try:
        rcpt = grammar.rcpt(argument, CONFIG, smtputf8)
        texts += [rcpt.recipient.address, rcpt.recipient.orcpt, rcpt.route, *rcpt.recipient.notify]
        assert rcpt.recipient.address
    except grammar.Malformed as error:
        refusals.append(error.reply)
    for text in texts:
        assert text is None or text.isprintable()
    assert all(reply.code in (501, 553, 555) for reply in refusals)
    grammar.bdat(argument)


def test_the_short_way_is_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [b"FROM:<a.b@c.example>", b"from:<A@b>", b"FROM:<" + b"a" * 64 + b"@b>", b"FROM:<" + b"a" * 65 + b"@b>"]

    def read(argument: bytes) -> Mail | Reply:
        try:
            return grammar.mail(argument, CONFIG)
        except grammar.Malformed as error:
            return error.reply

    short = [read(argument) for argument in arguments]
    monkeypatch.setattr(grammar, "_SHORT", 0)
    assert short == [read(argument) for argument in arguments]
    assert short[-1] == grammar.BAD_SENDER


def test_parameters() -> None:
    mail = grammar.mail(b"FROM:<a@b> size=12 BODY=8BITMIME smtputf8 RET=HDRS ENVID=x+20y AUTH=z", CONFIG)
    assert mail == Mail("a@b", 12, "8BITMIME", True, "HDRS", "x+20y")
    rcpt = grammar.rcpt(b"TO:<@r:a@b> NOTIFY=delay,SUCCESS ORCPT=rfc822;x+2By", CONFIG, False)
    assert isinstance(rcpt, Rcpt)
    assert rcpt.route == "@r"
    assert rcpt.recipient.notify == ("DELAY", "SUCCESS")
    assert rcpt.recipient.orcpt == "rfc822;x+2By"
    assert grammar.rcpt("TO:<ü@b> ORCPT=utf-8;ü@b".encode(), CONFIG, True).recipient.orcpt == "utf-8;ü@b"


@given(st.binary(max_size=60) | st.text(alphabet="AHVzZXIc2VjcmV0=*", max_size=20).map(str.encode))
def test_any_response(response: bytes) -> None:
    refusals: list[Reply] = []
    for exchange in (sasl.Plain(), sasl.Login()):
        try:
            exchange.respond(None)
            step = exchange.respond(response)
            if isinstance(step, Reply):
                step = exchange.respond(response)
            assert isinstance(step, sasl.Credentials)
            assert "\0" not in step.user + step.secret
        except sasl.Failed as error:
            refusals.append(error.reply)
    assert all(reply.code in (501, 535) for reply in refusals)


@pytest.mark.parametrize(
    "sender", [b"<a@b.example>", b"<>", b'<"a > b"@b.example>', b"<@x:a@b.example>", b"<a..b@b.example>"]
)
@pytest.mark.parametrize("size", [b"SIZE=0", b"size=1234", b"SIZE=" + b"9" * 20, b"SIZE=" + b"9" * 21, b"SIZE="])
@pytest.mark.parametrize("verb", [b"FROM:", b"from:"])
def test_a_size_is_read_the_same_wherever_it_stands(sender: bytes, size: bytes, verb: bytes) -> None:
    """Behind the path and before BODY there is a shorter way."""

    def read(*parameters: bytes) -> Mail | Reply:
        try:
            return grammar.mail(b" ".join((verb + sender, *parameters)), CONFIG)
        except grammar.Malformed as error:
            return error.reply

    assert read(size, b"BODY=8BITMIME") == read(b"BODY=8BITMIME", size)
    assert read(size) == read(b"BODY=7BIT", size)
