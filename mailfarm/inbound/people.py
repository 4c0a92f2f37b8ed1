"""Reading address lists (RFC 5322 §3.4 with the obsolete forms people still send), one pass over the characters.

Encoded words are decoded after the list has been taken apart: a comma or bracket inside one is part of a name and
never makes another address.
"""

from __future__ import annotations

import re

from mailfarm.events import Person

from .headers import decode_words, plain

LONGEST = 64 * 1024
"""Characters of a list that are looked at."""
MOST = 500
"""People one list gives."""
LONGEST_NAME = 500
LONGEST_ADDRESS = 400

# a quoted string, perhaps without its end; a bracketed address, perhaps with a route or without its end;
# a run without any special; one special
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|<@[^<>";]{0,1000}>|<[^<>,;]*>?|[^"<>(),:;\\\s]+|\s+|.', re.DOTALL)
# One of a list as nearly everyone writes it, without comment, group or backslash: `"A. User" <user@example.org>`,
# `A. User <user@example.org>`, `user@example.org`. No attempt to match goes past the next comma, bracket or quote.
_USUAL = re.compile(
    r'\s*+(?:(?:"([^"\\]*+)"\s*+|([^"<>(),:;\\]*+))<([^<>,;"@\s][^<>,;"\s]*+)>|([^"<>(),:;\\\s]++))\s*+(?:,|\Z)'
)
_COMMENT = re.compile(r"[()\\]")
_PAIR = re.compile(r"\\(.)", re.DOTALL)


def people(value: str) -> tuple[Person, ...]:
    """Everyone in an address list; groups (§3.4) are flattened. What is no address keeps its words as a name."""
    value = value[:LONGEST]
    found: list[Person] = []
    at = 0
    while at < len(value) and len(found) < MOST:
        usual = _USUAL.match(value, at)
        if usual is None:
            return _any_people(value)
        quoted, words, angle, alone = usual.groups()
        if angle is not None:
            name = decode_words(" ".join(words.split()) if quoted is None else quoted)
            address = plain(angle)
        elif "@" in alone[1:]:
            name, address = "", plain(alone)
        else:
            return _any_people(value)
        if name or address:
            found.append(Person(name[:LONGEST_NAME], address[:LONGEST_ADDRESS]))
        at = usual.end()
    return tuple(found)


def _any_people(value: str) -> tuple[Person, ...]:
    found: list[Person] = []
    words: list[str] = []
    angle: str | None = None
    comment = ""
    at, spaced = 0, False
    while at < len(value) and len(found) < MOST:
        if value[at] == "(":
            at, comment = _skip_comment(value, at)
            continue
        match = _TOKEN.match(value, at)
        assert match is not None
        token, at = match[0], match.end()
        if token.isspace():
            spaced = True
            continue
        if token in (",", ";"):
            _add(found, words, angle, comment)
            words, angle, comment, spaced = [], None, "", False
        elif token == ":" and angle is None and not any("@" in word for word in words):
            words, comment, spaced = [], "", False  # a group's name
        elif token[0] == "<" and len(token) > 1:
            angle = token[1:].removesuffix(">")
        elif words and not spaced and (token[0] != '"' or words[-1].endswith("@")):
            words[-1] += token  # `"a b"@example.org`, `user@[192.0.2.1]`, `a:b`
        elif token not in ("<", ">", ")", "\\"):
            words.append(token)
        spaced = False
    if len(found) < MOST:
        _add(found, words, angle, comment)
    return tuple(found)


def _skip_comment(value: str, start: int) -> tuple[int, str]:
    """The place behind the comment (§3.2.2, nested as deep as it likes) at ``start``, and its text if it is short."""
    depth, at = 1, start + 1
    while depth:
        match = _COMMENT.search(value, at)
        if match is None:
            return len(value), ""
        at = match.end()
        if match[0] == "\\":
            at += 1
        else:
            depth += 1 if match[0] == "(" else -1
    return at, value[start + 1 : at - 1] if at - start <= LONGEST_NAME else ""


def _add(found: list[Person], words: list[str], angle: str | None, comment: str) -> None:
    if angle is None:
        # `user@example.org (A. User)`, or the brackets were forgotten: `A. User user@example.org`
        address = next((word for word in words if "@" in word[1:]), "")
        names = [word for word in words if word is not address]
        name = _name(names) or decode_words(_PAIR.sub(r"\1", comment))
    else:
        # §4.4: a route in front of the address
        address = angle.rpartition(":")[2] if angle.lstrip().startswith("@") else angle
        name = _name(words) or decode_words(_PAIR.sub(r"\1", comment))
    address = "".join(plain(address).split()) if '"' not in address else plain(address)
    if name or address:
        found.append(Person(name[:LONGEST_NAME], address[:LONGEST_ADDRESS]))


def _name(words: list[str]) -> str:
    return decode_words(" ".join(_unquoted(word) for word in words)) if words else ""


def _unquoted(word: str) -> str:
    if not word.startswith('"'):
        return word
    return _PAIR.sub(r"\1", word[1:].removesuffix('"')) if len(word) > 1 else ""
