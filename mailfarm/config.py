"""The settings: typed, from environment variables, checked together before anything starts.

Every setting is one variable, ``MAILFARM_<NAME>`` or ``MAILFARM_<SERVICE>_<NAME>``, or the same with ``_FILE`` behind
it, which names a file that holds the value (for secrets). All mistakes are reported at once, unknown variables too.
Nothing here reads the environment itself: it is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, TypeVar, get_type_hints

from .errors import ConfigurationError

T = TypeVar("T")
Network = IPv4Network | IPv6Network

CLIENT_VARIABLES = frozenset({"MAILFARM_URL", "MAILFARM_SMTP", "MAILFARM_TOKEN", "MAILFARM_TOKEN_FILE"})
"""What the SDK and the client commands read; no service does."""


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


def setting(default: str, help: str, parse: Callable[[str], Any] = str, *, secret: bool = False) -> Any:
    """A field of a settings class. ``default`` is text, as the variable would say it, and goes through ``parse``."""
    return field(
        default_factory=lambda: parse(default),
        metadata={"default": default, "help": help, "parse": parse, "secret": secret},
        repr=not secret,
    )


@dataclass(frozen=True, slots=True)
class FarmSettings:
    """What all services share: ``MAILFARM_…``."""

    data: str = setting("", "folder for the database and certificates; empty: $XDG_DATA_HOME/mailfarm")
    hostname: str = setting("localhost", "our name in greetings, EHLO and Received")
    domains: tuple[str, ...] = setting(
        "mailfarm.test *", "domains mailboxes may be in, the first for new ones; * allows any other", words
    )
    max_size: int = setting("50M", "largest message, octets", positive(size))
    reserve: int = setting("64M", "free disk space below which mail is answered 452 before DATA, octets", size)
    backlog: int = setting("100000", "entries a queue may hold; beyond it mail is answered 452", positive(count))
    log: str = setting("json", "json (one object a line) or text", one_of("json", "text"))
    log_level: str = setting("info", "debug, info, warn or error", one_of("debug", "info", "warn", "error"))
    grace: float = setting("25", "seconds running transactions may take after SIGTERM", seconds)
    certificate: str = setting("", "PEM file with the TLS certificate chain; empty in dev: one is made")
    key: str = setting("", "PEM file with its private key")


@dataclass(frozen=True, slots=True)
class MxSettings:
    """``MAILFARM_MX_…``."""

    listen: Address | None = setting("127.0.0.1:1125", "where to take mail from the internet, or off", address)
    proxy_from: tuple[Network, ...] = setting("", "networks whose connections begin with a PROXY header", networks)
    proxy_v1: bool = setting("no", "also understand version 1 of the PROXY protocol", flag)
    starttls: bool = setting("yes", "offer STARTTLS", flag)
    max_connections: int = setting("10000", "open sessions; above it 421 4.3.2", positive(count))
    max_recipients: int = setting("1000", "recipients a transaction; past it 452 4.5.3", positive(count))


@dataclass(frozen=True, slots=True)
class SubmissionSettings:
    """``MAILFARM_SUBMISSION_…``."""

    capture: Address | None = setting("127.0.0.1:1025", "open capture: no credential needed, or off", address)
    starttls: Address | None = setting("127.0.0.1:1587", "submission with STARTTLS and AUTH, or off", address)
    tls: Address | None = setting("127.0.0.1:1465", "submission with implicit TLS and AUTH, or off", address)
    capture_starttls: bool = setting(
        "no", "offer STARTTLS on the open capture port; many clients then insist on a certificate they trust", flag
    )
    proxy_from: tuple[Network, ...] = setting("", "networks whose connections begin with a PROXY header", networks)
    proxy_v1: bool = setting("no", "also understand version 1 of the PROXY protocol", flag)
    normalize: bool = setting("no", "rewrite bare line feeds of captured mail to CR LF instead of refusing them", flag)
    max_connections: int = setting("10000", "open sessions; above it 421 4.3.2", positive(count))
    max_recipients: int = setting("1000", "recipients a transaction; past it 452 4.5.3", positive(count))


@dataclass(frozen=True, slots=True)
class InboundSettings:
    """``MAILFARM_INBOUND_…``."""

    batch: int = setting("100", "entries taken from the queue at once", positive(count))
    lease: float = setting("60", "seconds until another worker may take an entry", positive(seconds))


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """``MAILFARM_SWEEP_…``."""

    interval: float = setting("5", "seconds between two looks for what has expired", positive(seconds))


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """``MAILFARM_API_…``."""

    listen: Address | None = setting("127.0.0.1:8025", "where to serve HTTP, or off", address)
    hosts: tuple[str, ...] = setting("", "names besides localhost by which browsers may reach us", hosts)
    auth: str = setting("none", "none (loopback only) or token", one_of("none", "token"))
    first_token: str = setting("", "a token made valid at start, with every scope, when auth is token", secret=True)
    max_waits: int = setting("10000", "waits and event streams open at once; above it 503", positive(count))


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """``MAILFARM_LIVE_…``."""

    max_connections: int = setting("20000", "open WebSockets; above it 503", positive(count))
    heartbeat: float = setting(
        "30", "seconds between pings; a client silent for two of them is dropped", positive(seconds)
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set."""

    farm: FarmSettings = field(default_factory=FarmSettings)
    mx: MxSettings = field(default_factory=MxSettings)
    submission: SubmissionSettings = field(default_factory=SubmissionSettings)
    inbound: InboundSettings = field(default_factory=InboundSettings)
    sweep: SweepSettings = field(default_factory=SweepSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    live: LiveSettings = field(default_factory=LiveSettings)


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable as the documentation shows it."""

    name: str
    group: str
    default: str
    help: str
    secret: bool


GROUPS: dict[str, type] = get_type_hints(Settings)


def variable_name(group: str, name: str) -> str:
    """``MAILFARM_HOSTNAME`` or ``MAILFARM_MX_LISTEN``."""
    return f"MAILFARM_{name.upper()}" if group == "farm" else f"MAILFARM_{group.upper()}_{name.upper()}"


def variables() -> tuple[Variable, ...]:
    """Every variable there is."""
    return tuple(
        Variable(variable_name(group, f.name), group, f.metadata["default"], f.metadata["help"], f.metadata["secret"])
        for group, cls in GROUPS.items()
        for f in fields(cls)
    )


def load(environ: Mapping[str, str], read_file: Callable[[str], str]) -> Settings:
    """The settings ``environ`` asks for. Raises ConfigurationError with every mistake, one line each."""
    mistakes: list[str] = []
    groups: dict[str, Any] = {}
    known: set[str] = set(CLIENT_VARIABLES)
    for group, cls in GROUPS.items():
        values: dict[str, Any] = {}
        for f in fields(cls):
            name = variable_name(group, f.name)
            known |= {name, f"{name}_FILE"}
            text = _text(environ, name, read_file, mistakes)
            if text is None:
                continue
            try:
                values[f.name] = f.metadata["parse"](text)
            except ValueError as error:
                shown = "its value" if f.metadata["secret"] else repr(text)
                mistakes.append(f"{name}: {shown} will not do: {error}")
        groups[group] = cls(**values)
    for name in sorted(environ):
        if name.startswith("MAILFARM_") and name not in known:
            near = get_close_matches(name, known, 1)
            mistakes.append(f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    settings = Settings(**groups)
    mistakes += _contradictions(settings)
    if mistakes:
        raise ConfigurationError(mistakes)
    return settings


def _text(environ: Mapping[str, str], name: str, read_file: Callable[[str], str], mistakes: list[str]) -> str | None:
    path = environ.get(f"{name}_FILE")
    if path is None:
        return environ.get(name)
    if name in environ:
        mistakes.append(f"{name}: set it or {name}_FILE, not both")
        return None
    try:
        return read_file(path).removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(f"{name}_FILE: cannot read {path}: {getattr(error, 'strerror', None) or error}")
        return None


def _contradictions(settings: Settings) -> list[str]:
    """What cannot be so together."""
    found: list[str] = []
    farm, api = settings.farm, settings.api
    if bool(farm.certificate) != bool(farm.key):
        found.append("MAILFARM_CERTIFICATE and MAILFARM_KEY: set both or neither")
    if not farm.domains or farm.domains[0] == "*":
        found.append("MAILFARM_DOMAINS: name at least one domain, in front; new mailboxes get their address in it")
    if api.auth == "token" and len(api.first_token) < 22:
        found.append(
            "MAILFARM_API_FIRST_TOKEN: with MAILFARM_API_AUTH=token give at least 22 characters, made by machine, "
            "for example from: openssl rand -base64 24"
        )
    if api.auth == "none":
        if api.first_token:
            found.append("MAILFARM_API_FIRST_TOKEN: it does nothing unless MAILFARM_API_AUTH=token")
        for name, where in _listeners(settings):
            if where is not None and not where.loopback:
                found.append(
                    f"{name}: {where} can be reached from other machines, and nobody has to sign in; set "
                    "MAILFARM_API_AUTH=token and MAILFARM_API_FIRST_TOKEN, or listen on 127.0.0.1"
                )
    return found


def _listeners(settings: Settings) -> tuple[tuple[str, Address | None], ...]:
    submission = settings.submission
    return (
        ("MAILFARM_MX_LISTEN", settings.mx.listen),
        ("MAILFARM_SUBMISSION_CAPTURE", submission.capture),
        ("MAILFARM_SUBMISSION_STARTTLS", submission.starttls),
        ("MAILFARM_SUBMISSION_TLS", submission.tls),
        ("MAILFARM_API_LISTEN", settings.api.listen),
    )
