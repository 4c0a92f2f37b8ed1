"""HTML of any shape as well-nested tags of bounded number and depth.

An HTML5 parser forgives everything, and forgiving costs: unclosed elements make it walk its stack for each new tag,
and misnested formatting makes it copy elements. Both are quadratic, and a megabyte of ``<div>`` takes minutes. So a
mail's HTML is read once, from left to right, and written again with its tags nested, which an HTML5 parser reads in
linear time. Tags that are not wanted go at the same time.

This is no sanitiser: what may stay is decided afterwards, by a real parser. It only never writes a ``<`` of its own
that it does not understand. The rules of nesting are those of the HTML standard §13.2.6.4, in short: which start tags
end which elements, and how far up an end tag reaches.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from html import unescape
from typing import Final

MAX_DEPTH: Final = 200
"""Elements within elements; tags further down are left out and their text is kept. Browsers stop at 512."""

MAX_TAGS: Final = 60_000
"""Start tags of one document."""

MAX_ATTRIBUTES: Final = 64
"""Attributes of one tag."""

_RAW: Final = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"})
_VOID: Final = frozenset({"area", "basefont", "br", "col", "hr", "img", "wbr"})
_TABLE_PARTS: Final = frozenset({"caption", "col", "colgroup", "tbody", "td", "tfoot", "th", "thead", "tr"})
_IN_TABLE: Final = _TABLE_PARTS | _VOID | {"table"}
_BETWEEN_CELLS: Final = frozenset({"table", "tbody", "tfoot", "thead", "tr", "colgroup"})
_WALLS: Final = frozenset({"caption", "table", "td", "th"})
_FORMATTING: Final = frozenset(
    {"a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"}
)
_INLINE: Final = _FORMATTING | {
    *("abbr", "acronym", "bdi", "bdo", "cite", "del", "dfn", "ins", "kbd", "label", "map", "mark", "q", "rp", "rt"),
    *("ruby", "samp", "span", "sub", "sup", "time", "var"),
}
# A start tag on the left ends the nearest open element on the right, unless one of _WALLS stands between.
_ROWS: Final = frozenset({"td", "th", "tr", "caption", "colgroup"})
_ENDS: Final[dict[str, frozenset[str]]] = {
    "a": frozenset({"a"}),
    "li": frozenset({"li"}),
    "dd": frozenset({"dd", "dt"}),
    "dt": frozenset({"dd", "dt"}),
    "td": frozenset({"td", "th", "caption", "colgroup"}),
    "th": frozenset({"td", "th", "caption", "colgroup"}),
    "tr": _ROWS,
    "tbody": _ROWS | {"tbody", "thead", "tfoot"},
    "thead": _ROWS | {"tbody", "thead", "tfoot"},
    "tfoot": _ROWS | {"tbody", "thead", "tfoot"},
    "colgroup": frozenset({"colgroup", "caption"}),
}
_REACHES: Final[dict[str, frozenset[str]]] = {
    "li": frozenset({"ul", "ol", "dir", "menu"}),
    "dd": frozenset({"dl"}),
    "dt": frozenset({"dl"}),
}
_MISNESTED: Final = 6  # blocks a formatting end tag may cross; the standard's adoption agency gives up after eight

# Noncharacters that stand for & and < until the end: html5ever takes quadratic time for character references.
AMPERSAND: Final = "\ufdd0"
LESS_THAN: Final = "\ufdd1"
_STAND_INS: Final = str.maketrans({"&": AMPERSAND, "<": LESS_THAN})

# A reference in an attribute needs its semicolon, else ?a=1&copy=2 would change (HTML §13.2.5.73).
_REFERENCE: Final = re.compile(r"&(?:#[0-9]{1,8};?|#[xX][0-9a-fA-F]{1,8};?|[a-zA-Z][a-zA-Z0-9]{1,31};)")
_TEXT_REFERENCE: Final = re.compile(r"&(?:#[0-9]{1,8};?|#[xX][0-9a-fA-F]{1,8};?|[a-zA-Z][a-zA-Z0-9]{1,31};?)")
_NAME: Final = re.compile(r"[^\s/>\0]+")
_ATTRIBUTE: Final = re.compile(
    r"""[\s/]*(?:(>)|([^\s/>][^\s/>=]*)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"'][^\s>]*)))?)"""
)


def tidy(html: str, *, tags: Collection[str], attributes: Collection[str], hidden: Collection[str]) -> str:
    """``html`` with only ``tags`` and ``attributes`` (names in lower case), well nested.

    Elements in ``hidden`` go with their content, other unwanted tags go alone. Character references are resolved; each
    ``&`` and ``<`` of texts and values is AMPERSAND and LESS_THAN. Linear in the length of ``html``.
    """
    return _Tidy(html.replace(AMPERSAND, "").replace(LESS_THAN, ""), tags, attributes, hidden).run()


def plain(value: str) -> str:
    """A text or value of tidied HTML as its reader sees it."""
    return value.replace(AMPERSAND, "&").replace(LESS_THAN, "<")


def stand_ins(value: str) -> str:
    """The inverse of ``plain``."""
    return value.translate(_STAND_INS) if "&" in value or "<" in value else value


def escaped(html: str) -> str:
    """Tidied HTML with references for its stand-ins."""
    return html.replace(AMPERSAND, "&amp;").replace(LESS_THAN, "&lt;")


def _resolved(text: str, references: re.Pattern[str]) -> str:
    if "&" in text:
        text = references.sub(lambda found: unescape(found.group()), text)
    return stand_ins(text)


class _Tidy:
    def __init__(self, html: str, tags: Collection[str], attributes: Collection[str], hidden: Collection[str]) -> None:
        self._html = html
        self._tags = tags
        self._attributes = attributes
        self._hidden = hidden
        self._open: list[str] = []
        self._how_many: Counter[str] = Counter()
        self._out: list[str] = []
        self._count = 0
        self._endless: set[str] = set()

    def run(self) -> str:
        html, out, at = self._html, self._out, 0
        while (start := html.find("<", at)) >= 0:
            out.append(_resolved(html[at:start], _TEXT_REFERENCE))
            after = html[start + 1 : start + 3]
            if after[:1].isascii() and after[:1].isalpha():
                at = self._start_tag(start + 1)
            elif after[:1] == "/" and after[1:].isascii() and after[1:].isalpha():
                at = self._end_tag(start + 2)
            elif after[:1] in ("!", "?", "/") and after:
                at = self._comment(start)
            else:
                out.append(LESS_THAN)
                at = start + 1
        out.append(_resolved(html[at:], _TEXT_REFERENCE))
        self._close(0)
        return "".join(out)

    def _comment(self, start: int) -> int:
        html = self._html
        if not html.startswith("<!--", start):
            end = html.find(">", start)
            return len(html) if end < 0 else end + 1
        if html.startswith((">", "->"), start + 4):
            return html.index(">", start) + 1
        end = html.find("-->", start + 4)
        return len(html) if end < 0 else end + 3

    def _start_tag(self, at: int) -> int:
        found = _NAME.match(self._html, at)
        if found is None:  # a NUL in the name
            return at
        name = found.group().lower()
        at, written = self._read_attributes(found.end())
        if name in _RAW or name in self._hidden:
            return self._content(name, at, written)
        if name not in self._tags or self._count >= MAX_TAGS:
            return at
        if self._open and self._open[-1] in _BETWEEN_CELLS and name not in _IN_TABLE:
            # The standard would move it before the table, and copy formatting for each piece of text there.
            return at
        self._make_way(name)
        if name in _VOID:
            self._count += 1
            self._out.append(f"<{name}{written}>")
        elif len(self._open) < MAX_DEPTH:
            self._count += 1
            self._open.append(name)
            self._how_many[name] += 1
            self._out.append(f"<{name}{written}>")
        return at

    def _read_attributes(self, at: int) -> tuple[int, str]:
        written: dict[str, str] = {}
        match = _ATTRIBUTE.match
        while found := match(self._html, at):
            at = found.end()
            if found[1]:
                return at, "".join(written.values())
            name = found[2].lower()
            if name in self._attributes and name not in written and len(written) < MAX_ATTRIBUTES:
                value = next((group for group in found.groups()[2:] if group is not None), "")
                written[name] = f' {name}="{_resolved(value, _REFERENCE).replace(chr(34), "&quot;")}"'
        return len(self._html), "".join(written.values())

    def _content(self, name: str, at: int, written: str) -> int:
        """Pass over an element that goes with its content; of a style sheet, keep it."""
        end = None
        if name not in self._endless:
            end = re.compile(f"</{re.escape(name)}(?=[\\s/>])[^>]*>?", re.IGNORECASE).search(self._html, at)
        if end is None:
            # Without its end, raw text would reach to the end of the document; anything else is passed over alone.
            self._endless.add(name)
            return len(self._html) if name in _RAW else at
        if name == "style" and name in self._tags and self._count < MAX_TAGS:
            self._count += 1
            css = self._html[at : end.start()].replace("<!--", "").replace("-->", "").replace("<", "")
            self._out.append(f"<style{written}>{css}</style>")
        return end.end()

    def _end_tag(self, at: int) -> int:
        found = _NAME.match(self._html, at)
        end, _ = self._read_attributes(found.end() if found else at)
        if found is None:
            return end
        name, stack = found.group().lower(), self._open
        walls = {"table"} if name in _TABLE_PARTS else _WALLS - {name}
        blocks = 0
        for index in range(len(stack) - 1, -1, -1) if self._how_many[name] else ():
            if stack[index] == name:
                if blocks and name in _FORMATTING and blocks <= _MISNESTED:
                    del stack[index]
                    self._how_many[name] -= 1
                    self._out.append(f"</{name}>")
                elif not blocks or name not in _INLINE or name in _FORMATTING:
                    self._close(index)
                break
            if stack[index] in walls:
                break
            blocks += stack[index] not in _INLINE
        else:
            if name == "p" and name in self._tags and self._count < MAX_TAGS:  # an empty paragraph, by the standard
                self._count += 1
                self._out.append("<p></p>")
        return end

    def _make_way(self, name: str) -> None:
        """End what a start tag of ``name`` ends."""
        ends = _ENDS.get(name)
        if ends is not None:
            self._end_nearest(ends, {"table"} if name in _TABLE_PARTS else _WALLS | _REACHES.get(name, frozenset()))
        if name not in _INLINE and name not in _TABLE_PARTS and name not in ("br", "img", "wbr", "area"):
            self._end_nearest(frozenset({"p"}), _WALLS)

    def _end_nearest(self, ends: frozenset[str], walls: Collection[str]) -> None:
        if not any(self._how_many[name] for name in ends):
            return
        lowest = None
        for index in range(len(self._open) - 1, -1, -1):
            if self._open[index] in walls:
                break
            if self._open[index] in ends:
                lowest = index
                if len(ends) <= 4:
                    break
        if lowest is not None:
            self._close(lowest)

    def _close(self, down_to: int) -> None:
        while len(self._open) > down_to:
            name = self._open.pop()
            self._how_many[name] -= 1
            self._out.append(f"</{name}>")
