"""What a reader sees of HTML, as text, and the links in it.

One pass from left to right that never looks at a character twice, so that no HTML is slow. It shows text and finds
links; it is no sanitiser, and nothing it gives is ever used as HTML.
"""

from __future__ import annotations

import re
from html import unescape

from mailfarm.mailboxes.content import Link

MOST_LINKS = 1000
LONGEST_URL = 8192
LONGEST_TEXT = 500

_STOP = re.compile(r"""[>"']""")
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9:-]{0,40}")
_HREF = re.compile(r"""\bhref\s{0,20}=\s{0,20}(?:"([^"]*)|'([^']*)|([^\s>"']+))""", re.IGNORECASE)
_HIDDEN = {"head", "script", "style", "template", "title"}
_RAW = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style", "title")}
_BLOCK = {
    "address", "article", "blockquote", "br", "center", "dd", "div", "dl", "dt", "footer", "form", "h1", "h2", "h3",
    "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p", "pre", "section", "table", "tbody", "tfoot", "thead",
    "tr", "ul",
}  # fmt: skip
_CELL = {"td", "th"}
_MATTERS = _HIDDEN | _BLOCK | _CELL | {"a", "area", "body", "html", "img"}
# Most tags. No attempt to match goes past the next "<", so that all of them together read the HTML once.
_SIMPLE = re.compile(r"""<(/?)([a-zA-Z][a-zA-Z0-9:-]{0,40})((?:[^>"'<]++|"[^"<>]*+"|'[^'<>]*+')*+)>""")
# What is no plain single space, but shown as one: each of these costs a replacement, a space between words none.
_BLANK = r"\t\r\f\v\u00a0\u200b\u200c\u200d\ufeff\u00ad\u034f"
_SPACE = re.compile(f" [ {_BLANK}]+|[{_BLANK}][ {_BLANK}]*")
_LINES = re.compile(r" ?\n[ \n]*")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{1,30}):(?=\S)")
_NO_LINK = {"javascript", "vbscript", "data", "cid", "mid", "mailto", "tel", "sms", "about", "blob", "file"}


def visible(html: str) -> tuple[str, tuple[Link, ...]]:
    """The visible text, a block a line, and the links with the words they are shown under."""
    reader = _Reader(html)
    reader.run()
    text = _LINES.sub("\n", _SPACE.sub(" ", "".join(reader.out))).strip()
    return text, tuple(reader.links)


def is_link(url: str) -> bool:
    """Whether a URL leads somewhere: absolute, of a sensible length, and no script, data, address or part."""
    scheme = _SCHEME.match(url)
    return scheme is not None and scheme[1].lower() not in _NO_LINK and len(url) <= LONGEST_URL


class _Reader:
    def __init__(self, html: str) -> None:
        self.html = html
        self.out: list[str] = []
        self.links: list[Link] = []
        self.hidden: list[str] = []
        self.href = ""
        self.shown_from = 0
        self.absent: set[str] = set()  # what was looked for once and is nowhere further on

    def run(self) -> None:
        html, at = self.html, 0
        find, match, out, hidden = html.find, _SIMPLE.match, self.out, self.hidden
        while (tag := find("<", at)) >= 0:
            if tag > at and not hidden:
                text = html[at:tag]
                out.append(unescape(text) if "&" in text else text)
            simple = match(html, tag)
            if simple is None:
                at = self.markup(tag)
                continue
            at = simple.end()
            closing, name, attributes = simple.groups()
            if name not in _MATTERS:
                name = name.lower()
                if name not in _MATTERS:
                    continue
            if name in _BLOCK:
                if not hidden:
                    out.append("\n")
            elif closing:
                self.close(name)
            else:
                at = self.open(name, attributes, at)
        self.text(html[at:])
        self.end_link()

    def text(self, text: str) -> None:
        if text and not self.hidden:
            self.out.append(unescape(text) if "&" in text else text)

    def find(self, what: str, at: int) -> int:
        if what in self.absent:
            return -1
        found = self.html.find(what, at)
        if found < 0:
            self.absent.add(what)
        return found

    def markup(self, at: int) -> int:
        """Read what begins with ``<`` at ``at``; the place behind it."""
        html = self.html
        if html.startswith("<!--", at):
            end = self.find("-->", at + 4)
            return end + 3 if end >= 0 else len(html)
        closing = html.startswith("/", at + 1)
        name = _NAME.match(html, at + 1 + closing)
        if name is None:
            if html[at + 1 : at + 2] in ("!", "?", "/"):
                end = self.find(">", at)
                return end + 1 if end >= 0 else len(html)
            self.text("<")
            return at + 1
        end = self.end_of_tag(name.end())
        if closing:
            self.close(name[0].lower())
            return end
        return self.open(name[0].lower(), html[name.end() : end], end)

    def open(self, name: str, attributes: str, end: int) -> int:
        """A start tag that ends at ``end``; where to go on reading."""
        self.start(name, attributes)
        if name not in _RAW:
            return end
        # their content is no markup: on to the end tag
        close = _RAW[name].search(self.html, end)
        return len(self.html) if close is None else close.start()

    def end_of_tag(self, at: int) -> int:
        """The place behind the tag's ``>``, which may stand in a quoted value without ending it."""
        html = self.html
        while True:
            stop = _STOP.search(html, at)
            if stop is None:
                return len(html)
            if stop[0] == ">":
                return stop.end()
            quote = self.find(stop[0], stop.end()) if self.value(stop.start()) else -1
            # a quote that is no value's, or has no end, is a character like others
            at = quote + 1 if quote >= 0 else stop.end()

    def value(self, at: int) -> bool:
        """Whether a value begins at ``at``."""
        return self.html[max(0, at - 20) : at].rstrip().endswith("=")

    def start(self, name: str, attributes: str) -> None:
        if name in _HIDDEN and not attributes.endswith("/>"):
            if len(self.hidden) < 100:
                self.hidden.append(name)
        elif name in ("body", "html"):
            self.hidden.clear()  # a head that was never closed
        elif name in ("a", "area"):
            self.end_link()
            href = _HREF.search(attributes[: 4 * LONGEST_URL])
            if href is not None:
                self.href = "".join(unescape(href[1] or href[2] or href[3] or "").split())
                self.shown_from = len(self.out)
        elif name in _BLOCK:
            self.text("\n")
        elif name in _CELL:
            self.text(" ")
        elif name == "img" and self.href:
            alt = re.search(r"""\balt\s{0,20}=\s{0,20}(?:"([^"]{0,200})|'([^']{0,200}))""", attributes[:4096])
            # words of a link that is a picture; not part of the visible text otherwise
            self.text(unescape(alt[1] or alt[2] or "") if alt else "")

    def close(self, name: str) -> None:
        if name in self.hidden:
            del self.hidden[self.hidden.index(name) :]
        elif name == "a":
            self.end_link()
        elif name in _BLOCK:
            self.text("\n")

    def end_link(self) -> None:
        href, self.href = self.href, ""
        if href and len(self.links) < MOST_LINKS and is_link(href):
            shown = "".join(self.out[self.shown_from : self.shown_from + 200])
            self.links.append(Link(href, " ".join(shown[: 4 * LONGEST_TEXT].split())[:LONGEST_TEXT]))
