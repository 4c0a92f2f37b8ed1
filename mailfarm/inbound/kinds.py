"""What the headers of a part say of its kind (RFC 2045 §5 and §6, RFC 2183), read once where many say the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from . import charsets, filenames
from .headers import parameters, plain

REMEMBERED = 512
"""Kinds that are remembered: ``text/plain; charset="utf-8"`` in quoted-printable and the like."""
SHORT = 200
"""Characters up to which a part's headers are remembered together."""

# A boundary is a message's own, and says nothing of the kind.
_WITH_BOUNDARY = re.compile(r'(multipart/[a-z]+); *boundary=(?:"[^"\\;]*+"|[^"\\;\s=]++)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Kind:
    """``filename`` is what was said, ``name`` what it is safe to save under. ``transfer`` is the encoding that decides,
    ``encoding`` the same without control characters. ``shown``: it is text, neither an attachment nor a file."""

    content_type: str
    charset: str
    disposition: str
    filename: str
    name: str
    transfer: str
    encoding: str
    shown: bool
    known_charset: bool


def kind(stated: str, disposition: str, transfer: str, content_type: str = "", default: str = "text/plain") -> Kind:
    """The kind that the fields Content-Type, Content-Disposition and Content-Transfer-Encoding describe; the empty
    string for one that is not there. ``content_type`` is the type where it is known, ``default`` where none is named.
    """
    bare = _WITH_BOUNDARY.fullmatch(stated)
    if bare is not None:
        stated = bare[1]
    if len(stated) + len(disposition) + len(transfer) + len(content_type) > SHORT:
        return _read(stated, disposition, transfer, content_type, default)
    return _remembered(stated, disposition, transfer, content_type, default)


def _read(stated: str, disposition: str, transfer: str, content_type: str, default: str) -> Kind:
    named, of_type = parameters(stated)
    disposed, of_disposition = parameters(disposition) if disposition else ("", {})
    disposed = disposed.partition(" ")[0][:50]
    # RFC 2045 §5.2: what names no type and subtype is text/plain
    content_type = content_type or (named if named.count("/") == 1 and " " not in named else default)
    content_type = plain(content_type[:200].lower())
    filename = of_disposition.get("filename") or of_type.get("name", "")
    name = filenames.safe(filename) if filename else ""
    transfer = transfer.partition(";")[0].strip().lower()[:50]
    charset = plain(of_type.get("charset", "")).strip()[:100]
    # RFC 2183 §2: what is neither shown inline nor part of the structure is an attachment
    shown = content_type in ("text/plain", "text/html") and disposed != "attachment" and not name
    known = charsets.known(charset)
    return Kind(content_type, charset, disposed, filename, name, transfer, plain(transfer), shown, known)


_remembered = lru_cache(REMEMBERED)(_read)
