"""Style sheets and style attributes of a mail, without what loads something from elsewhere.

CSS cannot run a script in today's browsers, but it can fetch: ``url()``, ``image-set()`` and ``@import``. The frame's
Content-Security-Policy refuses all of these; this module takes them out as well, so that a sanitised document stays
quiet wherever else it is shown. It does not judge properties: a mail may look as it likes inside its frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_ESCAPE: Final = re.compile(r"\\(?:([0-9a-fA-F]{1,6})[ \t\r\n\f]?|([^\r\n\f0-9a-fA-F]))")
_COMMENT: Final = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
# CSS Syntax 3 §4.3.6: what stands between the brackets is a string, or anything up to the bracket.
_URL: Final = re.compile(
    r"""url\(\s*(?:"([^"\r\n\f]{0,2000000})"|'([^'\r\n\f]{0,2000000})'|([^)"']{0,2000000}))\s*\)""", re.IGNORECASE
)
_ANY_URL: Final = re.compile(r"url\(", re.IGNORECASE)
_FETCHES: Final = re.compile(r"(?:-[a-z]+-)?(?:image-set|cross-fade|image|src|element|expression)\(", re.IGNORECASE)
_IMPORT: Final = re.compile(r"@\s*import", re.IGNORECASE)
_BEHAVIOUR: Final = re.compile(r"-moz-binding|behavior\s*:", re.IGNORECASE)


def _unescape(found: re.Match[str]) -> str:
    """An escaped letter, digit or punctuation of a name as itself; every other escape stays as it is, since
    ``content: "\\201C"`` is honest and an unescaped quote would end the string."""
    number, char = found.groups()
    if number is not None:
        code = int(number, 16)
        char = chr(code) if code < 128 else ""
    return char if char and (char.isalnum() or char in "-_(@:") else found.group()


def without_fetches(css: str, allowed: Callable[[str], str | None]) -> str:
    """``css`` in which each ``url()`` holds what ``allowed`` makes of its target, or is ``none``.

    What ``allowed`` returns must be a URL; quotes, brackets and line ends in it are percent-encoded here.
    Linear in the length of ``css``.
    """

    def target(found: re.Match[str]) -> str:
        url = allowed(next(group for group in found.groups() if group is not None).strip())
        if url is None:
            return "none"
        kept.append('url("' + _quoted(url) + '")')
        return f"\0{len(kept) - 1}\0"

    kept: list[str] = []
    css = css.replace("\0", "\ufffd")
    css = _COMMENT.sub(" ", css)
    css = _ESCAPE.sub(_unescape, css) if "\\" in css else css
    css = _URL.sub(target, css)
    css = _ANY_URL.sub("none(", css)  # what is left is broken or too long
    css = _FETCHES.sub("none(", css)
    css = _IMPORT.sub("@blocked", css)
    css = _BEHAVIOUR.sub("blocked:", css)
    return re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], css) if kept else css


def _quoted(url: str) -> str:
    return re.sub(r"""["'()\\<>\s\0]""", lambda found: f"%{ord(found.group()) & 0xFF:02X}", url)
