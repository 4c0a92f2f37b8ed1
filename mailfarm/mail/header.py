"""Header fields (RFC 5322 §2.2): reading a raw block, decoding words (RFC 2047), writing a line.

Reading is for mail as it comes, that is, for anything: linear time, caps, no exceptions. Writing is for our own
fields, and is strict.
"""

from __future__ import annotations

import codecs
import re
from binascii import Error, a2b_base64, a2b_qp, b2a_base64
from typing import Final

MAX_VALUE: Final = 64 * 1024
"""Octets kept of one field's value when nobody says otherwise."""

_NAME: Final = re.compile(r"[!-9;-~]+")
_WORD: Final = re.compile(r"=\?([^?\s]{1,80})\?([bBqQ])\?([^?\s]*)\?=")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]+")
_ODD_CODECS: Final = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined"})


def read_headers(block: bytes, limit: int = 1000, longest: int = MAX_VALUE) -> list[tuple[str, str]]:
    """The first ``limit`` fields of ``block`` as (name, value), unfolded, not decoded, values cut to ``longest``
    octets.

    Ends at the first empty line, if there is one. Lines may end in CR LF or LF. What is no field (a line without a
    colon, an mbox's ``From ``) is passed over. Octets beyond ASCII are read as UTF-8, with U+FFFD for what is not.
    """
    fields: list[tuple[str, str]] = []
    name = ""
    parts: list[bytes] = []
    room = 0

    def keep() -> None:
        if name:
            value = b"".join(parts).strip(b" \t")
            fields.append((name, value.decode("utf-8", "replace").replace("\r", " ").replace("\0", " ")))

    pos = 0
    size = len(block)
    while pos < size:
        end = block.find(b"\n", pos)
        if end < 0:
            end = size
        stop = end - 1 if end > pos and block[end - 1] == 0x0D else end
        start = pos
        pos = end + 1
        if start == stop:
            break
        if block[start] in b" \t":
            if name and room > 0:
                parts.append(block[start : min(stop, start + room)])
                room -= stop - start
            continue
        keep()
        name = ""
        if len(fields) >= limit:
            return fields
        colon = block.find(b":", start, min(stop, start + 1000))
        if colon < 0:
            continue
        said = block[start:colon].rstrip(b" \t").decode("ascii", "replace")  # obs-optional has space before the colon
        if _NAME.fullmatch(said):
            name = said
            parts = [block[colon + 1 : min(stop, colon + 1 + longest)]]
            room = longest - (stop - colon - 1)
    keep()
    return fields


def decode_words(text: str) -> str:
    """``text`` with its encoded words decoded (RFC 2047 §4, §6.2) and control characters made spaces.

    Never raises: what cannot be decoded is left, or shown with U+FFFD. Linear time.
    """
    if "=?" in text:
        text = _decode_words(text)
    return _CONTROL.sub(" ", text)


def _decode_words(text: str) -> str:
    out: list[str] = []
    charset = ""
    octets: list[bytes] = []
    end = 0
    for match in _WORD.finditer(text):
        between = text[end : match.start()]
        end = match.end()
        label = match[1].partition("*")[0].lower()  # RFC 2231 §5: a language may follow
        # Space between two words is not text; and a character may be cut in two by them, against §5 (3)
        if not (octets and not between.strip()):
            if octets:
                out.append(_decode(octets, charset))
            octets = []
            out.append(between)
        elif label != charset:
            out.append(_decode(octets, charset))
            octets = []
        charset = label
        octets.append(_octets(match[2], match[3]))
    if octets:
        out.append(_decode(octets, charset))
    out.append(text[end:])
    return "".join(out)


def _octets(encoding: str, text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return a2b_qp(raw, header=True)
    raw = raw.rstrip(b"=")
    for cut in (raw, raw[: len(raw) - len(raw) % 4], b""):
        try:
            return a2b_base64(cut + b"==")
        except Error:
            continue
    return b""


def _decode(octets: list[bytes], charset: str) -> str:
    data = b"".join(octets)
    try:
        # not every codec Python has is a charset, and some are slow
        if codecs.lookup(charset).name.replace("_", "-") in _ODD_CODECS:
            charset = "utf-8"
        return data.decode(charset, "replace")
    except (LookupError, ValueError):  # UnicodeError is one; so is a NUL in the name
        return data.decode("utf-8", "replace")


def header_line(name: str, value: str) -> bytes:
    """``name: value`` CR LF, folded at spaces near 78 octets (RFC 5322 §2.2.3).

    A value beyond ASCII becomes encoded words of UTF-8. Raises ValueError for a bad name, and for CR, LF or another
    control character in the value: nobody's text becomes a field of its own.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a header field")
    if any((c < " " and c != "\t") or c == "\x7f" for c in value):
        raise ValueError(f"the value of {name} has a control character")
    words = value.split(" ") if value.isascii() else _encoded_words(value)
    lines = [f"{name}:"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > 78 and lines[-1].strip() and word:
            lines.append("")
        lines[-1] += f" {word}"
    if any(len(line) > 998 for line in lines):  # RFC 5322 §2.1.1
        raise ValueError(f"the value of {name} has a word of more than 990 characters")
    return "\r\n".join(lines).encode("ascii") + b"\r\n"


def _encoded_words(value: str) -> list[str]:
    words: list[str] = []
    piece = b""
    for character in value:
        octets = character.encode("utf-8", "replace")
        if len(piece) + len(octets) > 42:  # 42 octets are 56 of base64, 68 with what stands around them; 75 are allowed
            words.append(_encoded_word(piece))
            piece = b""
        piece += octets
    words.append(_encoded_word(piece))
    return words


def _encoded_word(piece: bytes) -> str:
    return f"=?utf-8?B?{b2a_base64(piece, newline=False).decode('ascii')}?="
