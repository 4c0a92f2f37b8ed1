"""URLs of Redis and Postgres: whether they have the right shape, and how to show one without its password.

::

    redis://[user[:password]@]host[:port][/number]
    rediss://…                                               the same inside TLS
    redis+sentinel://[user[:password]@]host:port;host:port/master-name[/number]
    rediss+sentinel://…
    postgresql://[user[:password]@]host[:port]/database[?sslmode=…]

Who connects reads them again, with all their parts (``backends/``). No text raised here repeats a part of a URL that
may hold a password, also when the URL is so broken that nobody can say where its password is.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

REDIS = ("redis", "rediss")
SENTINEL = ("redis+sentinel", "rediss+sentinel")
POSTGRES = ("postgresql", "postgres")
_HIDDEN = "***"


def masked(text: str) -> str:
    """``text``, URLs in all likelihood, with nothing in it that may be a password."""
    text = re.sub(r"(?i)(password=)[^&\s]*", rf"\1{_HIDDEN}", text)
    if not all("://" in word for word in text.split()):
        # perhaps a blank in a password: from the first colon to the last @ may all be of it
        text = re.sub(r"(?s)(://[^:@\s]*:).*@", rf"\1{_HIDDEN}@", text)
    return " ".join(_masked_url(word) for word in text.split()) or text


def _masked_url(word: str) -> str:
    scheme, slashes, rest = word.rpartition("://") if word.count("://") == 1 else ("", "", word)
    login, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = login.partition(":")
        return f"{scheme}{slashes}{user}{colon}{_HIDDEN if colon else ''}@{place}"
    # no "@": what stands behind a colon is shown only if it is a port
    shown = re.sub(r"(\[[0-9A-Fa-f:.]*\])|:(?!\d{1,5}(?:[/;,?]|$)).*", lambda m: m[1] or f":{_HIDDEN}", rest)
    return f"{scheme}{slashes}{shown}"


def database_url(text: str) -> str:
    """One Postgres URL, or empty."""
    if not text:
        return ""
    if any(character.isspace() for character in text):
        raise ValueError("there is one database; write one URL, and a blank in a password as %20")
    parts = _split(text)
    if parts.scheme not in POSTGRES:
        raise ValueError("write postgresql://user@host:5432/database; empty is SQLite")
    for place in parts.netloc.rpartition("@")[2].split(","):  # several: the one that can be written is taken
        if place or parts.netloc:  # none at all: a socket on this machine
            _place(place, "postgresql://user@host:5432/database")
    if not parts.path.strip("/"):
        raise ValueError("it names no database; write postgresql://user@host:5432/database")
    return text


def cache_url(text: str) -> str:
    """One Redis URL, or empty."""
    urls = queue_urls(text)
    if len(urls) > 1:
        raise ValueError("there is one cache; write one URL")
    return urls[0] if urls else ""


def queue_urls(text: str) -> tuple[str, ...]:
    """Redis URLs parted by commas or blanks, each a shard; none for empty."""
    urls = tuple(text.replace(",", " ").split())
    for url in urls:
        _redis(url)
    # a shard named twice would be taken for two that are lost at once
    if len({url.rpartition("@")[2] for url in urls}) < len(urls):
        raise ValueError("the same server stands there twice; each URL is a shard of its own")
    return urls


def with_tls(url: str) -> bool:
    """Whether a Redis URL asks for TLS."""
    return url.lower().startswith("rediss")


def with_password(url: str) -> bool:
    """Whether there is a password in a URL of the right shape."""
    return ":" in urlsplit(url).netloc.rpartition("@")[0]


def _redis(url: str) -> None:
    parts = _split(url)
    if parts.query or parts.fragment:
        raise ValueError("a Redis URL has no ? and no #; write them in a password as %3F and %23")
    places = parts.netloc.rpartition("@")[2].split(";")
    path = parts.path.strip("/").split("/")
    if parts.scheme in REDIS:
        if len(places) > 1:
            raise ValueError("several hosts stand there; for Sentinel write redis+sentinel://h1:26379;h2:26379/name")
        number, most = path[-1], 1
    elif parts.scheme in SENTINEL:
        if not path[0]:
            raise ValueError("it names no master; write redis+sentinel://h1:26379;h2:26379/name")
        number, most = (path[1] if len(path) > 1 else ""), 2
    else:
        raise ValueError("write redis://host:6379, rediss://host:6379 or redis+sentinel://h1:26379;h2:26379/name")
    for place in places:
        _place(place, "redis://user@host:6379")
    if len(path) > most or not (number.isdigit() or not number):
        raise ValueError("behind the host stands the number of a database, as in redis://host:6379/0, or nothing")


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # its text would repeat a part of the URL
        raise ValueError("it is no URL; a [ ] / # ? or @ in a password is written %5B %5D %2F %23 %3F or %40") from None


def _place(text: str, example: str) -> None:
    """``host``, ``host:port`` or ``[IPv6]:port``."""
    found = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/]+)(?::(\d{1,5}))?", text)
    if found is None or int(found[1] or 1) not in range(1, 65536):
        raise ValueError(f"a host and a port cannot be made out; write {example}")
