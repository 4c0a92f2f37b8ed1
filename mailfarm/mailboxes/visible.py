"""What a reader sees of HTML, as text, and the links in it.

One pass from left to right that never looks at a character twice, so that no HTML is slow. It shows text and finds
links; it is no sanitiser, and nothing it gives is ever used as HTML.

``shown`` is the text alone, which a search looks in. It takes whole runs of well-formed tags apart at once, a third of
a microsecond a tag, and leaves HTML with any other ``<`` in it to ``visible``: both give the same text.
"""

from __future__ import annotations

import re
from html import unescape

from .content import Link

MOST_LINKS = 1000
LONGEST_URL = 8192
LONGEST_TEXT = 500
EASY = 64 * 1024
"""Characters of HTML up to which, and"""
EASY_TAGS = 1000
"""times of ``<`` in it up to which its visible text is found when it is looked for, rather than stored."""

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
# What is shown as a space.
_BLANK = "\t\r\f\v\u00a0\u200b\u200c\u200d\ufeff\u00ad\u034f"
_LINES = re.compile(r"\n[ \n]+")
# What ends a run of simple tags: it hides what follows or, while something is hidden, shows it again; or it is no tag.
_SPECIAL, _SPECIAL_WHILE_HIDDEN = (
    re.compile(rf"<(?:[!?]|/?+(?:{names})(?![a-z0-9:-]))", re.IGNORECASE | re.ASCII)
    for names in ("head|script|style|template|title", "head|script|style|template|title|body|html")
)
_ATTRIBUTES = r"""[^<>"']*+(?:(?:"[^"<>]*+"|'[^'<>]*+')[^<>"']*+)*+"""
_TAGS = re.compile(rf"<(/?[a-zA-Z][a-zA-Z0-9:-]{{0,40}}){_ATTRIBUTES}>")
# Links and pictures with their attributes: the words of a link that is a picture are shown.
_PICTURES = rf"(?:[aA]|[aA][rR][eE][aA]|[iI][mM][gG])(?![a-zA-Z0-9:-]){_ATTRIBUTES}"
_TAGS_AND_PICTURES = re.compile(rf"<({_PICTURES}|/?[a-zA-Z][a-zA-Z0-9:-]{{0,40}}){_ATTRIBUTES}>")
_ALT = re.compile(r"""\balt\s{0,20}=\s{0,20}(?:"([^"]{0,200})|'([^']{0,200}))""")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]{1,30}):(?=\S)")
_NO_LINK = {"javascript", "vbscript", "data", "cid", "mid", "mailto", "tel", "sms", "about", "blob", "file"}


def visible(html: str) -> tuple[str, tuple[Link, ...]]:
    """The visible text, a block a line, and the links with the words they are shown under."""
    reader = _Reader(html)
    reader.run()
    return _collapsed("".join(reader.out)), tuple(reader.links)


def shown(html: str) -> str:
    """The visible text alone, a block a line."""
    text = _Runs(html).text()
    return visible(html)[0] if text is None else _collapsed(text)


def easy(html: str) -> bool:
    """Whether ``shown`` takes two milliseconds at most, whatever is in it: nobody who looks for it waits for that."""
    return len(html) <= EASY and html.count("<") <= EASY_TAGS


def _collapsed(text: str) -> str:
    """``text`` with single spaces, no empty lines, and no space at either end of one."""
    for blank in _BLANK:
        text = text.replace(blank, " ")
    while "  " in text:  # half of each run at a time
        text = text.replace("  ", " ")
    return _LINES.sub("\n", text.replace(" \n", "\n")).strip()


def is_link(url: str) -> bool:
    """Whether a URL leads somewhere: absolute, of a sensible length, and no script, data, address or part."""
    scheme = _SCHEME.match(url)
    return scheme is not None and scheme[1].lower() not in _NO_LINK and len(url) <= LONGEST_URL


def _href(attributes: str) -> str:
    href = _HREF.search(attributes[: 4 * LONGEST_URL])
    return "" if href is None else "".join(unescape(href[1] or href[2] or href[3] or "").split())


def _alt(attributes: str) -> str:
    alt = _ALT.search(attributes[:4096])
    return "" if alt is None else unescape(alt[1] or alt[2] or "")


_INLINE = {
    "abbr", "acronym", "b", "base", "bdi", "bdo", "big", "body", "caption", "cite", "code", "col", "colgroup", "del",
    "dfn", "em", "figcaption", "figure", "font", "html", "i", "input", "ins", "kbd", "label", "link", "map", "mark",
    "meta", "nav", "o:p", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var", "wbr",
}  # fmt: skip
"""Usual tags that show nothing themselves; so does every other that has no meaning here."""


def _meanings() -> dict[str, str]:
    found = {"/img": "", "/area": ""}
    for names, opened, closed in ((_INLINE, "", ""), (_BLOCK, "\n", "\n"), (_CELL, " ", "")):
        for name in names:
            found |= {name: opened, f"/{name}": closed}
    return found | {name.upper(): text for name, text in found.items()}


# What usual tags are shown as.
_MEANS = _meanings()
_MEANS_WITHOUT_PICTURES = _MEANS | dict.fromkeys(("a", "/a", "A", "/A", "area", "AREA"), "")


class _Runs:
    """Reads a run of tags at once, up to what begins or ends something hidden, or is a comment."""

    def __init__(self, html: str) -> None:
        self.html = html
        # in another spelling of the two they are found when they are met
        self.pictures = "<img" in html or "<IMG" in html
        self.hidden: list[str] = []
        self.link = False  # within a link that leads somewhere

    def text(self) -> str | None:
        """What is visible, space as it stands; None if there is a ``<`` that begins no simple tag."""
        html, at = self.html, 0
        out: list[str] = []
        while True:
            special = (_SPECIAL_WHILE_HIDDEN if self.hidden else _SPECIAL).search(html, at)
            stop = len(html) if special is None else special.start()
            if stop > at:
                run = self.run(html[at:stop])
                if run is None:
                    return None
                if not self.hidden:
                    out.append(run)
            if special is None:
                return "".join(out)
            at = self.skip(stop)
            if at < 0:
                return None

    def run(self, run: str) -> str | None:
        """A run of text and simple tags as text."""
        if self.pictures:
            pieces, means = _TAGS_AND_PICTURES.split(run), _MEANS
        else:
            pieces, means = _TAGS.split(run), _MEANS_WITHOUT_PICTURES
        meant = list(map(means.get, pieces[1::2]))
        if None in meant and not self.others(pieces, meant):
            return None
        pieces[1::2] = meant  # others() has left no None
        text = "".join(pieces)
        if "<" in text:
            return None
        if "&" in text:
            # apart: what is left of a tag does not become part of an entity
            text = "".join(unescape(piece) if "&" in piece else piece for piece in pieces)
        return text

    def others(self, pieces: list[str], meant: list[str | None]) -> bool:
        """Say what tags mean that are not among the usual; False if that takes a closer look."""
        for number, means in enumerate(meant):
            if means is not None:
                continue
            tag = pieces[2 * number + 1]
            if tag.startswith("/"):
                name, attributes = tag.lower(), ""
            else:
                name = _NAME.match(tag)[0].lower()  # type: ignore[index]  # every piece between texts begins so
                attributes = tag[len(name) :]
            means = ""
            if name == "img":
                if not self.pictures:
                    return False
                means = _alt(attributes) if self.link else ""
            elif name in ("a", "area"):
                self.link = bool(_href(attributes))
            elif name == "/a":
                self.link = False
            meant[number] = means or _MEANS.get(name, "")
        return True

    def skip(self, at: int) -> int:
        """Read something special at ``at``; the place behind it, or -1 if it is no simple tag."""
        html = self.html
        if html.startswith("<!--", at):
            end = html.find("-->", at + 4)
            return end + 3 if end >= 0 else len(html)
        if html[at + 1] in "!?":
            end = html.find(">", at)
            return end + 1 if end >= 0 else len(html)
        simple = _SIMPLE.match(html, at)
        if simple is None:
            return -1
        name = simple[2].lower()
        if simple[1]:
            if name in self.hidden:
                del self.hidden[self.hidden.index(name) :]
        elif name not in _HIDDEN:
            self.hidden.clear()
        elif len(self.hidden) < 100:
            self.hidden.append(name)
        if simple[1] or name not in _RAW:
            return simple.end()
        close = _RAW[name].search(html, simple.end())
        return len(html) if close is None else close.start()


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
            end = at + 1
            while html.startswith("<<", end):
                end += 1
            self.text(html[at:end])
            return end
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
            self.href = _href(attributes)
            self.shown_from = len(self.out)
        elif name in _BLOCK:
            self.text("\n")
        elif name in _CELL:
            self.text(" ")
        elif name == "img" and self.href:
            # words of a link that is a picture; not part of the visible text otherwise
            self.text(_alt(attributes))

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
