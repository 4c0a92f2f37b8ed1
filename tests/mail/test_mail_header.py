"""Header fields: read from anything, written strictly; our trace header; xtext."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfarm.mail.header import decode_words, header_line, read_headers
from mailfarm.mail.received import date, protocol_name, received
from mailfarm.mail.xtext import decode_xtext, encode_xtext


def test_read() -> None:
    block = (
        b"From mbox\r\nSubject: one\r\n two\r\n\tthree\r\nX-Odd : 1\r\nno field\r\n: nothing\r\nTo:\r\n"
        b"X-8bit: gr\xc3\xbc\xc3\x9fe \xff\r\nX-NUL: a\0b\rc\n\r\nBody: no\r\n"
    )
    assert read_headers(block) == [
        ("Subject", "one two\tthree"),
        ("X-Odd", "1"),
        ("To", ""),
        ("X-8bit", "grüße \ufffd"),
        ("X-NUL", "a b c"),
    ]


def test_read_has_caps() -> None:
    assert len(read_headers(b"A: b\r\n" * 100_000, 10)) == 10
    assert read_headers(b"A: " + b"x" * 1_000_000, longest=100) == [("A", "x" * 99)]
    folded = b"A: x\r\n" + b" y\r\n" * 300_000
    assert len(read_headers(folded, longest=1000)[0][1]) <= 1000
    assert read_headers(b" leading\r\nA: b") == [("A", "b")]
    assert read_headers(b"x" * 5000 + b": v\r\nA: b\r\n") == [("A", "b")]


@given(st.binary(max_size=200) | st.text(alphabet="A: \r\n\t=?\0ü", max_size=60).map(str.encode), st.integers(1, 5))
def test_read_never_raises(block: bytes, limit: int) -> None:
    fields = read_headers(block, limit)
    assert len(fields) <= limit
    for name, value in fields:
        assert name
        assert name.isascii()
        assert not set(value) & set("\r\n\0")


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?gr=C3=BC=C3=9Fe_all?=", "grüße all"),
        ("=?UTF-8?B?Z3LDvMOfZQ==?= x", "grüße x"),
        ("=?utf-8?b?Z3LDvMOfZQ?=", "grüße"),
        ("a =?utf-8?q?=C3?= =?utf-8?q?=BC?= b", "a ü b"),
        ("=?iso-8859-1?q?=FC?=\r\n =?utf-8?q?=C3=BC?=", "üü"),
        ("=?utf-8*de?q?x?=", "x"),
        ("=?nowhere?q?x=C3=BC?=", "xü"),
        ("=?punycode?q?x-?=", "x-"),
        ("=?unicode_escape?q?=5Cn?=", "\\n"),
        ("=?utf-8?b?!!!?=", ""),
        ("=?utf-8?q?a=0D=0ABcc:_x?=", "a Bcc: x"),
        ("=?utf-8?q?open", "=?utf-8?q?open"),
        ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
        ("a\r\n b", "a  b"),
    ],
)
def test_decode_words(text: str, decoded: str) -> None:
    assert decode_words(text) == decoded


@given(st.text(max_size=60) | st.text(alphabet="=?utf-8bq_AB \0", max_size=60))
def test_decode_words_never_raises(text: str) -> None:
    assert not set(decode_words(text)) & set("\r\n\0")


@pytest.mark.parametrize("piece", ["=?", "=?a?b?", "=?utf-8?q?", "=?a?b?c?= ", "=?utf-8?b?====?=", "=?" + "a" * 81])
def test_decode_words_in_linear_time(piece: str) -> None:
    decode_words(piece * (200_000 // len(piece)))


@given(st.text(max_size=300))
def test_written_lines_read_back(value: str) -> None:
    try:
        line = header_line("X-Test", value)
    except ValueError:
        return
    assert line.endswith(b"\r\n")
    assert all(0 < len(part.strip()) <= 998 or part == b"" for part in line.split(b"\r\n")), line
    (field,) = read_headers(line)
    assert field[0] == "X-Test"
    if not value.isascii():
        assert decode_words(field[1]) == value.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("name", "value"), [("A b", "x"), ("", "x"), ("A:", "x"), ("A", "x\r\nB: y"), ("A", "\0"), ("A", "x\n")]
)
def test_nobody_writes_a_second_field(name: str, value: str) -> None:
    with pytest.raises(ValueError):
        header_line(name, value)


def test_received() -> None:
    trace = received(
        helo="client.example", client="192.0.2.1", by="mx.example", protocol="ESMTPS", id="01abc",
        now=1_769_860_800_000_000, tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
    )  # fmt: skip
    assert trace == (
        b"Received: from client.example ([192.0.2.1])\r\n\tby mx.example with ESMTPS id 01abc\r\n"
        b"\t(TLSv1.3 TLS_AES_256_GCM_SHA384);\r\n\tSat, 31 Jan 2026 12:00:00 +0000\r\n"
    )


@given(st.text(max_size=50), st.text(max_size=50), st.text(max_size=50))
def test_nothing_gets_into_received(helo: str, client: str, tls: str) -> None:
    trace = received(helo=helo, client=client, by="mx.example", protocol="SMTP", id="1", now=0, tls=tls)
    fields = read_headers(trace)
    assert len(fields) == 1
    assert fields[0][1].endswith("Thu, 01 Jan 1970 00:00:00 +0000")


def test_received_of_odd_clients() -> None:
    for client, literal in (("::1", "[IPv6:::1]"), ("::ffff:192.0.2.1", "[192.0.2.1]"), ("no", "[unknown]")):
        assert literal.encode() in received(helo="h", client=client, by="m", protocol="SMTP", id="1", now=0)
    assert b"from unknown by" in received(helo="(evil", client="", by="m", protocol="SMTP", id="1", now=0).replace(
        b"\r\n\t", b" "
    )
    with pytest.raises(ValueError):
        received(helo="h", client="", by="m\r\n", protocol="SMTP", id="1", now=0)


def test_protocol_names() -> None:
    assert protocol_name(esmtp=False, tls=False, authenticated=False) == "SMTP"
    assert protocol_name(esmtp=True, tls=False, authenticated=False) == "ESMTP"
    assert protocol_name(esmtp=True, tls=True, authenticated=True) == "ESMTPSA"
    assert protocol_name(esmtp=True, tls=False, authenticated=True, smtputf8=True) == "UTF8SMTPA"


def test_date() -> None:
    assert date(0) == "Thu, 01 Jan 1970 00:00:00 +0000"


@given(st.text(max_size=60))
def test_xtext_there_and_back(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert decode_xtext(encode_xtext(text)) == text


@pytest.mark.parametrize("text", ["a b", "a=b", "+", "+4", "+4g", "+ab", "ü", "a\n", "+FF"])
def test_is_no_xtext(text: str) -> None:
    with pytest.raises(ValueError):
        decode_xtext(text)


@pytest.mark.parametrize(
    ("helo", "name"),
    [
        ("mx.example", "mx.example"), ("[192.0.2.1]", "[192.0.2.1]"), ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("localhost", "localhost"), ("..", "unknown"), ("a..b", "unknown"), (".a", "unknown"), ("a.", "unknown"),
        ("-a", "unknown"), ("my_host", "unknown"), ("[::1]", "unknown"), ("[1.2.3]", "unknown"), ("[", "unknown"),
        ("[]", "unknown"), ("[192.0.2.1", "unknown"), ("a" * 64 + ".b", "unknown"), ("", "unknown"),
    ],
)  # fmt: skip
def test_only_a_domain_or_an_address_literal_stands_in_received(helo: str, name: str) -> None:
    trace = received(helo=helo, client="", by="m", protocol="SMTP", id="1", now=0)
    assert trace.startswith(f"Received: from {name}\r\n".encode())
