"""Reading headers (RFC 5322 §2.2, RFC 2047, RFC 2231): bounded, linear, and never an error.

Not the standard library's: its parameter parser takes quadratic time on a long quoted value, and a From of 60,000
quotes under its default policy took 37 s.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from urllib.parse import unquote_to_bytes

from . import charsets

MOST_FIELDS = 1000
MOST_OCTETS = 256 * 1024
"""Of one header section that is considered."""
MOST_PARAMETERS = 100
LONGEST_STRUCTURED = 8192
"""Characters of a Content-Type or Content-Disposition that are looked at."""

_END = re.compile(rb"\r?\n(?=\r?\n)")
_FIELD = re.compile(rb"([!-9;-~]{1,200})[ \t]*:")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WORD = re.compile(r"=\?([^?\s]{1,100})\?([bBqQ])\?([^?\r\n]*)\?=")
_BETWEEN = re.compile(r"(\?=)\s+(?==\?[^?\s]{1,100}\?[bBqQ]\?)")


@dataclass(frozen=True, slots=True)
class Field:
    """One header field: its name as written and its value, unfolded, not decoded."""

    name: str
    value: str


class Section:
    """The fields of one header section, in order. ``start`` to ``body`` is where it lies."""

    __slots__ = ("_first", "body", "cut", "fields", "malformed")

    def __init__(self, fields: Sequence[Field], body: int, cut: bool, malformed: int) -> None:
        self.fields = fields
        self.body = body  # where the body begins
        self.cut = cut  # there was more than is considered
        self.malformed = malformed  # lines that are no field
        self._first: dict[str, str] = {}
        for field in fields:
            self._first.setdefault(field.name.lower(), field.value)

    def get(self, name: str, default: str = "") -> str:
        """The first field of this name (lower case)."""
        return self._first.get(name, default)

    def all(self, name: str) -> Iterator[str]:
        """Every field of this name (lower case)."""
        return (field.value for field in self.fields if field.name.lower() == name)


def read_section(data: bytes, start: int = 0, stop: int | None = None) -> Section:
    """The header section at ``start``. What lies behind ``MOST_OCTETS`` is not looked at, except for its end."""
    stop = len(data) if stop is None else stop
    if data[start : start + 1] == b"\n" or data[start : start + 2] == b"\r\n":
        return Section((), start + (1 if data[start : start + 1] == b"\n" else 2), False, 0)
    end = _END.search(data, start, stop)
    last = stop if end is None else end.end()
    body = stop
    if end is not None:
        body = last + (2 if data[last : last + 2] == b"\r\n" else 1)
    block = data[start : min(last, start + MOST_OCTETS)]
    fields: list[Field] = []
    name, malformed = "", 0
    pieces: list[bytes] = []
    cut = last - start > MOST_OCTETS
    for line in block.split(b"\n"):
        line = line.removesuffix(b"\r")
        if line[:1] in (b" ", b"\t"):
            if pieces:
                pieces.append(line.strip())
            continue
        if pieces:
            fields.append(Field(name, charsets.decode(b" ".join(pieces))))
            pieces = []
        if not line:
            continue
        if len(fields) >= MOST_FIELDS:
            cut = True
            break
        match = _FIELD.match(line)
        if match is None:
            malformed += not line.startswith((b"From ", b">From "))
            continue
        name, pieces = match[1].decode("ascii"), [line[match.end() :].strip()]
    if pieces:
        fields.append(Field(name, charsets.decode(b" ".join(pieces))))
    return Section(fields, body, cut, malformed)


def plain(text: str) -> str:
    """``text`` without control characters: it may be put anywhere, also into a header or a log line."""
    if text.isprintable():
        return text.strip()
    return _CONTROL.sub("", text.replace("\t", " ").replace("\r\n", " ").replace("\n", " ")).strip()


def decode_words(value: str) -> str:
    """``value`` with its encoded words decoded (RFC 2047) and no control characters."""
    if "=?" not in value:
        return plain(value)
    # §6.2: white space between two encoded words is not shown. Words of one charset are decoded together, because
    # senders cut characters in two, which §5 forbids.
    value = _BETWEEN.sub(r"\1", value)
    out: list[str] = []
    kept, label, at = b"", "", 0
    for match in _WORD.finditer(value):
        if match.start() != at or match[1].partition("*")[0].lower() != label:
            out.append(charsets.decode(kept, label))
            out.append(value[at : match.start()])
            kept = b""
        label = match[1].partition("*")[0].lower()  # RFC 2231 §5: a language behind an asterisk
        kept += _word(match[2], match[3])
        at = match.end()
    out.append(charsets.decode(kept, label))
    out.append(value[at:])
    return plain("".join(out))


def _word(encoding: str, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(data, header=True)
    return lenient_base64(data)


_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")


def lenient_base64(data: bytes) -> bytes:
    """Base 64 (RFC 2045 §6.8) as far as it can be read: other characters and wrong padding are passed over."""
    try:
        return binascii.a2b_base64(data)
    except (binascii.Error, ValueError):
        digits = _NOT_BASE64.sub(b"", data)
        whole = len(digits) - len(digits) % 4
        rest = digits[whole:]
        if len(rest) > 1:
            return binascii.a2b_base64(digits + b"=" * (4 - len(rest)))
        return binascii.a2b_base64(digits[:whole])


_PARAMETER = re.compile(r';\s*([^\s=;"]{1,100})\s*=\s*(?:"((?:[^"\\]|\\.){0,4096})"?|([^;"]{0,4096}))', re.DOTALL)
_PAIR = re.compile(r"\\(.)", re.DOTALL)


def parameters(value: str) -> tuple[str, dict[str, str]]:
    """A structured field's value and its parameters by name (both lower case), RFC 2231 §3 and §4 resolved, encoded
    words (which RFC 2047 §5 forbids here, and everyone sends) decoded."""
    value = value[:LONGEST_STRUCTURED]
    first = value.partition(";")[0].strip().lower()
    found: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[bool, str]]] = {}
    for number, match in enumerate(_PARAMETER.finditer(value)):
        if number >= MOST_PARAMETERS:
            break
        name = match[1].lower()
        text = _PAIR.sub(r"\1", match[2]) if match[2] is not None else match[3].strip()
        base, star, rest = name.partition("*")
        if not star:
            found.setdefault(name, decode_words(text))
            continue
        place = rest.removesuffix("*")
        if not place:
            pieces.setdefault(base, {}).setdefault(0, (True, text))
        elif place.isascii() and place.isdigit() and len(place) < 4:
            pieces.setdefault(base, {}).setdefault(int(place), (rest.endswith("*"), text))
    for name, parts in pieces.items():
        found[name] = _extended(parts)  # §4.1: the extended form is preferred
    return plain(first), found


def _extended(parts: dict[int, tuple[bool, str]]) -> str:
    """RFC 2231 §3 and §4. What lies behind a gap in the numbers is left out."""
    label, octets = "", b""
    for number in range(len(parts)):
        if number not in parts:
            break
        encoded, text = parts[number]
        if encoded and number == 0 and text.count("'") >= 2:
            label, _, text = text.split("'", 2)
        octets += unquote_to_bytes(text) if encoded else text.encode("utf-8", "replace")
    return plain(charsets.decode(octets, label))


def date(value: str) -> int | None:
    """The Date field (RFC 5322 §3.3) in microseconds since 1970, UTC; None if it cannot be read."""
    try:
        parsed = parsedate_tz(value[:128])
        if parsed is None or not 1900 <= parsed[0] <= 9999:
            return None
        seconds = mktime_tz(parsed)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    # what cannot be written as RFC 3339 is no date
    return seconds * 1_000_000 if -2_208_988_800 <= seconds < 253_402_214_400 else None


def headers(data: bytes) -> list[tuple[str, str]]:
    """The fields of a message's header section, decoded, for a reader."""
    return [(field.name, decode_words(field.value)) for field in read_section(data).fields]
