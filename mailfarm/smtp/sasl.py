"""AUTH exchanges: PLAIN (RFC 4616) and LOGIN, which has no RFC, as RFC 4954 carries them.

An exchange is given each response, already without its line end, and returns the next challenge, or the credentials.
Credentials are compared as they come, in UTF-8: they are made by machine, so there is nothing to prepare (RFC 4013).
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from mailfarm.mail.reply import Reply

from . import replies


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the client claims."""

    user: str
    secret: str = field(repr=False)


class Failed(Exception):
    """The exchange is over; ``reply`` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class Exchange(Protocol):
    """One mechanism at work."""

    def respond(self, response: bytes | None) -> Reply | Credentials:
        """The next challenge (334) or the end. ``None`` is an AUTH command without initial response. Raises Failed."""


class Plain:
    """``[authzid] NUL authcid NUL password`` in one response."""

    __slots__ = ()

    def respond(self, response: bytes | None) -> Reply | Credentials:
        if response is None:
            return _EMPTY
        identity, separator, rest = _text(response).partition("\0")
        user, second, secret = rest.partition("\0")
        if not separator or not second or not user or not secret or "\0" in secret:
            raise Failed(replies.AUTH_MALFORMED)
        if identity and identity != user:  # RFC 4616 §2: nobody acts for another here
            raise Failed(replies.AUTH_OTHER_IDENTITY)
        return Credentials(user, secret)


class Login:
    """User, then password; the initial response, if there is one, is the user."""

    __slots__ = ("_user",)

    def __init__(self) -> None:
        self._user: str | None = None

    def respond(self, response: bytes | None) -> Reply | Credentials:
        if response is None:
            return _USERNAME
        text = _text(response)
        if "\0" in text:
            raise Failed(replies.AUTH_MALFORMED)
        if self._user is None:
            self._user = text
            return _PASSWORD
        return Credentials(self._user, text)


_EMPTY: Final = Reply(334, "", "")
_USERNAME: Final = Reply(334, "", "VXNlcm5hbWU6")
_PASSWORD: Final = Reply(334, "", "UGFzc3dvcmQ6")

EXCHANGES: Final[dict[str, Callable[[], Exchange]]] = {"PLAIN": Plain, "LOGIN": Login}


def _text(response: bytes) -> str:
    if response == b"=":  # RFC 4954 §4: an empty initial response
        return ""
    try:
        return b64decode(response, validate=True).decode("utf-8")
    except (Error, ValueError):  # UnicodeDecodeError is one
        raise Failed(replies.AUTH_MALFORMED) from None
