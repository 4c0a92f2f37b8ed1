"""Every parser of the house, as something that takes octets and may only refuse them in its own way.

A parser is a function of octets. What it raises beyond ``refuses`` is a fault, and so is what its own assertions say.
Those that are fed as a network brings octets (``cut``) are given them whole, in two pieces and one by one, and must
find the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import orjson
import postgres_answers
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mailfarm.accounts.limit_sets import read as read_limits
from mailfarm.backends import redis_url
from mailfarm.backends.postgres_address import Server as PostgresServer
from mailfarm.backends.queue_content import Whole
from mailfarm.backends.redis_connection import Connection
from mailfarm.backends.spool_form import envelope_of, from_form
from mailfarm.config import spelling, store_urls
from mailfarm.errors import ConfigurationError, Damaged
from mailfarm.inbound import charsets, filenames, found, headers, people
from mailfarm.inbound.parse import parse, part
from mailfarm.mail.address import Address, domain_key, parse_path
from mailfarm.mail.header import decode_words, header_line, read_headers
from mailfarm.mail.xtext import decode_xtext, encode_xtext
from mailfarm.mailboxes import css, html, packing, visible
from mailfarm.net import cookies
from mailfarm.net.forwarded import Forwarded
from mailfarm.net.hosts import Hosts, split_host
from mailfarm.net.problems import Problem
from mailfarm.net.proxy import BadHeader, decode
from mailfarm.services.api.asking import Body, Field, read_body, read_json, read_query
from mailfarm.services.live import asked
from mailfarm.smtp import grammar, sasl
from mailfarm.smtp.ahead import recipients_ahead
from mailfarm.smtp.config import ServerConfig
from mailfarm.smtp.data import Content

CONFIG = ServerConfig("mx.example", auth=("PLAIN", "LOGIN"))
FIELDS = (
    Field("state", "text", "", choices=("a", "b")),
    Field("limit", "integer", "", default=1, least=1, most=1000),
    Field("timeout", "number", "", least=0, most=60),
    Field("seen", "boolean", ""),
    Field("ids", "ids", ""),
)


@dataclass(frozen=True)
class Parser:
    """``work`` takes octets; ``cut`` takes them in pieces and says what it found of them, for comparison."""

    work: Callable[[bytes], Any]
    refuses: tuple[type[BaseException], ...] = ()
    cut: Callable[[list[bytes]], Any] | None = None

    def run(self, data: bytes) -> None:
        """Raises what is a fault."""
        try:
            self.work(data)
        except self.refuses as error:
            said = str(error)
            assert len(said) < len(data) * 8 + 2000, f"a refusal of {len(said)} characters"


def text(data: bytes) -> str:
    """As octets come to what reads text: UTF-8, with what is none kept recognisable."""
    return data.decode("utf-8", "replace")


def one_line(said: str) -> None:
    assert "\r" not in said
    assert "\n" not in said
    assert "\0" not in said


# ---- SMTP


def mail_argument(data: bytes) -> None:
    request = grammar.mail(b"FROM:" + data, CONFIG)
    one_line(request.sender)
    assert len(request.sender) <= 320
    if request.envid is not None:
        decode_xtext(request.envid)


def rcpt_argument(data: bytes) -> None:
    request = grammar.rcpt(b"TO:" + data, CONFIG, True)
    assert request.recipient.address
    one_line(request.recipient.address)
    one_line(request.route)


def said_argument(data: bytes) -> None:
    said = grammar.said(data, b"FROM:")
    assert len(said) <= 256
    assert said.isprintable() or not said


def auth_responses(data: bytes) -> None:
    for exchange in (sasl.Plain(), sasl.Login()):
        for response in data.split(b"\n")[:3]:
            step = exchange.respond(response)
            if isinstance(step, sasl.Credentials):
                assert "\0" not in step.user + step.secret
                break


def content(pieces: list[bytes]) -> tuple[bytes, bool, Any, bytes]:
    """What DATA gives, whether it has ended, its fault, and what stands behind the end."""
    reading = Content(5000, 1000, False)
    reading.begin(dots=True)
    got = b""
    for number, piece in enumerate(pieces):
        if not piece:
            continue
        end = reading.dots(piece, 0)
        got += reading.take()
        if end >= 0:
            rest = piece[end:] + b"".join(pieces[number + 1 :])
            fault = reading.fault
            return b"" if fault else got, True, fault, rest
    return b"", False, None, b""


def proxy(pieces: list[bytes]) -> Any:
    """What is found as soon as anything is."""
    data = b""
    for piece in pieces:
        data += piece
        if not data:
            continue
        try:
            header = decode(data, longest=600, v1=True)
        except BadHeader:
            return "refused"
        if header is not None:
            assert 0 < header.length <= len(data)
            return header
    return None


# ---- addresses and headers


def address(data: bytes) -> None:
    parsed = Address.parse(text(data))
    one_line(str(parsed))
    assert Address.parse(str(parsed)).key == parsed.key
    assert parsed.without_tag.key


def path(data: bytes) -> None:
    found = parse_path(text(data))
    assert 0 < found.end <= len(text(data))
    one_line(found.address)


def xtext(data: bytes) -> None:
    decoded = decode_xtext(text(data))
    assert decode_xtext(encode_xtext(decoded)) == decoded


def header_block(data: bytes) -> None:
    fields = read_headers(data)
    assert len(fields) <= 1000
    for name, value in fields:
        one_line(name)
        one_line(decode_words(value).replace("\n", " ").replace("\r", " ").replace("\0", " "))


def written_header(data: bytes) -> None:
    """Nobody's text becomes a header of its own."""
    line = header_line("Subject", text(data))
    assert re.fullmatch(rb"Subject:[^\r\n]*(\r\n [^\r\n]*)*\r\n", line)


def message(data: bytes) -> None:
    parsed = parse(data)
    assert len(parsed.parts) <= 1000
    assert len(parsed.snippet) <= 250
    for each in parsed.parts[:5]:
        name = filenames.safe(each.filename)
        assert not set(name) & set("/\\\0\r\n")
        if each.size is not None:
            assert len(part(data, each.n, parsed.head.parser)[2]) == each.size
    orjson.dumps((parsed.from_, parsed.to, parsed.subject, parsed.text, parsed.html))
    found.find(parsed.subject, parsed.text, parsed.html)


def header_values(data: bytes) -> None:
    said = text(data)
    kind, parameters = headers.parameters(said)
    orjson.dumps((kind, parameters, headers.decode_words(said), headers.date(said)))
    headers.lenient_base64(data)
    assert len(people.people(said)) <= 500
    name = filenames.safe(said)
    assert not set(name) & set("/\\\0\r\n\u202e")


def charset(data: bytes) -> None:
    label, _, body = data.partition(b"\n")
    orjson.dumps(charsets.decode(body, label.decode("latin-1")))


class _Shown(HTMLParser):
    """A page as it is shown: nothing in it runs, and nothing is fetched."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base", "meta", "link", "svg", "math")
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("href", "src"):
                assert not (value or "").strip().lower().startswith(("javascript:", "vbscript:", "data:text"))
            assert name != "src" or not (value or "").startswith(("http", "//"))


def page(data: bytes) -> None:
    said = text(data)
    _Shown().feed(html.sanitise(said, remote=False, cid=lambda name: None).partition("<body>")[2])
    orjson.dumps(visible.visible(said))
    orjson.dumps(visible.shown(said))


def style(data: bytes) -> None:
    kept = css.without_fetches(text(data), lambda url: None)
    assert "http" not in kept.lower() or "url(" not in kept.lower() or "http" not in kept.lower().split("url(", 1)[1]


# ---- stores


def spooled(data: bytes) -> None:
    account, sender, recipients = envelope_of(data)
    assert all(isinstance(each, str) for each in (account, sender, *recipients))
    from_form(data, Whole(b""))


def redis(pieces: list[bytes]) -> tuple[list[Any], bool]:
    """What calls are answered by these octets, and whether the connection is given up."""
    connection = Connection(Clock(), 1.0, None)
    transport = _Transport()
    connection.makeConnection(transport)
    answers: list[Any] = []
    for _ in range(3):
        connection.send("PING").addBoth(lambda answer: answers.append(repr(getattr(answer, "value", answer))))
    for piece in pieces:
        if not transport.aborted:
            connection.dataReceived(piece)
    return answers, transport.aborted


def pushed(pieces: list[bytes]) -> tuple[list[Any], bool]:
    """The same of a connection that subscribes."""
    heard: list[Any] = []
    connection = Connection(Clock(), 1.0, heard.append)
    transport = _Transport()
    connection.makeConnection(transport)
    for piece in pieces:
        if not transport.aborted:
            connection.dataReceived(piece)
    return [repr(each) for each in heard], transport.aborted


def copying(data: bytes) -> None:
    """What is heard of it depends on what was said by then, and so on how it is cut."""
    postgres_answers.copying([data])
    postgres_answers.copying([data[n : n + 1] for n in range(len(data))])


class _Transport(StringTransport):
    bufferSize = 65536
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None: ...
    def setTcpKeepAlive(self, enabled: bool) -> None: ...


# ---- settings and HTTP


def spelled(data: bytes) -> None:
    said = text(data)
    for read in (spelling.address, spelling.words, spelling.networks, spelling.flag, spelling.size, spelling.seconds):
        _try(lambda read=read: read(said), ValueError)
    _try(lambda: spelling.count(said), ValueError)


def urls(data: bytes) -> None:
    said = text(data)
    for read in (store_urls.database_url, store_urls.cache_url, store_urls.queue_urls):
        _try(lambda read=read: read(said), ValueError)
    _try(lambda: redis_url.parse(said), ValueError)
    _try(lambda: PostgresServer.parse(said), ValueError, ConfigurationError)
    store_urls.masked(said)


def request_body(data: bytes) -> None:
    read_body(data, Body(FIELDS))


def request_query(data: bytes) -> None:
    read_query(data, FIELDS)


def request_json(data: bytes) -> None:
    json.dumps(read_json(data), ensure_ascii=False).encode()


def websocket(data: bytes) -> None:
    seen = asked.glimpse(data)
    assert len(seen.op) <= 40
    asked.read(data, False)


def http_headers(data: bytes) -> None:
    said = data.decode("latin-1")
    parts = split_host(said)
    assert parts is None or parts[0]
    assert not Hosts().ours("evil.example" + said)
    Hosts().same_origin(said, "localhost")
    client = Forwarded(spelling.networks("10.0.0.0/8")).client("10.0.0.1", [said])
    one_line(client)
    cookies.session_of(said, https=None)


def _try(work: Callable[[], Any], *errors: type[BaseException]) -> None:
    try:
        work()
    except errors as error:
        one_line(str(error).replace("\n", " ") if "\n" in str(error) else str(error))


def whole(cut: Callable[[list[bytes]], Any], *refuses: type[BaseException]) -> Parser:
    return Parser(lambda data: cut([data]), refuses, cut)


PARSERS: dict[str, Parser] = {
    "smtp_mail": Parser(mail_argument, (grammar.Malformed,)),
    "smtp_rcpt": Parser(rcpt_argument, (grammar.Malformed,)),
    "smtp_said": Parser(said_argument),
    "smtp_bdat": Parser(grammar.bdat),
    "smtp_ahead": Parser(lambda data: recipients_ahead(data, 0, 100, CONFIG)),
    "smtp_data": whole(content),
    "sasl": Parser(auth_responses, (sasl.Failed,)),
    "proxy": whole(proxy),
    "address": Parser(address, (ValueError,)),
    "path": Parser(path, (ValueError,)),
    "domain": Parser(lambda data: domain_key(text(data)), (ValueError,)),
    "xtext": Parser(xtext, (ValueError,)),
    "header_block": Parser(header_block),
    "written_header": Parser(written_header, (ValueError,)),
    "header_values": Parser(header_values),
    "message": Parser(message),
    "charset": Parser(charset),
    "html": Parser(page),
    "css": Parser(style),
    "packed": Parser(lambda data: packing.unpack(data, 65536), (Damaged,)),
    "spooled": Parser(spooled, (ValueError,)),
    "redis": whole(redis),
    "redis_pushed": whole(pushed),
    "postgres_journey": whole(postgres_answers.journey),
    "postgres_copy": Parser(copying),
    "settings": Parser(spelled),
    "store_urls": Parser(urls),
    "limits": Parser(lambda data: read_limits(text(data)), (ConfigurationError,)),
    "api_body": Parser(request_body, (Problem,)),
    "api_query": Parser(request_query, (Problem,)),
    "api_json": Parser(request_json, (Problem,)),
    "websocket": Parser(websocket, (Problem,)),
    "http_headers": Parser(http_headers),
}


def same(parser: Parser, data: bytes, at: int) -> None:
    """Whole, cut in two, and octet by octet: what is found does not depend on it."""
    assert parser.cut is not None
    expected = parser.cut([data])
    assert parser.cut([data[:at], data[at:]]) == expected
    assert parser.cut([data[n : n + 1] for n in range(len(data))]) == expected
