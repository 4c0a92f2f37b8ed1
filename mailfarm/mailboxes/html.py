"""The HTML of a mail, made fit to be shown: a document for a frame that may do nothing.

Three walls, each enough by itself: this sanitiser, the Content-Security-Policy of ``policy``, and a frame with
``sandbox`` and no permissions. Scripts, event handlers, forms, frames, objects, ``meta``, ``base`` and ``link`` go;
what makes a mail look as its author meant stays: tables, fonts, style attributes and style sheets.

Images of the mail itself (``cid:``, RFC 2392) become ``data:`` URIs. Remote images are left out until the reader asks
for them; the ``<html>`` element counts those left out in ``data-blocked``. Addresses relative to our own server are
never kept. Input, output and time are bounded: ``LIMIT``, ``INLINE_LIMIT`` and ``markup``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import unquote

import nh3

from .css import without_fetches
from .markup import escaped, plain, stand_ins, tidy

LIMIT: Final = 1 << 20
"""The characters of HTML that are looked at; what comes after is not shown."""

INLINE_LIMIT: Final = 24 << 20
"""The characters of ``data:`` URIs that cid: images may add to one document."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TAGS: Final = _names(
    "a abbr acronym address article aside b basefont bdi bdo big blockquote br caption center cite code col colgroup "
    "dd del details dfn dir div dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header hgroup hr i img ins "
    "kbd li main map area mark menu nav ol p pre q rp rt ruby s samp section small span strike strong style sub "
    "summary sup table tbody td tfoot th thead time tr tt u ul var wbr"
)
# Their text is no part of the mail as its reader sees it.
_WITHOUT_CONTENT: Final = _names(
    "applet audio canvas embed frame frameset iframe math noembed noframes noscript object "
    "script select svg template textarea title video xmp"
)
_EVERYWHERE: Final = _names("align class dir height id lang style title valign width role")
_ATTRIBUTES: Final[Mapping[str, frozenset[str]]] = {
    "*": _EVERYWHERE,
    "a": frozenset({"href", "name"}),
    "area": frozenset({"href", "alt", "coords", "shape"}),
    "basefont": frozenset({"color", "face", "size"}),
    "blockquote": frozenset({"type"}),
    "br": frozenset({"clear"}),
    "col": frozenset({"span", "bgcolor"}),
    "colgroup": frozenset({"span", "bgcolor"}),
    "details": frozenset({"open"}),
    "div": frozenset({"bgcolor", "background"}),
    "font": frozenset({"color", "face", "size"}),
    "hr": frozenset({"color", "noshade", "size"}),
    "img": frozenset({"src", "alt", "border", "hspace", "vspace", "usemap"}),
    "li": frozenset({"type", "value"}),
    "map": frozenset({"name"}),
    "ol": frozenset({"start", "type", "reversed"}),
    "style": frozenset({"media", "type"}),
    "table": frozenset(
        {"bgcolor", "background", "border", "bordercolor", "cellpadding", "cellspacing", "frame", "rules", "summary"}
    ),
    "tbody": frozenset({"bgcolor"}),
    "td": frozenset({"bgcolor", "background", "bordercolor", "colspan", "rowspan", "nowrap", "headers", "scope"}),
    "tfoot": frozenset({"bgcolor"}),
    "th": frozenset({"bgcolor", "background", "bordercolor", "colspan", "rowspan", "nowrap", "headers", "scope"}),
    "thead": frozenset({"bgcolor"}),
    "tr": frozenset({"bgcolor", "background", "bordercolor"}),
    "ul": frozenset({"type"}),
}
_ATTRIBUTE_NAMES: Final = frozenset().union(*_ATTRIBUTES.values())
_LINK_SCHEMES: Final = ("http:", "https:", "mailto:", "tel:", "sms:")
_INVISIBLE: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202f\u2060-\u2064\ufeff]+")
_DATA_IMAGE: Final = re.compile(r"data:image/(?:png|gif|jpe?g|webp|avif|bmp|x-icon)[;,]", re.IGNORECASE)
_BODY: Final = re.compile(r"<body((?:\s[^<>]{0,4000})?)>", re.IGNORECASE)
_STYLE: Final = re.compile(r"(<style[^<>]*>)(.*?)(</style>)", re.DOTALL | re.IGNORECASE)

# A mail's author counts on a white page; the margins are those of a mail program.
_PAGE: Final = (
    "html{color-scheme:light;color:#1a1a1a}"
    "body{margin:16px;font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif;overflow-wrap:anywhere}"
    "img{max-width:100%}"
)


def policy(remote: bool) -> str:
    """The Content-Security-Policy of a sanitised document: a sandbox without permissions, pictures only from
    ``data:`` (with ``remote`` also from the web), styles in place, nothing else. Only our own pages may frame it."""
    images = "data: https: http:" if remote else "data:"
    return (
        f"sandbox; default-src 'none'; img-src {images}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )


class _Pictures:
    """Decides for each picture of one document where it may come from, and counts the remote ones left out."""

    def __init__(self, remote: bool, cid: Callable[[str], str | None]) -> None:
        self._remote = remote
        self._cid = cid
        self._inlined: dict[str, str | None] = {}
        self._room = INLINE_LIMIT
        self.blocked = 0

    def source(self, url: str) -> str | None:
        """The address to show for ``url``, or None for no picture."""
        bare = _INVISIBLE.sub("", url)
        kind = bare[:24].lower()
        if kind.startswith("cid:"):
            return self._own(unquote(bare[4:]))
        if kind.startswith("data:"):
            return bare if _DATA_IMAGE.match(bare) else None
        if kind.startswith("//"):
            bare = "https:" + bare
        elif not kind.startswith(("http://", "https://")):
            return None
        if self._remote:
            return bare
        self.blocked += 1
        return None

    def _own(self, name: str) -> str | None:
        if name not in self._inlined:
            found = self._cid(name)
            self._inlined[name] = found if found is not None and _DATA_IMAGE.match(found) else None
        data = self._inlined[name]
        # The same picture a thousand times would be a bomb.
        if data is None or len(data) > self._room:
            return None
        self._room -= len(data)
        return data


def sanitise(html: str, *, remote: bool, cid: Callable[[str], str | None]) -> str:
    """A whole HTML document that shows ``html`` safely.

    ``cid`` is asked once for each picture of the mail by its Content-ID, without brackets and no longer percent-encoded
    (RFC 2392), and returns a ``data:image/...`` URI or None. ``remote`` keeps pictures from the web.
    Never raises on what a mail may hold.
    """
    pictures = _Pictures(remote, cid)

    def attribute(tag: str, name: str, value: str) -> str | None:
        if name == "style":
            return stand_ins(without_fetches(plain(value), pictures.source))
        if name in ("src", "background"):
            source = pictures.source(plain(value))
            return None if source is None else stand_ins(source)
        if name == "href":
            bare = _INVISIBLE.sub("", plain(value))
            return value.strip() if bare.lower().startswith((*_LINK_SCHEMES, "#")) else None
        return value

    def clean(part: str) -> str:
        return nh3.clean(
            tidy(part, tags=_TAGS, attributes=_ATTRIBUTE_NAMES, hidden=_WITHOUT_CONTENT),
            tags=_TAGS,
            clean_content_tags=_WITHOUT_CONTENT,
            attributes=_ATTRIBUTES,
            attribute_filter=attribute,
            url_schemes={"http", "https", "mailto", "tel", "sms", "cid", "data"},
            link_rel="noopener noreferrer nofollow",
            set_tag_attribute_values={"a": {"target": "_blank"}, "area": {"target": "_blank"}},
        )

    html = html[:LIMIT]
    inner = _STYLE.sub(
        lambda found: found[1] + without_fetches(found[2], pictures.source).replace("<", "") + found[3], clean(html)
    )
    # A fragment has no <body>, so its attributes go through the same sieve as those of a <div>.
    body = _BODY.search(html)
    own = clean(f"<div{body[1]}></div>").removeprefix("<div").removesuffix("></div>") if body else ""
    return (
        f'<!doctype html><html data-blocked="{pictures.blocked}"><head><meta charset="utf-8">'
        f'<meta name="referrer" content="no-referrer"><style>{_PAGE}</style></head>'
        f"<body{escaped(own)}>{escaped(inner)}</body></html>"
    )
