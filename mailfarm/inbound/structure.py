"""The tree of a message's parts (RFC 2045, RFC 2046), by one of two parsers.

*fast* is fast-mail-parser: 13 µs for 4 KB, but 86 s for a Subject of 300,000 encoded words, also where it is within a
base64 of an attached message, and 5 GB for 20 MB within 250 message/rfc822 (each level is a copy). ``bounded.py`` keeps
such mail from it. *plain* is the one below: one pass over the lines that begin with ``--``, places instead of copies, a
bounded number of parts, and anything at all is a tree to it. It replaces the standard library's parser, whose parameter
parser is quadratic and which asks every open boundary about every line.

Both number parts alike: depth first, 1 is the root, containers and attached messages count.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import fast_mail_parser

from mailfarm.values import value

from .headers import Section, lenient_base64, parameters, read_section
from .kinds import Kind, kind

MOST_PARTS = 1000
DEEPEST = 100
MOST_DASHES = 200_000
"""Lines that begin with ``--`` which are looked at."""


class Body(Protocol):
    """What a part holds, in its transfer encoding. Each of these may raise ``Broken``."""

    def whole(self) -> bytes | None:
        """All of it, decoded; None if the part only holds other parts."""

    def head(self, limit: int) -> bytes | None:
        """At least the first ``limit`` octets of it, if there are so many."""

    def size(self) -> int | None:
        """Its length once decoded, in octets."""


@dataclass(slots=True)
class Node:
    """One part, and those in it."""

    kind: Kind
    content_id: str
    depth: int
    body: Body
    children: list[Node] = field(default_factory=list)

    @property
    def container(self) -> bool:
        """Whether it is made of parts, or of a message."""
        return bool(self.children) or self.kind.content_type.startswith("multipart/")


class Broken(Exception):
    """The fast parser cannot make sense of it; the plain one can."""


@value
class Tree:
    """A message's parts and what was wrong with their structure."""

    root: Node
    findings: tuple[str, ...] = ()


def walk(root: Node) -> Iterator[tuple[int, int | None, Node]]:
    """Every part with its number and its parent's, depth first, ``MOST_PARTS`` at most."""
    pending: list[tuple[Node, int | None]] = [(root, None)]
    number = 0
    while pending and number < MOST_PARTS:
        node, parent = pending.pop()
        number += 1
        yield number, parent, node
        if node.children:
            pending += [(child, number) for child in reversed(node.children)]


# ---- fast


def fast(data: bytes) -> Tree:
    """The tree as fast-mail-parser sees it. Raises Broken."""
    try:
        root = fast_mail_parser.parse_email_tree(data, mode="lazy")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise Broken(str(error)) from None
    made = _from_fast(root, 0)
    pending = [(root, made)]
    parts = 1
    while pending:
        theirs, ours = pending.pop()
        for child in theirs.children:
            parts += 1
            if ours.depth >= DEEPEST or parts > MOST_PARTS:
                raise Broken("the tree is too large")  # the plain parser knows how to cut it
            node = _from_fast(child, ours.depth + 1)
            ours.children.append(node)
            pending.append((child, node))
    return Tree(made)


def _from_fast(part: fast_mail_parser.PyLazyMimePart, depth: int) -> Node:
    said = {name.lower(): values[0] for name, values in part.headers.items() if len(name) in _LENGTHS and values}
    return _node(said.get, depth, _FastBody(part), part.content_type)


# Of the names of fields that say something of a part.
_LENGTHS = {len(name) for name in ("content-type", "content-disposition", "content-transfer-encoding", "content-id")}


class _FastBody:
    """Decoded when first asked for, and kept: there are no places to come back to. Large mail is not read this way."""

    __slots__ = ("_part",)

    def __init__(self, part: fast_mail_parser.PyLazyMimePart) -> None:
        self._part = part

    def whole(self) -> bytes | None:
        try:
            return self._part.content
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise Broken(str(error)) from None

    def head(self, limit: int) -> bytes | None:
        return self.whole()

    def size(self) -> int | None:
        data = self.whole()
        return None if data is None else len(data)


# ---- plain


@dataclass(slots=True)
class _Open:
    """A part whose end has not been found yet."""

    node: Node
    start: int
    boundary: bytes = b""


def plain(data: bytes) -> Tree:
    """The tree as the plain parser sees it. Anything is a message to it."""
    reader = _Reader(data)
    reader.run()
    return Tree(reader.root, tuple(reader.findings))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.findings: list[str] = []
        self.open: list[_Open] = []
        self.places: dict[bytes, int] = {}  # open boundaries, and where in ``open`` they stand
        self.parts = 0
        self.full = False
        self.resume = 0
        self.root = self._enter(0, "text/plain")

    def run(self) -> None:
        data, at = self.data, max(self.resume - 1, 0)
        for _ in range(MOST_DASHES):
            # no boundary open, nothing to find
            found = data.find(b"\n--", at) if self.places else -1
            if found < 0:
                break
            start = found + 3
            end = data.find(b"\n", start, start + 300)
            line = data[start : len(data) if end < 0 and len(data) - start < 300 else max(end, start)].rstrip()
            at = found + 1
            place, closing = self.places.get(line), False
            if place is None and line.endswith(b"--"):
                place, closing = self.places.get(line[:-2]), True
            if place is None:
                continue
            self._leave(place + 1, found - (data[found - 1 : found] == b"\r"))
            if closing:
                del self.places[self.open[place].boundary]
                continue
            if self.parts >= MOST_PARTS:
                self._find(f"only the first {MOST_PARTS} parts are listed")
                break
            body = start + len(line) if end < 0 else end + 1
            child = "message/rfc822" if self.open[place].node.kind.content_type == "multipart/digest" else "text/plain"
            self._enter(body, child)
            at = max(self.resume - 1, at)
        else:
            self._find(f"lines that begin with -- behind the first {MOST_DASHES} were not looked at")
        if self.places:
            self._find("a multipart has no end")
        self._leave(0, len(data))

    def _enter(self, start: int, default: str) -> Node:
        """Begin a part whose headers are at ``start``, and the message within if it is one."""
        first: Node | None = None
        while True:
            section = self._section(start)
            depth = len(self.open)
            node = _node(section.get, depth, _NOTHING, "", default)
            if self.open:
                self.open[-1].node.children.append(node)
            self.open.append(_Open(node, section.body))
            self.parts += 1
            self.resume = section.body
            first = first or node
            content_type = node.kind.content_type
            boundary = _boundary(section) if content_type.startswith("multipart/") else b""
            nested = content_type == "message/rfc822" and node.kind.transfer in ("", "7bit", "8bit", "binary")
            if depth >= DEEPEST and (nested or content_type.startswith("multipart/")):
                self._find(f"parts more than {DEEPEST} deep are not listed")
            elif content_type.startswith("multipart/"):
                if not boundary:
                    self._find("a multipart names no boundary")
                elif boundary in self.places:
                    self._find("a multipart repeats the boundary of one around it")
                else:
                    self.open[-1].boundary = boundary
                    self.places[boundary] = len(self.open) - 1
            elif nested and self.parts < MOST_PARTS:
                start, default = section.body, "text/plain"
                continue
            return first

    def _section(self, start: int) -> Section:
        """The headers at ``start``, which end at the latest where an open boundary stands."""
        data = self.data
        stop = min(len(data), start + 64 * 1024) if self.open else len(data)
        at = start - 1
        end = _BLANK.search(data, start, stop)
        limit = stop if end is None else end.start()
        while self.places and (at := data.find(b"\n--", at, limit)) >= 0:
            line = data[at + 3 : at + 303].partition(b"\n")[0].rstrip()
            if line in self.places or (line.endswith(b"--") and line[:-2] in self.places):
                return read_section(data, start, at + 1)
            at += 1
        return read_section(data, start, stop)

    def _leave(self, place: int, end: int) -> None:
        """End every part from ``place`` in the stack on: their bodies end at ``end``."""
        data = self.data
        for open_ in self.open[place:]:
            self.places = {name: at for name, at in self.places.items() if at < place}
            node, start = open_.node, open_.start
            if not node.kind.content_type.startswith("multipart/") or not node.children:
                node.body = _Place(data, start, max(end, start), node.kind.transfer)
        del self.open[place:]

    def _find(self, finding: str) -> None:
        if finding not in self.findings:
            self.findings.append(finding)


def _boundary(section: Section) -> bytes:
    return parameters(section.get("content-type"))[1].get("boundary", "").encode("utf-8", "replace")[:200].rstrip()


_BLANK = re.compile(rb"\n\r?\n")


class _Place:
    """A body as a place in the message: nothing is copied before it is asked for, and its size costs a slice."""

    __slots__ = ("_data", "_encoding", "_end", "_start")

    def __init__(self, data: bytes, start: int, end: int, encoding: str) -> None:
        self._data = data
        self._start = start
        self._end = end
        self._encoding = encoding

    def whole(self) -> bytes:
        return decoded(self._data[self._start : self._end], self._encoding)

    def head(self, limit: int) -> bytes:
        # quoted-printable takes three characters for an octet at most; soft line ends come on top
        end = min(self._end, self._start + 4 * limit + SLICE)
        return decoded(self._data[self._start : end], self._encoding)

    def size(self) -> int:
        start, end = self._start, self._end
        if self._encoding not in ("base64", "quoted-printable"):
            return end - start
        if end - start <= SLICE or self._encoding == "quoted-printable":
            return len(self.whole())
        digits = sum(
            len(self._data[at : min(at + SLICE, end)].translate(None, _NO_DIGITS)) for at in range(start, end, SLICE)
        )
        return digits // 4 * 3 + max(digits % 4 - 1, 0)


class _Nothing:
    """What a part holds that only holds other parts."""

    __slots__ = ()

    def whole(self) -> None:
        return None

    def head(self, limit: int) -> None:
        return None

    def size(self) -> None:
        return None


SLICE = 1024 * 1024
_NO_DIGITS = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
_NOTHING = _Nothing()


def decoded(body: bytes, encoding: str) -> bytes:
    """A body without its transfer encoding (RFC 2045 §6); as it is where the encoding is unknown."""
    if encoding == "base64":
        return lenient_base64(body)
    if encoding == "quoted-printable":
        return binascii.a2b_qp(body)
    return body


def _node(
    get: Callable[[str, str], str], depth: int, body: Body, content_type: str, default: str = "text/plain"
) -> Node:
    said = kind(
        get("content-type", ""),
        get("content-disposition", ""),
        get("content-transfer-encoding", ""),
        content_type,
        default,
    )
    content_id = get("content-id", "")
    return Node(said, content_id and content_id.strip().strip("<>")[:500], depth, body)
