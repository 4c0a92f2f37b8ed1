"""Parsing received mail: bytes in, ``Parsed`` out, never an error.

Whatever comes is read in bounded time and memory: what goes beyond a cap is left out and said so among the findings.
The content itself is kept as it is, whatever parsing makes of it.

==========================  =========================================
parts listed                1,000, at most 100 deep
headers                     1,000 fields, 256 KiB
text and HTML, decoded      1 MiB (characters) each
findings                    50, of 300 characters
==========================  =========================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailfarm.errors import NotFound
from mailfarm.mailboxes.content import Head, Parsed, Parser, Part
from mailfarm.mailboxes.visible import easy, shown

from . import charsets, headers, structure
from .bounded import safe_for_fast
from .headers import Section, decode_words, plain
from .people import people
from .structure import Broken, Node, Tree

LONGEST_TEXT = 1024 * 1024
LONGEST_SUBJECT = 2000
LONGEST_MESSAGE_ID = 1000
SNIPPET = 250
MOST_FINDINGS = 50
LONGEST_FINDING = 300


def parse(content: bytes) -> Parsed:
    """What ``content`` says. Takes about 70 microseconds for 4 KB."""
    findings = _Findings()
    section = headers.read_section(content)
    if section.cut:
        findings.add(f"only {len(section.fields)} header fields within {headers.MOST_OCTETS} octets were read")
    if section.malformed:
        findings.add(f"{section.malformed} header lines are no fields")
    try:
        body = _body(content, section, findings)
    except Exception as error:  # paranoid: a message that cannot be parsed must still be kept and listed
        findings.add(f"the parts could not be read: {type(error).__name__}")
        body = _Body(parser="none")
    return _parsed(section, body, findings)


def part(content: bytes, n: int, parser: Parser) -> tuple[str, str, bytes]:
    """Part ``n`` as the parser that gave it its number sees it: content type, safe filename and decoded bytes.

    Raises NoPart, also for a part that is only made of other parts.
    """
    if parser != "none":
        try:
            tree = structure.fast(content) if parser == "fast" else structure.plain(content)
            for number, _, node in structure.walk(tree.root):
                if number == n:
                    data = node.body.whole()
                    if data is not None:
                        return node.kind.content_type, node.kind.name, data
        except Broken:
            pass
    raise NoPart(f"the message has no part {n} with content of its own")


class NoPart(NotFound, LookupError):
    """There is no such part."""


class _Findings:
    def __init__(self) -> None:
        self.all: list[str] = []

    def add(self, finding: str) -> None:
        if len(self.all) < MOST_FINDINGS and finding not in self.all:
            self.all.append(plain(charsets.clean(finding))[:LONGEST_FINDING])


@dataclass(slots=True)
class _Body:
    """What the part tree gave."""

    parser: Parser
    parts: Sequence[Part] = ()
    text: str = ""
    html: str = ""
    text_cut: bool = False
    html_cut: bool = False


def _body(content: bytes, section: Section, findings: _Findings) -> _Body:
    # a line that is no field ends the headers for the fast parser, and everything else would be text
    if not section.malformed and safe_for_fast(content):
        try:
            return _read(structure.fast(content), "fast", findings)
        except Broken as error:
            findings.add(f"not as it should be: {error}")
    return _read(structure.plain(content), "plain", findings)


def _read(tree: Tree, parser: Parser, findings: _Findings) -> _Body:
    """Raises Broken, with nothing added to the findings, if the fast parser cannot decode a part."""
    found = _Findings()
    for finding in tree.findings:
        found.add(finding)
    body = _Body(parser)
    parts: list[Part] = []
    texts: dict[str, list[str]] = {"text/plain": [], "text/html": []}
    room = {"text/plain": LONGEST_TEXT, "text/html": LONGEST_TEXT}
    foreign: set[int] = set()  # parts of a message within the message: none of its text, none of its attachments
    for number, parent, node in structure.walk(tree.root):
        kind = node.kind
        inside = parent in foreign
        if inside or kind.content_type == "message/rfc822":
            foreign.add(number)
        size = node.body.size()
        made = _part(number, parent, node, size, inside, found)
        if kind.shown and not inside and not made.attachment and size is not None:
            if not kind.known_charset:
                found.add(f"part {number}: the charset {kind.charset!r} is unknown")
            left = room[kind.content_type]
            most = 4 * left + 4  # a character takes up to four octets
            data = (node.body.head(most) or b"")[:most]
            text = charsets.decode(data, kind.charset, cut=size > most).replace("\r\n", "\n")
            if len(text) > left or size > most:
                text = text[:left]
                if kind.content_type == "text/html":
                    body.html_cut = True
                else:
                    body.text_cut = True
            room[kind.content_type] -= len(text)
            if text:
                texts[kind.content_type].append(text)
        parts.append(made)
    body.parts = parts
    body.text = "\n".join(texts["text/plain"])
    body.html = "\n".join(texts["text/html"])
    for finding in found.all:
        findings.add(finding)
    return body


def _part(number: int, parent: int | None, node: Node, size: int | None, inside: bool, found: _Findings) -> Part:
    kind = node.kind
    if kind.name != kind.filename:
        found.add(f"part {number}: the name {kind.filename!r} is not safe")
    picture = kind.content_type.startswith("image/") and node.content_id and kind.disposition != "attachment"
    whole = node.container and kind.content_type != "message/rfc822"
    return Part(
        number,
        parent,
        kind.content_type,
        kind.charset,
        kind.name,
        kind.disposition,
        plain(node.content_id) if node.content_id else "",
        kind.encoding,
        size,
        not (inside or kind.shown or picture or whole),
    )


def _parsed(section: Section, body: _Body, findings: _Findings) -> Parsed:
    from_ = people(section.get("from"))
    subject = decode_words(section.get("subject"))[:LONGEST_SUBJECT]
    text, visible = body.text, ""
    snippet = _snippet(text)
    if body.html and not (snippet and easy(body.html)):
        visible = shown(body.html)[:LONGEST_TEXT]
        snippet = snippet or _snippet(visible)
    head = Head(
        people(section.get("reply-to")),
        headers.date(section.get("date")),
        body.text_cut,
        body.html_cut,
        body.parser,
        tuple(findings.all),
    )
    return Parsed(
        from_[0] if from_ else None,
        people(section.get("to")),
        people(section.get("cc")),
        subject,
        snippet,
        plain(section.get("message-id")).strip("<>")[:LONGEST_MESSAGE_ID],
        sum(each.attachment for each in body.parts),
        text,
        body.html,
        visible,
        tuple(body.parts),
        head,
    )


def _snippet(text: str) -> str:
    begins = " ".join(text[: SNIPPET + 50].split())
    if len(begins) < SNIPPET:
        begins = " ".join(text[: SNIPPET * 4].split())
    return plain(begins[:SNIPPET])


def kept(content: bytes, finding: str) -> Parsed:
    """What is said of a message whose parts could not be read, or whose reading never came back: its headers, which
    are read by nothing but plain loops over bounded text."""
    findings = _Findings()
    findings.add(finding)
    return _parsed(headers.read_section(content), _Body(parser="none"), findings)
