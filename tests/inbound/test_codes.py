"""One-time codes are found where a person would find them, and not where there are none."""

from __future__ import annotations

import html
import time

import pytest
from code_corpus import CORPUS

from mailfarm.inbound.codes import MOST, codes
from mailfarm.inbound.found import find
from mailfarm.inbound.parse import parse
from mailfarm.mailboxes.content import Found


def found_in(content: bytes) -> Found:
    parsed = parse(content)
    return find(parsed.subject, parsed.text, parsed.html)


@pytest.mark.parametrize(("subject", "text", "expected"), [case[1:] for case in CORPUS], ids=[c[0] for c in CORPUS])
def test_in_text(subject, text, expected):
    content = f"Subject: {subject}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}".encode()
    found = list(found_in(content).codes)
    assert found[: len(expected)] == expected if expected else found == []


@pytest.mark.parametrize(("subject", "text", "expected"), [case[1:] for case in CORPUS], ids=[c[0] for c in CORPUS])
def test_in_html(subject, text, expected):
    paragraphs = "".join(
        f"<tr><td style='color:#123456'><p>{html.escape(line)}</p></td></tr>" for line in text.split("\n")
    )
    page = (
        "<html><head><title>000000</title><style>.a{width:640000px}</style></head><body bgcolor='#998877'><table>"
        f"{paragraphs}</table><!-- 123123 --></body></html>"
    )
    content = f"Subject: {subject}\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{page}".encode()
    found = list(found_in(content).codes)
    assert found[: len(expected)] == expected if expected else found == []


def test_there_is_a_cap():
    assert len(codes([f"code {number}\n" for number in range(100000, 100200)])) <= MOST


@pytest.mark.parametrize(
    "text",
    ["code " * 20000, "1234 " * 20000, "code1 " * 20000, "A1" * 60000, "1 " * 60000, "A-" * 60000, "a1" * 60000,
     "code " + "1-" * 60000, "(" * 60000, "\n" * 60000, "einmal" * 20000, "code: " + '"' * 60000],
)  # fmt: skip
def test_no_text_takes_long(text):
    start = time.process_time()
    codes([text, text])
    assert time.process_time() - start < 5
