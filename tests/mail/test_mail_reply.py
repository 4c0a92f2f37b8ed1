"""Replies on the wire."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mailfarm.mail.reply import Reply


def test_forms() -> None:
    assert Reply(250, "2.0.0", "Ok").encode() == b"250 2.0.0 Ok\r\n"
    assert Reply(334, "", "").encode() == b"334 \r\n"
    assert Reply(550, "5.7.1", "one\ntwo").encode() == b"550-5.7.1 one\r\n550 5.7.1 two\r\n"
    assert str(Reply(550, "5.7.1", "no")) == "550 5.7.1 no"


def test_encoding_is_remembered_and_no_part_of_the_value() -> None:
    reply = Reply(250, "2.0.0", "Ok")
    assert reply.encode() is reply.encode()
    assert reply == Reply(250, "2.0.0", "Ok")
    assert hash(reply) == hash(Reply(250, "2.0.0", "Ok"))
    assert repr(reply) == "Reply(code=250, enhanced='2.0.0', text='Ok', close=False)"
    assert replace(reply, text="Fine").encode() == b"250 2.0.0 Fine\r\n"


@given(st.text(max_size=40))
def test_no_text_makes_a_line_of_its_own(text: str) -> None:
    lines = Reply(550, "5.0.0", text).encode().split(b"\r\n")
    assert lines.pop() == b""
    assert all(line[:4] in (b"550-", b"550 ") and not set(line) & set(b"\r\n\0") for line in lines)
    assert sum(line[:4] == b"550 " for line in lines) == 1
