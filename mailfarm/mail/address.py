"""Addresses: the Mailbox and Path of RFC 5321 §4.1.2, with the UTF-8 of RFC 6531 §3.3.

An ``Address`` keeps what was said; ``key`` is the form that is compared. Nothing with a CR, LF, NUL or other control
character is an address. IDNA is the ``idna`` library's (IDNA 2008 with UTS 46 mapping), which Twisted's TLS brings.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import idna

MAX_LOCAL: Final = 64  # octets, RFC 5321 §4.5.3.1.1
MAX_DOMAIN: Final = 255  # octets, §4.5.3.1.2
MAX_ADDRESS: Final = 254  # octets, §4.5.3.1.3: a path is 256 with its brackets

_BEYOND = "\x80-\U0010ffff"  # UTF8-non-ascii, RFC 6531 §3.3; control characters among them are refused apart
_ATOM = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{_BEYOND}-]+"
_LABEL = rf"[A-Za-z0-9{_BEYOND}](?:[A-Za-z0-9{_BEYOND}-]*[A-Za-z0-9{_BEYOND}])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_DOT_STRING: Final = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_QUOTED: Final = re.compile(rf'"(?:[ !#-\[\]-~{_BEYOND}]|\\[ -~])*"')
_DOMAIN_NAME: Final = re.compile(_DOMAIN)
_LITERAL: Final = re.compile(r"\[[!-Z^-~]*\]")
_ROUTE: Final = re.compile(rf"(@{_DOMAIN}(?:,@{_DOMAIN})*):")
# Nearly every address: Dot-string and Domain in ASCII, no label too long. What it does not match is looked at closely.
_ASCII_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ASCII_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_USUAL: Final = re.compile(rf"({_ASCII_ATOM}(?:\.{_ASCII_ATOM})*)@({_ASCII_LABEL}(?:\.{_ASCII_LABEL})*)")
_PAIR: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox. ``local`` is as it was said, quotes and all; so is ``domain``, which may be an ``[address]``."""

    local: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that is all of ``text``. Raises ValueError, with a sentence for the user."""
        usual = _USUAL.fullmatch(text, 0, MAX_ADDRESS + 1)
        if usual is not None and len(text) <= MAX_ADDRESS and usual.end(1) <= MAX_LOCAL:
            return cls(usual[1], usual[2])
        if len(text) > 4 * MAX_ADDRESS:
            raise ValueError("the address is too long")
        address, end = _mailbox(text, 0)
        if end != len(text):
            raise ValueError("there is more behind the address")
        return address

    @property
    def key(self) -> str:
        """The form that is compared: two addresses with one key are one mailbox.

        The local part without needless quotes, lower case, NFC; the domain as A-labels in lower case. RFC 5321 §2.4
        would have local parts tell upper from lower case; no one who reads mail does.
        """
        local, domain = self.local, self.domain
        if local.isascii() and not local.startswith('"'):
            return f"{local.lower()}@{domain_key(domain)}"
        return f"{_quote(unicodedata.normalize('NFC', _unquote(local)).lower())}@{domain_key(domain)}"

    @property
    def without_tag(self) -> Address:
        """``user+tag@domain`` without its tag; the address itself if it has none, or nothing else."""
        user, plus, _ = _unquote(self.local).partition("+")
        return Address(_quote(user), self.domain) if plus and user else self

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"


@dataclass(frozen=True, slots=True)
class Path:
    """A path as read from the front of a text. ``end`` is the place behind its ``>``; ``route`` is ``@a,@b`` or
    empty. ``address`` is without the route, and without a domain if it is only ``postmaster``."""

    address: str
    route: str
    end: int


def parse_path(text: str) -> Path:
    """Read ``<[@route:]mailbox>``, or ``<postmaster>`` (RFC 5321 §4.1.1.3), at the front of ``text``.

    The null path ``<>`` is not read here. Raises ValueError.
    """
    # no more than MAX_ADDRESS octets of it
    usual = _USUAL.match(text, 1, MAX_ADDRESS + 1) if text.startswith("<") else None
    if usual is not None and text.startswith(">", usual.end()) and usual.end(1) - 1 <= MAX_LOCAL:
        return Path(usual[0], "", usual.end() + 1)
    if text[:12].lower() == "<postmaster>":
        return Path(text[1:11], "", 12)
    if not text.startswith("<"):
        raise ValueError("a path begins with <")
    # RFC 5321 §4.1.2 and Appendix C: a source route is understood, and ignored
    route = _ROUTE.match(text, 1) if text.startswith("@", 1) else None
    address, end = _mailbox(text, 1 if route is None else route.end())
    if not text.startswith(">", end):
        raise ValueError("a path ends with >")
    return Path(str(address), "" if route is None else route[1], end + 1)


@lru_cache(maxsize=4096)
def domain_key(domain: str) -> str:
    """The compared form of a domain or address literal: A-labels, lower case. Raises ValueError."""
    if domain.startswith("["):
        return _literal(domain)
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(f"the domain is not an internationalised name: {error}") from None


def _mailbox(text: str, start: int) -> tuple[Address, int]:
    """``Local-part "@" ( Domain / address-literal )`` and the place behind it."""
    match = _QUOTED.match(text, start) if text.startswith('"', start) else _DOT_STRING.match(text, start)
    if match is None:
        raise ValueError("the part before @ is missing or malformed")
    local = match[0]
    at = match.end()
    if not text.startswith("@", at):
        raise ValueError("there is no @ behind the first part")
    match = _LITERAL.match(text, at + 1) if text.startswith("[", at + 1) else _DOMAIN_NAME.match(text, at + 1)
    if match is None:
        raise ValueError("the domain is missing or malformed")
    domain = match[0]
    _check(local, domain)
    return Address(local, domain), match.end()


def _check(local: str, domain: str) -> None:
    # lengths count octets (RFC 6531 §3.1 keeps them)
    octets = len(local.encode("utf-8", "replace"))
    if octets > MAX_LOCAL:
        raise ValueError(f"the part before @ has more than {MAX_LOCAL} octets")
    if len(domain) > MAX_DOMAIN or octets + 1 + len(domain.encode("utf-8", "replace")) > MAX_ADDRESS:
        raise ValueError(f"the address has more than {MAX_ADDRESS} octets")
    if not (local.isascii() and domain.isascii()) and not all(c.isprintable() for c in local + domain):
        raise ValueError("the address has a character that cannot be shown")
    for label in domain_key(domain).split(".") if not domain.startswith("[") else (_literal(domain),):
        if len(label) > 63 and not label.startswith("["):
            raise ValueError("a label of the domain has more than 63 octets")


def _literal(text: str) -> str:
    """``[192.0.2.1]`` or ``[IPv6:2001:db8::1]`` (RFC 5321 §4.1.3) in one form."""
    inside = text[1:-1]
    try:
        if inside[:5].lower() == "ipv6:":
            if "%" in inside:  # a zone means something on one host only
                raise ValueError
            return f"[ipv6:{IPv6Address(inside[5:])}]"
        return f"[{IPv4Address(inside)}]"
    except ValueError:
        raise ValueError("the address literal is neither IPv4 nor IPv6:") from None


def _unquote(local: str) -> str:
    return _PAIR.sub(r"\1", local[1:-1]) if local.startswith('"') else local


def _quote(local: str) -> str:
    if _DOT_STRING.fullmatch(local):
        return local
    return '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
