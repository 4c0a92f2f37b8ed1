"""Reading headers (RFC 5322 §2.2, RFC 2047, RFC 2231): bounded, linear, and never an error.

Not the standard library's: its parameter parser takes quadratic time on a long quoted value, and a From of 60,000
quotes under its default policy took 37 s.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from datetime import date as _date
from email.utils import mktime_tz, parsedate_tz
from urllib.parse import unquote_to_bytes

from . import charsets

MOST_FIELDS = 1000
MOST_OCTETS = 256 * 1024
"""Of one header section that is considered."""
MOST_PARAMETERS = 100
LONGEST_STRUCTURED = 8192
"""Characters of a Content-Type or Content-Disposition that are looked at."""

_FIELD = re.compile(rb"([!-9;-~]{1,200})[ \t]*:")
# Fields with the lines folded into them, whole; where a line is none, nothing.
_FIELDS = re.compile(r"([!-9;-~]{1,200})[ \t]*:([^\n]*+(?:\n[ \t][^\n]*+)*+)\n?|[^\n]+\n?")
_SPACE = " \t\n\r\v\f"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WORD = re.compile(r"=\?([^?\s]{1,100})\?([bBqQ])\?([^?\r\n]*)\?=")
_BETWEEN = re.compile(r"(\?=)\s+(?==\?[^?\s]{1,100}\?[bBqQ]\?)")


class Section:
    """The fields of one header section, in order: their names as written, their values not decoded."""

    __slots__ = ("_fields", "_first", "body", "cut", "malformed")

    def __init__(self, fields: Sequence[tuple[str, str]], body: int, cut: bool, malformed: int) -> None:
        self._fields = fields  # still folded
        self.body = body  # where the body begins
        self.cut = cut  # there was more than is considered
        self.malformed = malformed  # lines that are no field
        self._first = {name.lower(): value for name, value in reversed(fields)}

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Name and value of each."""
        return [(name, _unfolded(value)) for name, value in self._fields]

    def get(self, name: str, default: str = "") -> str:
        """The first field of this name (lower case)."""
        value = self._first.get(name)
        return default if value is None else _unfolded(value)


def _unfolded(value: str) -> str:
    if "\n" not in value:
        return value.strip(_SPACE)
    return " ".join([piece.strip(_SPACE) for piece in value.split("\n")])


def read_section(data: bytes, start: int = 0, stop: int | None = None) -> Section:
    """The header section at ``start``. What lies behind ``MOST_OCTETS`` is not looked at, except for its end."""
    stop = len(data) if stop is None else stop
    if data[start : start + 1] == b"\n" or data[start : start + 2] == b"\r\n":
        return Section((), start + (1 if data[start : start + 1] == b"\n" else 2), False, 0)
    # an empty line
    end = data.find(b"\n\r\n", start, stop)
    bare = data.find(b"\n\n", start, stop if end < 0 else end + 1)
    if bare >= 0:
        end = bare
    last, body = (end + 1, end + (2 if end == bare else 3)) if end >= 0 else (stop, stop)
    block = data[start : min(last, start + MOST_OCTETS)]
    cut = last - start > MOST_OCTETS
    if block.isascii() and b"\0" not in block:
        found = _FIELDS.findall(block.decode("ascii"))
        if len(found) <= MOST_FIELDS and ("", "") not in found:
            return Section(found, body, cut, 0)
    fields, more, malformed = _any_fields(block)
    return Section(fields, body, cut or more, malformed)


def _any_fields(block: bytes) -> tuple[list[tuple[str, str]], bool, int]:
    """The fields of any block; whether there are more, and how many lines are no field."""
    fields: list[tuple[str, str]] = []
    name, malformed = "", 0
    pieces: list[bytes] = []
    more = False
    for line in block.split(b"\n"):
        line = line.removesuffix(b"\r")
        if line[:1] in (b" ", b"\t"):
            if pieces:
                pieces.append(line)
            continue
        if pieces:
            fields.append((name, charsets.decode(b"\n".join(pieces))))
            pieces = []
        if not line:
            continue
        if len(fields) >= MOST_FIELDS:
            more = True
            break
        match = _FIELD.match(line)
        if match is None:
            malformed += not line.startswith((b"From ", b">From "))
            continue
        name, pieces = match[1].decode("ascii"), [line[match.end() :]]
    if pieces:
        fields.append((name, charsets.decode(b"\n".join(pieces))))
    return fields, more, malformed


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
# The same where there is no backslash.
_PLAIN_PARAMETER = re.compile(r';\s*([^\s=;"]{1,100})\s*=\s*(?:"([^"]{0,4096})"?|([^;"]{0,4096}))')
_PAIR = re.compile(r"\\(.)", re.DOTALL)


def parameters(value: str) -> tuple[str, dict[str, str]]:
    """A structured field's value and its parameters by name (both lower case), RFC 2231 §3 and §4 resolved, encoded
    words (which RFC 2047 §5 forbids here, and everyone sends) decoded."""
    value = value[:LONGEST_STRUCTURED]
    first = value.partition(";")[0].strip().lower()
    found: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[bool, str]]] = {}
    escaped = "\\" in value
    for name, quoted, text in (_PARAMETER if escaped else _PLAIN_PARAMETER).findall(value)[:MOST_PARAMETERS]:
        name = name.lower()
        text = (_PAIR.sub(r"\1", quoted) if escaped else quoted) or text.strip()
        if "*" not in name:
            found.setdefault(name, decode_words(text))
            continue
        base, _, rest = name.partition("*")
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


_DATE = re.compile(
    r"(?:[A-Z][a-z]{2}, )?([0-9]{1,2}) ([A-Z][a-z]{2}) ([12][0-9]{3}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) "
    r"(?:([+-])([0-9]{2})([0-9]{2})|GMT)(?: \([A-Z]{3,4}\))?"
)
_EPOCH = _date(1970, 1, 1).toordinal()
_MONTHS = {
    "Jan": 1, "Feb": 2, "Mar": 3, "Apr": 4, "May": 5, "Jun": 6, "Jul": 7, "Aug": 8, "Sep": 9, "Oct": 10, "Nov": 11,
    "Dec": 12,
}  # fmt: skip


def date(value: str) -> int | None:
    """The Date field (RFC 5322 §3.3) in microseconds since 1970, UTC; None if it cannot be read."""
    usual = _DATE.fullmatch(value, 0, 128)
    if usual is not None and usual[2] in _MONTHS and not value.endswith("-0000"):
        day, month, year, hour, minute, second, sign, hours, minutes = usual.groups()
        days = _date(int(year), _MONTHS[month], 1).toordinal() + int(day) - 1 - _EPOCH
        east = 0 if sign is None else int(hours) * 3600 + int(minutes) * 60
        seconds = days * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second) - (-east if sign == "-" else east)
        return _moment(int(year), seconds)
    try:
        parsed = parsedate_tz(value[:128])
        return None if parsed is None else _moment(parsed[0], mktime_tz(parsed))
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _moment(year: int, seconds: int) -> int | None:
    # what cannot be written as RFC 3339 is no date
    return seconds * 1_000_000 if year >= 1900 and -2_208_988_800 <= seconds < 253_402_214_400 else None


def headers(data: bytes) -> list[tuple[str, str]]:
    """The fields of a message's header section, decoded, for a reader."""
    return [(name, decode_words(value)) for name, value in read_section(data).fields]
