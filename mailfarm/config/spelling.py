"""How the value of a setting is written: from text to what it means. Each raises ValueError with what to write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeVar

T = TypeVar("T")
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 takes a free one; ``off`` is None instead of an Address."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address | None:
    """``127.0.0.1:1025``, ``[::1]:1025``, ``:1025`` for every address, or ``off``."""
    if text == "off":
        return None
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "::"
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError("write host:port, [IPv6]:port or off")
    if host != "localhost":
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an IP address; a name is not looked up here") from None
    return Address(host, int(port))


def words(text: str) -> tuple[str, ...]:
    """Words parted by commas or blanks."""
    return tuple(text.replace(",", " ").split())


def networks(text: str) -> tuple[Network, ...]:
    """Networks in CIDR form, parted by commas or blanks."""
    return tuple(ip_network(word) for word in words(text))


def flag(text: str) -> bool:
    """yes or no."""
    if text.lower() in ("yes", "true", "on", "1"):
        return True
    if text.lower() in ("no", "false", "off", "0"):
        return False
    raise ValueError("write yes or no")


def size(text: str) -> int:
    """Octets, with K, M or G for 1024, 1024² or 1024³ of them."""
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 1)
    digits = text if unit == 1 else text[:-1]
    if not digits.isdigit():
        raise ValueError("write a number of octets, such as 52428800 or 50M")
    return int(digits) * unit


def seconds(text: str) -> float:
    """Seconds, with m, h or d for minutes, hours or days."""
    unit = {"m": 60, "h": 3600, "d": 86400}.get(text[-1:], 1)
    value = float(text if unit == 1 else text[:-1]) * unit
    if not 0 <= value < 1e10:
        raise ValueError("write a time of zero or more, such as 30, 5m or 2d")
    return value


def count(text: str) -> int:
    """A whole number of zero or more."""
    if not text.isdigit():
        raise ValueError("write a whole number")
    return int(text)


def positive(parse: Callable[[str], T]) -> Callable[[str], T]:
    """The same, but more than nothing."""

    def more_than_nothing(text: str) -> T:
        value = parse(text)
        if not value:
            raise ValueError("it must be more than 0")
        return value

    return more_than_nothing


def hosts(text: str) -> tuple[str, ...]:
    """Host names, and IPv6 addresses in brackets, parted by commas or blanks; no scheme, port or path."""
    found = words(text)
    for name in found:
        if name.startswith("[") and name.endswith("]"):
            ip_address(name[1:-1])
        elif not all(label and label.replace("-", "a").isalnum() for label in name.removesuffix(".").split(".")):
            raise ValueError(f"{name!r} is no host name; write names such as mail.example.org, without scheme or port")
    return found


def one_of(*choices: str) -> Callable[[str], str]:
    """One of these words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError("write " + " or ".join(choices))
        return text

    return parse


def name(text: str) -> str:
    """1 to 64 printable characters."""
    if not 1 <= len(text) <= 64 or not text.isprintable() or text != text.strip():
        raise ValueError("write a name of 1 to 64 printable characters")
    return text
