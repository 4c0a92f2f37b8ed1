"""The arguments of MAIL, RCPT and BDAT: RFC 5321 §4.1.2, with the parameters of RFC 1870, 3461, 4954, 6152, 6531.

Functions take the argument's octets, without the line end, and raise ``Malformed`` with the reply to give.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from mailfarm.mail.address import Path, parse_path
from mailfarm.mail.envelope import Recipient
from mailfarm.mail.reply import Reply
from mailfarm.mail.xtext import decode_xtext

from .config import ServerConfig
from .requests import Mail, Rcpt

BAD_SENDER: Final = Reply(501, "5.1.7", "Sender address malformed")
BAD_RECIPIENT: Final = Reply(501, "5.1.3", "Recipient address malformed")
MAIL_SYNTAX: Final = Reply(501, "5.5.4", "Say MAIL FROM:<address>")
RCPT_SYNTAX: Final = Reply(501, "5.5.4", "Say RCPT TO:<address>")
NEEDS_SMTPUTF8: Final = Reply(553, "5.6.7", "An address beyond ASCII needs SMTPUTF8")  # RFC 6531 §3.5

_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_SHORT: Final = 120  # octets of an argument that is worth remembering
# The usual address; anything else goes to mail.address, which knows it all. No two ways to match, so no backtracking.
_USUAL: Final = re.compile(rb"<(" + _ATOM + rb"(?:\." + _ATOM + rb")*@" + _LABEL + rb"(?:\." + _LABEL + rb")*)>")

# What mail servers and libraries say behind it.
_SIZED: Final = re.compile(rb"(FROM:<[^<> ]{1,100}>) SIZE=([0-9]{1,20})( BODY=8BITMIME)?", re.IGNORECASE)


class Malformed(Exception):
    """The argument breaks the grammar, or asks for what is not offered."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


def mail(argument: bytes, config: ServerConfig) -> Mail:
    """``FROM:<reverse-path> [parameters]`` (RFC 5321 §4.1.1.2). The size is not judged here."""
    usual = _usual_mail(argument) if len(argument) <= _SHORT else None
    if usual is not None:
        return usual
    sized = _SIZED.fullmatch(argument)
    if sized is not None and (usual := _usual_mail(sized[1])) is not None:
        return Mail(usual.sender, int(sized[2]), "8BITMIME" if sized[3] else "7BIT")
    if argument[:5].upper() != b"FROM:":
        raise Malformed(MAIL_SYNTAX)
    sender, _, end = _path(argument, 5, BAD_SENDER, MAIL_SYNTAX, null=True)
    if end == len(argument) and sender.isascii():
        return Mail(sender)
    said: dict[str, str | None] = _parameters(argument, end)
    size: int | None = None
    body = "7BIT"
    smtputf8 = False
    ret = envid = None
    for name, value in said.items():
        if name == "SIZE":  # RFC 1870 §3
            if value is None or not (value.isascii() and value.isdigit() and len(value) <= 20):
                raise Malformed(Reply(501, "5.5.4", "SIZE is a number of at most 20 digits"))
            size = int(value)
        elif name == "BODY":  # RFC 6152 §2; BINARYMIME would need all of RFC 3030
            body = (value or "").upper()
            if body not in ("7BIT", "8BITMIME"):
                raise Malformed(Reply(501, "5.5.4", "BODY is 7BIT or 8BITMIME"))
        elif name == "SMTPUTF8" and config.smtputf8:  # RFC 6531 §3.4
            if value is not None:
                raise Malformed(Reply(501, "5.5.4", "SMTPUTF8 has no value"))
            smtputf8 = True
        elif name == "RET" and config.dsn:  # RFC 3461 §4.3
            ret = (value or "").upper()
            if ret not in ("FULL", "HDRS"):
                raise Malformed(Reply(501, "5.5.4", "RET is FULL or HDRS"))
        elif name == "ENVID" and config.dsn:  # RFC 3461 §4.4
            envid = value or ""
            _xtext("ENVID", envid, 100)
        elif name == "AUTH" and config.auth:  # RFC 4954 §5: we trust nobody's word, so it is read and dropped
            if value != "<>":
                _xtext("AUTH", value or "", 500)
        else:
            raise _unknown(name)
    if not smtputf8 and not sender.isascii():
        raise Malformed(NEEDS_SMTPUTF8)
    return Mail(sender, size, "8BITMIME" if body == "8BITMIME" else "7BIT", smtputf8, ret, envid)


def rcpt(argument: bytes, config: ServerConfig, smtputf8: bool) -> Rcpt:
    """``TO:<forward-path> [parameters]`` (RFC 5321 §4.1.1.3)."""
    usual = _usual_rcpt(argument) if len(argument) <= _SHORT else None
    if usual is not None:
        return usual
    if argument[:3].upper() != b"TO:":
        raise Malformed(RCPT_SYNTAX)
    address, route, end = _path(argument, 3, BAD_RECIPIENT, RCPT_SYNTAX, null=False)
    if not smtputf8 and not address.isascii():
        raise Malformed(NEEDS_SMTPUTF8)
    if end == len(argument):
        return Rcpt(Recipient(address), route)
    notify: tuple[str, ...] = ()
    orcpt = None
    for name, value in _parameters(argument, end).items():
        if name == "NOTIFY" and config.dsn:
            notify = _notify(value or "")
        elif name == "ORCPT" and config.dsn:
            orcpt = value or ""
            _original_recipient(orcpt, smtputf8)
        else:
            raise _unknown(name)
    return Rcpt(Recipient(address, notify, orcpt), route)


@lru_cache(maxsize=1024)
def _usual_mail(argument: bytes) -> Mail | None:
    """The request for an address as there are most, without parameters; None for anything else."""
    # Values are frozen, so one may be said again and again: 0.1 µs instead of 3.
    usual = _USUAL.fullmatch(argument, 5) if argument[:5].upper() == b"FROM:" else None
    return None if usual is None or argument.find(b"@") > 5 + 1 + 64 else Mail(str(usual[1], "ascii"))


@lru_cache(maxsize=1024)
def _usual_rcpt(argument: bytes) -> Rcpt | None:
    """The same for a recipient."""
    usual = _USUAL.fullmatch(argument, 3) if argument[:3].upper() == b"TO:" else None
    return None if usual is None or argument.find(b"@") > 3 + 1 + 64 else Rcpt(Recipient(str(usual[1], "ascii")))


def bdat(argument: bytes) -> tuple[int, bool] | None:
    """``size [LAST]`` (RFC 3030 §2), or None: then nobody knows how many octets follow."""
    words = argument.split()
    if not 1 <= len(words) <= 2 or not words[0].isdigit() or len(words[0]) > 20:
        return None
    if len(words) == 2 and words[1].upper() != b"LAST":
        return None
    return int(words[0]), len(words) == 2


def said(argument: bytes, keyword: bytes) -> str:
    """What stands where a path belongs, for somebody to read: one line, at most 256 characters."""
    text = argument[: 4 * 256].decode("utf-8", "replace").strip()
    if text[: len(keyword)].upper() == keyword.decode():
        text = text[len(keyword) :].lstrip()
    if text.startswith("<") and ">" in text:
        text = text[1 : text.index(">")] or "<>"
    return "".join(c if c.isprintable() else "?" for c in text[:256])


def _path(argument: bytes, pos: int, bad: Reply, syntax: Reply, *, null: bool) -> tuple[str, str, int]:
    """(address, route, position behind the path). The null path is only for senders."""
    if argument[pos : pos + 1] == b" ":  # against the letter of §4.1.1.2, for clients that err here
        pos = len(argument) - len(argument[pos:].lstrip(b" "))
    usual = _USUAL.match(argument, pos)
    if usual is not None:
        start, end = usual.span(1)
        # RFC 5321 §4.5.3.1: a path of 256 with its brackets; a local part of 64
        if end - start <= 254 and argument.find(b"@", start) - start <= 64:
            return str(argument[start:end], "ascii"), "", end + 1
        raise Malformed(bad)
    if argument.startswith(b"<>", pos):
        if null:
            return "", "", pos + 2
        raise Malformed(bad)
    if not argument.startswith(b"<", pos):
        raise Malformed(syntax)
    try:
        path: Path = parse_path(argument[pos:].decode("utf-8"))
    except ValueError:  # UnicodeDecodeError is one
        raise Malformed(bad) from None
    said = argument[pos:].decode("utf-8")[: path.end]
    return path.address, path.route, pos + len(said.encode("utf-8"))


def _parameters(argument: bytes, pos: int) -> dict[str, str | None]:
    """``esmtp-keyword[=esmtp-value]`` each behind a space (RFC 5321 §4.1.2); keywords in upper case."""
    said: dict[str, str | None] = {}
    rest = argument[pos:]
    if rest[:1] not in (b"", b" "):
        raise Malformed(Reply(501, "5.5.4", "A space parts the address from its parameters"))
    for word in rest.split(b" "):
        if not word:
            continue
        try:
            text = word.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(Reply(501, "5.5.4", "A parameter is not text")) from None
        keyword, equals, value = text.partition("=")
        if not keyword.replace("-", "").isalnum() or not keyword.isascii() or keyword[0] == "-":
            raise Malformed(Reply(501, "5.5.4", "A parameter is malformed"))
        if equals and not (value and value.isprintable() and "=" not in value):
            raise Malformed(Reply(501, "5.5.4", f"The value of {keyword.upper()} is malformed"))
        keyword = keyword.upper()
        if keyword in said:
            raise Malformed(Reply(501, "5.5.4", f"{keyword} was given twice"))
        said[keyword] = value if equals else None
    return said


def _unknown(name: str) -> Malformed:
    return Malformed(Reply(555, "5.5.4", f"Parameter {name[:40]} is not offered here"))  # RFC 5321 §4.1.1.11


def _xtext(name: str, value: str, longest: int) -> None:
    # wire safety: +0D+0A must not become a line end anywhere later
    try:
        plain = decode_xtext(value)
    except ValueError:
        plain = ""
    if not plain or len(value) > longest or not plain.isprintable():
        raise Malformed(Reply(501, "5.5.4", f"{name} is not the xtext of 1 to {longest} printable characters"))


def _notify(value: str) -> tuple[str, ...]:
    words = tuple(value.upper().split(","))  # RFC 3461 §4.1
    if words != ("NEVER",) and (len(set(words)) != len(words) or not {"SUCCESS", "FAILURE", "DELAY"}.issuperset(words)):
        raise Malformed(Reply(501, "5.5.4", "NOTIFY is NEVER, or of SUCCESS, FAILURE and DELAY"))
    return words


def _original_recipient(value: str, smtputf8: bool) -> None:
    kind, _, address = value.partition(";")  # RFC 3461 §4.2, RFC 6533 §3
    if not kind or not kind.isascii() or not kind.replace("-", "").isalnum():
        raise Malformed(Reply(501, "5.5.4", "ORCPT is type;address"))
    if smtputf8 and kind.lower() == "utf-8" and not address.isascii():
        address = "".join(c if c.isascii() else "x" for c in address)
    _xtext("ORCPT", address, 500)
