"""Text from mail, made fit for a terminal and for one line.

Subjects, names and bodies are written by strangers. Escape sequences in them could move the cursor, change the title
or hide lines; bidirectional overrides could show another address than is there. So whatever ``str.isprintable`` does
not vouch for is shown as an escape, ``\\x1b`` for example.
"""

from __future__ import annotations

from typing import Final
from unicodedata import category

_KEPT: Final = frozenset("\n\t")
_JOINERS: Final = frozenset("\u200c\u200d")
"""Format characters that some scripts and emoji need, and that neither move nor hide anything."""


def plain(text: str, keep: frozenset[str] = frozenset()) -> str:
    """``text`` with every unprintable character escaped, but for those in ``keep``.

    >>> plain("Hello\\x1b[2J")
    'Hello\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep or c in _JOINERS else _escape(c) for c in text)


def plain_lines(text: str) -> str:
    """The same for text of several lines: line feeds and tabs stay, CR LF becomes LF."""
    return plain(text.replace("\r\n", "\n"), _KEPT)


def line(text: str, width: int = 100) -> str:
    """``text`` on one line: white space runs together, unprintable characters escaped, cut at ``width``."""
    text = plain(" ".join(text.split()))
    return text if len(text) <= width else text[: width - 1] + "…"


def quoted(text: str, width: int = 100) -> str:
    """The same in quotation marks, as ``repr`` sets them (which escapes what is unprintable)."""
    text = " ".join(text.split())
    return repr(text if len(text) <= width else text[: width - 1] + "…")


def seconds(span: float) -> str:
    """``5 s``, ``0.25 s``.

    >>> seconds(5.0)
    '5 s'
    """
    return f"{span:g} s"


def _escape(character: str) -> str:
    if category(character) == "Zs":  # a blank of another width, such as a no-break space
        return " "
    return character.encode("unicode_escape").decode("ascii")
