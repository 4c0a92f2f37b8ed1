"""Our trace header (RFC 5321 §4.4), with the protocol names of RFC 3848 and RFC 6531 §4.3.

There is no ``for``: it would tell one recipient of another.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_TLS: Final = re.compile(r"[A-Za-z0-9._ -]{1,100}")
_WORD: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")


def protocol_name(*, esmtp: bool, tls: bool, authenticated: bool, smtputf8: bool = False) -> str:
    """The word behind ``with``: SMTP, ESMTP, ESMTPS, ESMTPSA, UTF8SMTPSA and so on (RFC 3848, RFC 6531 §4.3)."""
    if not (esmtp or tls or authenticated or smtputf8):
        return "SMTP"
    return f"{'UTF8SMTP' if smtputf8 else 'ESMTP'}{'S' if tls else ''}{'A' if authenticated else ''}"


def received(*, helo: str, client: str, by: str, protocol: str, id: str, now: int, tls: str = "") -> bytes:
    """The header field, folded, with its line end.

    ``helo`` is what the client called itself and may be anything: what is neither a
    Domain nor an address literal (RFC 5321 §4.1.2) is left out.
    ``client`` is its IP address, or empty; ``by`` our host name; ``protocol`` see ``protocol_name``; ``id`` the spool
    id; ``now`` microseconds since 1970; ``tls`` like ``TLSv1.3 TLS_AES_256_GCM_SHA384``, or empty.
    """
    if not _WORD.fullmatch(id):
        raise ValueError(f"{id!r} cannot stand in a trace header")
    before, how = _same(helo, client, by, protocol, tls)
    return f"{before}{id}{how}{_date(now // 1_000_000)}\r\n".encode("ascii")


@lru_cache(maxsize=1024)
def _same(helo: str, client: str, by: str, protocol: str, tls: str) -> tuple[str, str]:
    """What stands before and behind the id, the same for all the mail of a session."""
    name = helo if _is_name(helo) else "unknown"
    where = f" ({_literal(client)})" if client else ""
    how = f"\r\n\t({tls})" if _TLS.fullmatch(tls) else ""
    for word in (by, protocol):
        if not _WORD.fullmatch(word):
            raise ValueError(f"{word!r} cannot stand in a trace header")
    return f"Received: from {name}{where}\r\n\tby {by} with {protocol} id ", f"{how};\r\n\t"


def _is_name(helo: str) -> bool:
    if helo.startswith("["):
        # RFC 5321 §4.1.3
        literal = helo[1:-1]
        kind, inside = (IPv6Address, literal[5:]) if literal[:5].lower() == "ipv6:" else (IPv4Address, literal)
        try:
            return helo.endswith("]") and "%" not in inside and bool(kind(inside))
        except ValueError:
            return False
    return len(helo) <= 255 and _DOMAIN.fullmatch(helo) is not None


def date(now: int) -> str:
    """``Sat, 31 Jan 2026 12:00:00 +0000`` (RFC 5322 §3.3); ``now`` is microseconds since 1970."""
    return _date(now // 1_000_000)


@lru_cache(maxsize=16)
def _date(seconds: int) -> str:
    at = _EPOCH + timedelta(seconds=seconds)
    # not strftime: that speaks the language of the locale
    return (
        f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04} "
        f"{at.hour:02}:{at.minute:02}:{at.second:02} +0000"
    )


def _literal(client: str) -> str:
    try:
        address = ip_address(client)
    except ValueError:
        return "[unknown]"
    if isinstance(address, IPv6Address):
        return f"[{address.ipv4_mapped}]" if address.ipv4_mapped else f"[IPv6:{str(address).partition('%')[0]}]"
    return f"[{address}]"
