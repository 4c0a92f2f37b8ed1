"""Messages made to break a parser (wire safety): each ends in bounded time and memory, with what can be shown of it.

The bounds are generous: what they tell apart is linear and quadratic, seconds and minutes.
"""

from __future__ import annotations

import base64
import resource
import time
import tracemalloc

import orjson
import pytest

from mailfarm.inbound import headers as reading
from mailfarm.inbound.found import find
from mailfarm.inbound.parse import parse, part
from mailfarm.inbound.people import people
from mailfarm.mailboxes.content import dump

SECONDS = 6
MEGABYTE = 1024 * 1024


def nested(levels, leaf=b"leaf", boundary=lambda n: b"b%d" % n):
    head = b"".join(
        b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n--%b\r\n" % (boundary(n), boundary(n))
        for n in range(levels)
    )
    return b"Subject: bomb\r\n" + head + b"\r\n" + leaf


def messages(levels, leaf=b"leaf"):
    return b"Subject: bomb\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * levels + b"\r\n" + leaf


def multipart(body):
    return b"Subject: bomb\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + body


def header(line, body=b"body"):
    return b"Subject: bomb\r\n" + line + b"\r\n\r\n" + body


def encoded(message, kind=b"Content-Type: message/rfc822"):
    """Within a message in base64, which a parser does not see before it has decoded it."""
    head = kind + b"\r\nSubject: bomb\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    return head + base64.encodebytes(message)


LINES = b"x" * 76 + b"\r\n"

BOMBS = {
    **{f"{n} multiparts": lambda n=n: nested(n) for n in (10, 99, 100, 101, 1000, 10_000)},
    **{f"{n} messages": lambda n=n: messages(n) for n in (10, 99, 100, 101, 1000, 10_000)},
    "messages around much": lambda: messages(250, LINES * 60_000),
    "multiparts around much": lambda: nested(250, LINES * 60_000),
    "messages in every encoding": lambda: (
        b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" * 100 + b"a=20" * 250_000
    ),
    "one boundary for all": lambda: nested(5000, boundary=lambda n: b"b"),
    "boundaries that begin alike": lambda: nested(200, boundary=lambda n: b"b" * (n + 1)),
    "boundaries of dashes": lambda: nested(100, b"-" * MEGABYTE, boundary=lambda n: b"-" * (n + 1)),
    "100,000 parts": lambda: multipart(b"--b\r\n\r\nx\r\n" * 100_000 + b"--b--"),
    "parts without headers or bodies": lambda: multipart(b"--b\r\n" * 200_000),
    "a million lines of dashes": lambda: multipart(b"\r\n--" * 1_000_000),
    "parts with huge headers": lambda: multipart((b"--b\r\nX: " + b"a" * 20_000 + b"\r\n\r\nx\r\n") * 400),
    "one header of 10 MB": lambda: header(b"X: " + b"a" * 10_000_000),
    "one folded header of 10 MB": lambda: header(b"X:" + b" a\r\n" * 2_500_000),
    "a million headers": lambda: header(b"X: a\r\n" * 1_000_000),
    "a subject of 10 MB": lambda: b"Subject: bomb" + b"a" * 10_000_000 + b"\r\n\r\nx",
    "300,000 encoded words": lambda: header(b"Subject: " + b"=?utf-8?q?a?= " * 300_000),
    "a million ends of encoded words": lambda: header(b"Subject: =?utf-8?q?a" + b"?=a" * 1_000_000),
    "encoded words within a message in base64": lambda: encoded(b"Subject: " + b"=?utf-8?q?a?= " * 200_000),
    "the same, its type an encoded word": lambda: encoded(
        b"Subject: " + b"=?utf-8?q?a?= " * 200_000, b"\tContent-Type :\r\n =?utf-8?q?message/rfc82=32?="
    ),
    "types and colons": lambda: header(b"Content-Type" * 200_000 + b":" * 1900 + b"\r\nContent-Type" * 50_000),
    "messages within a message in base64": lambda: encoded(messages(99, LINES * 35_000)),
    "halves of encoded words": lambda: header(b"Subject: " + b"=?" * 3_000_000),
    "encoded words everywhere": lambda: multipart(
        (b'--b\r\nContent-Type: text/plain; name="' + b"=?utf-8?q?a?= " * 300 + b'"\r\n\r\nx\r\n') * 500
    ),
    "a From of 60,000 quotes": lambda: header(b"From: " + b'"' * 60_000),
    "a million nested comments": lambda: header(b"From: " + b"(" * 1_000_000 + b"a@x.test"),
    "a million addresses": lambda: header(b"To: " + b"a@x.test, " * 1_000_000),
    "a million brackets": lambda: header(b"To: " + b"<" * 1_000_000),
    "parameters with gaps": lambda: header(
        b"Content-Type: a/b; " + b"; ".join(b"name*%d*=%%41" % n for n in range(0, 200_000, 3))
    ),
    "a million parameters": lambda: header(b"Content-Type: text/plain; " + b"a=b;" * 1_000_000),
    "quoted semicolons": lambda: header(b'Content-Type: text/plain; a="' + b";" * 1_000_000),
    "base64 without line ends": lambda: (
        b"Subject: bomb\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b"QUJD" * 2_500_000
    ),
    "broken base64 without line ends": lambda: (
        b"Subject: bomb\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b"QUJ!" * 2_500_000
    ),
    "quoted-printable of equals signs": lambda: (
        b"Subject: bomb\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + b"=" * 5_000_000
    ),
    "text of 10 MB": lambda: b"Subject: bomb\r\n\r\n" + LINES * 130_000,
    "one line of 10 MB": lambda: b"Subject: bomb\r\n\r\n" + b"1" * 10_000_000,
    "a zip bomb": lambda: header(b"Content-Type: application/zip; name=bomb.zip", b"PK\x03\x04" + b"\0" * 1_000_000),
    **{
        f"HTML of {name}": lambda page=page: b"Subject: bomb\r\nContent-Type: text/html\r\n\r\n" + page()
        for name, page in {
            "open tags": lambda: b"<a href=" * 200_000,
            "angle brackets": lambda: b"<" * 1_500_000,
            "angle brackets apart": lambda: b"< " * 750_000,
            "open comments": lambda: b"<!--" * 300_000,
            "quotes": lambda: b"<a title='" * 150_000,
            "quotes in turn": lambda: b"<a b=\"'" * 150_000,
            "open scripts": lambda: b"<script>" * 150_000,
            "end tags": lambda: b"</a>" * 300_000,
            "nested tables": lambda: b"<table><tr><td>" * 80_000,
            "links": lambda: b'<a href="https://x.test/%2f">x</a>' * 30_000,
            "entities": lambda: b"&#" * 500_000 + b"&amp" * 100_000,
            "hidden ends": lambda: b"<template></template>" * 50_000,
            "brackets in links": lambda: b"https://x.test/" + b")" * 8000 + b" https://y.test/" + b"))" * 400_000,
            "space": lambda: b" \n" * 500_000,
            "many different raw ends": lambda: b"<title></titl" * 100_000,
        }.items()
    },
    "codes": lambda: b"Subject: bomb\r\n\r\n" + b"code 1234 " * 100_000,
    "nothing": lambda: b"",
    "NULs": lambda: b"\0" * 1_000_000,
    "line feeds": lambda: b"\n" * 1_000_000,
    "colons": lambda: b":" * 1_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_goes_off_quietly(name):
    raw = BOMBS[name]()
    start = time.process_time()
    parsed = parse(raw)
    took = time.process_time() - start
    assert took < SECONDS
    if raw.startswith(b"Subject: bomb\r\n"):
        assert parsed.subject.startswith("bomb")
    assert len(parsed.parts) <= 1000
    assert len(parsed.text) <= MEGABYTE
    assert len(parsed.html) <= MEGABYTE
    assert len(parsed.visible) <= MEGABYTE
    assert len(parsed.snippet) <= 250
    start = time.process_time()
    found = find(parsed.subject, parsed.text, parsed.html)
    assert time.process_time() - start < SECONDS
    assert len(found.links) <= 1000
    assert len(found.codes) <= 50
    assert len(parsed.to) <= 500
    assert len(parsed.subject) <= 2000
    assert len(orjson.dumps((parsed.from_, parsed.to, parsed.cc))) < 600_000
    assert len(dump(parsed.head)) + len(dump(parsed.parts)) < 10 * MEGABYTE
    assert parsed.head.parser != "none"
    for each in parsed.parts[:3]:
        if each.size is not None:
            assert len(part(raw, each.n, parsed.head.parser)[2]) == each.size


@pytest.mark.parametrize("name", BOMBS)
def test_memory_is_bounded_by_the_message(name):
    raw = BOMBS[name]()
    parse(b"Subject: warm\r\n\r\nup")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    parse(raw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak < 6 * len(raw) + 20 * MEGABYTE
    assert (after - before) * 1024 < 10 * len(raw) + 100 * MEGABYTE  # what Rust takes is not traced


def test_a_deep_tree_is_cut_and_said_so():
    parsed = parse(nested(500))
    assert len(parsed.parts) == 101
    assert any("100 deep" in finding for finding in parsed.head.findings)
    parsed = parse(multipart(b"--b\r\n\r\nx\r\n" * 2000 + b"--b--"))
    assert len(parsed.parts) == 1000
    assert any("first 1000 parts" in finding for finding in parsed.head.findings)
    assert part(multipart(b"--b\r\n\r\nx\r\n" * 2000 + b"--b--"), 1000, parsed.head.parser)[2] == b"x"


def test_headers_beyond_the_cap_are_left_out_and_said_so():
    parsed = parse(b"Subject: here\r\n" + b"X: a\r\n" * 5000 + b"To: a@x.test\r\n\r\nbody")
    assert (parsed.subject, parsed.to, parsed.text) == ("here", (), "body")
    assert any("header fields" in finding for finding in parsed.head.findings)


@pytest.mark.parametrize("text", ['"' * 65536, "(" * 65536, "<" * 65536, '"\\' * 32768, "a@b " * 16384, "(\\" * 32768])
def test_no_address_list_takes_long(text):
    start = time.process_time()
    people(text)
    reading.parameters(text)
    reading.decode_words(text)
    assert time.process_time() - start < 2
