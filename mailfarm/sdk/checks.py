"""What callers give, looked at before anything is asked: the same for all three clients.

A value of the wrong type raises TypeError, one that cannot be raises ValueError, each with a sentence.
"""

from __future__ import annotations

from typing import Final

_ALPHABET: Final = frozenset("0123456789abcdefghjkmnpqrstvwxyz")
_LENGTH: Final = 26
LARGEST_PORT: Final = 65535


def text(name: str, value: object) -> None:
    """``value`` is a ``str``."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text (str), not {value!r:.80}")


def span(name: str, value: object) -> None:
    """``value`` is a number of seconds, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r:.80}")
    if not value >= 0:  # a NaN is not either
        raise ValueError(f"{name} must be 0 seconds or more, not {value!r}")


def whole(name: str, value: object, least: int = 0) -> None:
    """``value`` is a whole number, ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r:.80}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")


def is_id(value: str) -> bool:
    """Whether ``value`` has the form of an id: 26 letters and digits."""
    return len(value) == _LENGTH and _ALPHABET.issuperset(value)


def token(value: object) -> None:
    """``value`` can stand in an Authorization header (RFC 6750 §2.1). What is said never shows it."""
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"the token must be text (str), not {type(value).__name__}")
    if not all("!" <= character <= "~" for character in value):
        raise ValueError("the token has characters that a header cannot hold")
