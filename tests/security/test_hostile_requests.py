"""Requests that ask for much, at a real process: an answer of bounded size, or a refusal that says why."""

from __future__ import annotations

import http.client
import json
import smtplib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running import Running, until

MIB = 1 << 20
PEOPLE = 450
"""Recipients in the headers of a mail; more are not read."""
LETTERS = 100
PAGE = 5 * MIB

Tell = Callable[[str, object], None]


@pytest.fixture(scope="module")
def process() -> Iterator[Running]:
    with Running(MAILFARM_LOG_LEVEL="error") as made:
        yield made


def ask(process: Running, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", process.port("http"), timeout=60)
    try:
        connection.request(method, path, body or None, {name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


DEEP = b"[" * 500_000
MUCH = b'{"ids": [' + b",".join(b'"%d"' % number for number in range(100_000)) + b'], "seen": true}'
REQUESTS: dict[str, tuple[str, str, bytes, int, str]] = {
    "a huge limit": ("GET", "messages?limit=999999999999999999999999999", b"", 400, "limit must be"),
    "a limit above the most": ("GET", "messages?limit=1001", b"", 400, "limit must be from 1 to 1000"),
    "a limit of a million digits": ("GET", "messages?limit=" + "9" * 60_000, b"", 400, "limit must be"),
    "ten thousand parameters": ("GET", "messages?" + "&".join(["a=1"] * 10_000), b"", 400, "more than 50 parameters"),
    "ten thousand without a value": ("GET", "messages?" + "&" * 10_000, b"", 400, "parameters"),
    "a long search word": ("GET", "messages?contains=" + "%20" * 20_000, b"", 400, "contains must be at most"),
    "a long header to search in": ("GET", "messages?from=" + "a" * 60_000, b"", 400, "from must be at most"),
    "a wait for very much": ("GET", "wait?count=1000000", b"", 400, "count must be from"),
    "a wait without end": ("GET", "wait?timeout=1e999", b"", 400, "timeout must be"),
    "events without end": ("GET", "events?limit=100000", b"", 400, "limit must be"),
    "deep JSON": ("PATCH", "messages", DEEP, 400, "nested too deep"),
    "deep objects": ("PATCH", "messages", b'{"a":' * 100_000, 400, "nested too deep"),
    "many ids": ("PATCH", "messages", MUCH[: MIB - 1000], 400, ""),
    "a long id": ("PATCH", "messages", b'{"ids": ["%b"], "seen": true}' % (b"x" * 900_000), 400, "ids must be"),
    "a number of a million digits": ("PATCH", "messages", b'{"seen": %b}' % (b"9" * 900_000), 400, "too long"),
    "a body above the most": ("PATCH", "messages", b" " * (2 * MIB), 413, "more than 1048576 octets"),
}


def test_what_asks_for_much_is_refused_with_a_reason(process: Running, record_property: Tell) -> None:
    box = json.loads(ask(process, "POST", "/v1/mailboxes", b"{}", Content_Type="application/json")[1])["id"]
    before = process.rss()
    for _ in range(3):
        for name, (method, path, body, status, why) in REQUESTS.items():
            said = ask(process, method, f"/v1/mailboxes/{box}/{path}", body, Content_Type="application/json")
            assert said[0] == status, (name, said[:300])
            assert why in json.loads(said[1])["detail"], (name, said[1][:300])
    grown = (process.rss() - before) / MIB
    record_property("grown by, MiB", grown)
    print(f"{3 * len(REQUESTS)} requests, grown by {grown:.1f} MiB")
    assert grown < 96


def test_long_headers_are_bounded(process: Running) -> None:
    for headers in (
        {f"X-{number}": "y" for number in range(600)},
        {"Cookie": "a=b; " * 20_000},
        {"Accept-Encoding": "gzip;q=0," * 20_000},
    ):
        status, body = ask(process, "GET", "/v1/health", **headers)
        assert status in (400, 414)
        assert json.loads(body)["detail"]
    # what is not for us is passed over
    assert ask(process, "GET", "/v1/health", Range="bytes=" + ",".join(["0-1"] * 10_000))[0] == 200
    assert ask(process, "GET", "/app.js", Range="bytes=" + ",".join(["0-1"] * 10_000))[0] == 200
    assert ask(process, "GET", "/v1/openapi.json", If_None_Match='"x",' * 10_000)[0] == 200


def test_a_page_of_mail_to_thousands_is_short_and_says_where_to_go_on(process: Running, record_property: Tell) -> None:
    """The headers of a mail may name so many people that a thousand messages are 100 MB of JSON."""
    made: Any = json.loads(ask(process, "POST", "/v1/mailboxes", b"{}", Content_Type="application/json")[1])
    people = ",\r\n ".join(f"{'n' * 50} {number} <{'u' * 50}{number}@shop.example>" for number in range(PEOPLE))
    mail = f"To: {people}\r\nCc: {people}\r\nSubject: much\r\n\r\nx\r\n"
    with smtplib.SMTP("127.0.0.1", process.port("smtp", "capture")) as smtp:
        for _ in range(LETTERS):
            smtp.sendmail("a@shop.example", [made["address"]], mail)

    def all_there() -> bool:
        return bool(json.loads(ask(process, "GET", f"/v1/mailboxes/{made['id']}")[1])["messages"] == LETTERS)

    until(all_there, 60)
    before = process.rss()
    for path, items in (("messages?limit=1000", "messages"), ("events?limit=1000", "events")):
        seen, pages, largest, after = 0, 0, 0, 0
        while seen < LETTERS:
            _, body = ask(process, "GET", f"/v1/mailboxes/{made['id']}/{path}&after={after}")
            page = json.loads(body)
            assert page[items], "each page has something"
            after = page["next"] if "next" in page else page["cursor"]
            seen, pages, largest = seen + len(page[items]), pages + 1, max(largest, len(body))
        print(f"{items}: {pages} pages, the largest {largest / MIB:.1f} MiB")
        assert seen == LETTERS
        assert largest < (PAGE if items == "messages" else 3 * PAGE)
    grown = (process.rss() - before) / MIB
    record_property("grown by, MiB", grown)
    print(f"grown by {grown:.1f} MiB")
    assert grown < 128
