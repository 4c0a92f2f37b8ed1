"""Credentials: a user name and a secret, for SMTP AUTH (RFC 4954).

The name of a mailbox's own credential is the mailbox's id: unique without asking, and letters and digits only, so that
``smtp://<user>:<password>@host`` needs no escaping.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Literal

from .secret import Verifier, digest

Purpose = Literal["capture", "send"]


@dataclass(frozen=True, slots=True)
class Credential:
    """``mailbox`` is where captured mail is filed; None: by recipient. Times are microseconds."""

    id: str
    account: str
    name: str
    purpose: Purpose
    mailbox: str | None
    verifier: Verifier = field(repr=False)
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def live(self, now: int) -> bool:
        """Whether it is neither expired nor revoked."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


_NOBODY = digest("a secret that no credential has")


def check(credential: Credential | None, secret: str, now: int) -> bool:
    """Whether ``secret`` is the live credential's.

    The work and the time are the same whether the user is unknown (None), the secret wrong or the credential ended, so
    that an answer's delay tells nothing.
    """
    expected = _NOBODY if credential is None else credential.verifier.sha256
    same = hmac.compare_digest(expected, digest(secret))
    # `&`, not `and`: each side is looked at, whatever the other says
    return same & (credential is not None) & (credential is None or credential.live(now))
