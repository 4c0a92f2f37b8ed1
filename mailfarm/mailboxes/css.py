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
_URL: Final = re.compile(r"url\(\s*", re.IGNORECASE)
_NOT_BARE: Final = re.compile(r"""["'(\s]""")
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

    kept: list[str] = []
    css = _COMMENT.sub(" ", css.replace("\0", "\ufffd"))
    css = _ESCAPE.sub(_unescape, css) if "\\" in css else css
    out: list[str] = []
    at = 0
    while found := _URL.search(css, at):
        out.append(css[at : found.start()])
        target, at = _target(css, found.end())
        url = None if target is None else allowed(target)
        if url is None:
            out.append("none")
        else:
            out.append(f"\0{len(kept)}\0")
            kept.append(f'url("{_quoted(url)}")')
    out.append(css[at:])
    css = _FETCHES.sub("none(", "".join(out))
    css = _IMPORT.sub("@blocked", css)
    css = _BEHAVIOUR.sub("blocked:", css)
    return re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], css) if kept else css


def _target(css: str, at: int) -> tuple[str | None, int]:
    """What stands between the brackets of a ``url(`` whose inside begins at ``at`` (None if it is broken), and where
    its rest begins (CSS Syntax 3 §4.3.6). A broken one is passed over up to its bracket, so that none is read twice."""
    quote = css[at : at + 1]
    start = at
    if quote in ('"', "'") and quote:
        end = css.find(quote, at + 1)
        if end < 0:
            return None, len(css)
        start, at = at + 1, end + 1
        bracket = css.find(")", at)
        whole = bracket >= 0 and not css[at : min(bracket, at + 100)].strip()
        return (css[start:end] if whole else None), (bracket + 1 if bracket >= 0 else len(css))
    end = css.find(")", at)
    if end < 0:
        return None, len(css)
    target = css[at:end].strip()
    return (None if _NOT_BARE.search(target) else target), end + 1


def _quoted(url: str) -> str:
    return re.sub(r"""["'()\\<>\s\0]""", lambda found: f"%{ord(found.group()) & 0xFF:02X}", url)
