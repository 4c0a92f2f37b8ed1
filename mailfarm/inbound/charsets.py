"""Bytes to text, whatever a message says about them: never an error, never a lone surrogate, never a NUL.

A label is looked up in a list of our own. Python would look for a module of that name and remember for ever that there
is none, and among its codecs are some that are no charsets, or take quadratic time (punycode, idna).
"""

from __future__ import annotations

import re
from encodings.aliases import aliases
from functools import lru_cache

_REFUSED = {
    "base64_codec", "bz2_codec", "hex_codec", "idna", "mbcs", "oem", "punycode", "quopri_codec", "raw_unicode_escape",
    "rot_13", "undefined", "unicode_escape", "uu_codec", "zlib_codec",
}  # fmt: skip
_KNOWN = {name: codec for name, codec in aliases.items() if codec not in _REFUSED}
_KNOWN |= {codec: codec for codec in _KNOWN.values()}
# What is meant where these are said (the WHATWG's encoding standard): supersets that real mail needs.
_KNOWN |= {
    "ascii": "", "us_ascii": "", "646": "", "ansi_x3.4_1968": "", "unknown_8bit": "", "x_unknown": "", "default": "",
    "latin_1": "cp1252", "latin1": "cp1252", "iso_8859_1": "cp1252", "iso8859_1": "cp1252", "8859": "cp1252",
    "iso_8859_8_i": "iso8859_8", "iso_8859_8_e": "iso8859_8", "iso_8859_9": "cp1254",
    "gb2312": "gb18030", "gbk": "gb18030", "gb_2312_80": "gb18030", "cp936": "gb18030", "big5": "big5hkscs",
    "ks_c_5601_1987": "cp949", "ks_c_5601": "cp949", "euc_kr": "cp949", "shift_jis": "cp932", "x_sjis": "cp932",
    "iso_2022_jp": "iso2022_jp_3", "windows_874": "cp874", "tis_620": "cp874", "utf8mb4": "utf_8",
}  # fmt: skip
_SEPARATORS = re.compile(r"[\s.-]+")
# C0 but tab, line feed and carriage return; DEL and C1 do no harm in a body
_UNWANTED = re.compile("[\x00\ud800-\udfff]")


def known(label: str) -> bool:
    """Whether a charset label is one we can decode."""
    return not label or _name(label) in _KNOWN


def decode(data: bytes, label: str = "", *, cut: bool = False) -> str:
    """``data`` as text. A missing or unknown label, and ASCII that is none: UTF-8 if it is, else windows-1252. ``cut``
    says that the last character may not be whole."""
    codec = _KNOWN.get(_name(label), "")
    if codec not in ("", "utf_8"):
        try:
            return clean(data.decode(codec))
        except (UnicodeError, LookupError, ValueError):
            pass
    try:
        text = data.decode("utf_8")
        return text if "\0" not in text else clean(text)
    except UnicodeDecodeError as error:
        if codec == "utf_8":
            return clean(data.decode("utf_8", "replace"))
        if cut and error.start >= len(data) - 3:
            return clean(data[: error.start].decode("utf_8"))
        if codec not in ("", "cp1252"):
            try:
                return clean(data.decode(codec, "replace"))
            except (UnicodeError, LookupError, ValueError):
                pass
        return clean(data.decode("cp1252", "replace"))


def clean(text: str) -> str:
    """``text`` without what no database and no JSON can hold."""
    if "\0" not in text:
        if text.isascii():
            return text
        try:
            text.encode()  # finds surrogates ten times as fast as a regular expression
        except UnicodeEncodeError:
            pass
        else:
            return text
    return _UNWANTED.sub("\ufffd", text)


def _name(label: str) -> str:
    return _short_name(label[:40]) if label else ""


@lru_cache(256)
def _short_name(label: str) -> str:
    return _SEPARATORS.sub("_", label.strip().lower())
