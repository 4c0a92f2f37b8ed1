"""xtext, the encoding of DSN and AUTH parameters (RFC 3461 §4)."""

from __future__ import annotations

import re
from typing import Final

_XTEXT: Final = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEX: Final = re.compile(r"\+([0-9A-F]{2})")


def decode_xtext(text: str) -> str:
    """What ``text`` stands for. Octets beyond ASCII are read as UTF-8. Raises ValueError.

    The result may hold any character, CR and LF too: look at it before it goes anywhere.
    """
    if _XTEXT.fullmatch(text) is None:
        raise ValueError("not xtext: printable ASCII without + and =, or +XX with upper-case hexadecimal digits")
    plain = _HEX.sub(lambda match: chr(int(match[1], 16)), text)
    return plain if plain.isascii() else plain.encode("latin-1").decode("utf-8")


def encode_xtext(text: str) -> str:
    """``text`` as xtext; characters beyond ASCII as the octets of their UTF-8."""
    return "".join(
        chr(octet) if 0x21 <= octet <= 0x7E and octet not in b"+=" else f"+{octet:02X}"
        for octet in text.encode("utf-8")
    )
