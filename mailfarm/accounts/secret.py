"""Secrets: made by machine, shown once, never stored.

A secret is 160 random bits in base 32 (RFC 4648 §6), lower case without padding: 32 letters and digits that survive a
shell, a URL and a double click. What is stored is its SHA-256, for those who show the secret itself (SASL PLAIN and
LOGIN, bearer tokens), and a SCRAM-SHA-256 verifier (RFC 5802 §3, RFC 7677), for those who only prove that they know it.

Why plain SHA-256 and few iterations are enough: stretching makes up for secrets that people choose. Nobody guesses
2^160, whatever one guess costs. So SCRAM gets the 4096 iterations below which RFC 7677 §4 says no client need go.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

BYTES = 20
ITERATIONS = 4096


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is kept of a secret. ``scram`` is ``SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>``, the form
    PostgreSQL made common."""

    sha256: bytes = field(repr=False)
    scram: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Secret:
    """A new secret: ``text`` is shown to its owner once and then forgotten."""

    text: str = field(repr=False)
    verifier: Verifier


def new_secret(random: Callable[[int], bytes]) -> Secret:
    """A new secret from a source of randomness (``os.urandom``). Takes about a millisecond: do it outside a unit."""
    text = base64.b32encode(random(BYTES)).decode().rstrip("=").lower()
    return Secret(text, verifier(text, random(16)))


def digest(text: str) -> bytes:
    """SHA-256 of a secret, 32 octets. Any text is allowed: it may come from the wire."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def verifier(text: str, salt: bytes, iterations: int = ITERATIONS) -> Verifier:
    """What to keep of ``text``. The secrets made here are ASCII, for which SASLprep changes nothing (RFC 5802 §2.2)."""
    # RFC 5802 §3: SaltedPassword, ClientKey, StoredKey, ServerKey
    salted = hashlib.pbkdf2_hmac("sha256", text.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    scram = f"SCRAM-SHA-256${iterations}:{_text(salt)}${_text(stored)}:{_text(server)}"
    return Verifier(digest(text), scram)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
