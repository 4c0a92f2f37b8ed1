"""Tokens: what the API asks for, as bearer tokens (RFC 6750). When one was last used is not recorded: that would make
every read a write."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mailfarm.errors import Invalid

from .secret import BYTES

PREFIX = "mf_"
"""Every token begins with it, so that one in a log or a repository can be searched for."""

SCOPES = (
    "mailboxes:read",
    "mailboxes:write",
    "messages:read",
    "messages:write",
    "queue:all",
    "queue:read",
    "queue:write",
    "refusals:read",
    "tokens:read",
    "tokens:write",
)
"""What a token may be allowed to do. Nothing implies another: ``write`` is not ``read``."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret. Times are microseconds; ``parent`` is the id of the token a session was begun with,
    None for what is no session."""

    id: str
    account: str
    name: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    secret_sha256: bytes = field(default=b"", repr=False)
    parent: str | None = None

    def live(self, now: int) -> bool:
        """Whether it is neither expired nor revoked."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def allows(self, scope: str, now: int) -> bool:
        """Whether it is live and has this scope."""
        return scope in self.scopes and self.live(now)


def new_token(random: Callable[[int], bytes]) -> str:
    """A new token's text: the prefix and 160 random bits. Keep ``secret.digest`` of it, nothing else."""
    return PREFIX + random(BYTES).hex()


def scopes(wanted: Iterable[str]) -> tuple[str, ...]:
    """``wanted`` without doubles, in the order of ``SCOPES``. Raises Invalid on none and on an unknown one."""
    asked = set(wanted)
    for scope in sorted(asked - set(SCOPES)):
        raise Invalid(f"scope {scope!r} is unknown; there are {', '.join(SCOPES)}")
    if not asked:
        raise Invalid(f"a token needs at least one scope of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in asked)
