"""What can go wrong, the same in all three clients.

==================  ==================================================================================================
``FarmError``       the base of all of these
``CannotConnect``   no server answers at the URL, or it went away and did not come back
``ApiError``        the server answered with a problem; the next four are kinds of it
``NoSuchMailbox``   it does not exist, has ended, or belongs to another account
``NoSuchMessage``   the same for a message
``NotAllowed``      the token is missing, wrong, or lacks the scope
``AddressTaken``    another mailbox has the address
``WaitTimeout``     what was waited for did not arrive; the text says what did. An ``AssertionError`` too
``UnexpectedMessage``  something arrived that should not have. An ``AssertionError`` too
``NotInMessage``    the message has no such link or code; the text says what it has. An ``AssertionError`` too
``NotLoaded``       asyncio and Twisted: this part of a message is fetched by a call that is awaited
==================  ==================================================================================================

Assertion errors, because in a test that is what they are: the app did not send what it should have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .plain import line
from .values import NearMiss, Refusal, Summary


class FarmError(Exception):
    """The base of every error the SDK raises on purpose. All of them can be pickled."""


class CannotConnect(FarmError):
    """No server answers, or it went away and did not come back in time."""


class NotLoaded(FarmError):
    """This part of the message has not been fetched yet; the text says what to await."""


class ApiError(FarmError):
    """The server answered with a problem document (RFC 9457), or with something that is none of its answers.

    ``status`` is the HTTP status, ``name`` the problem's short name (``not-found``), ``problem`` all its members.
    """

    def __init__(self, message: str, *, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})
        self.name = str(self.problem.get("type", "")).rpartition("/")[2]


class NoSuchMailbox(ApiError):
    """The mailbox does not exist, has ended, or belongs to another account."""


class NoSuchMessage(ApiError):
    """The message does not exist, was deleted or has expired, or belongs to another account."""


TOKEN_HINT: Final = " (give a token: Farm(url, token=…))"


class NotAllowed(ApiError):
    """The token is missing, wrong or expired, or lacks the scope (401, 403)."""


class AddressTaken(ApiError):
    """Another mailbox has this address (409)."""


class NotInMessage(FarmError, AssertionError, LookupError):
    """The message has no such link or code, or more than one."""

    __str__ = Exception.__str__


class WaitTimeout(FarmError, AssertionError):
    """Not enough messages arrived in time.

    ``messages`` are those that met the criteria, ``near_misses`` those that met some of them, ``refusals`` what the
    server refused for this address, ``in_mailbox`` how many messages the mailbox holds (None if it is gone);
    ``problem`` is the server's own problem document.
    """

    def __init__(
        self,
        message: str,
        *,
        messages: Sequence[Summary] = (),
        near_misses: Sequence[NearMiss] = (),
        refusals: Sequence[Refusal] = (),
        in_mailbox: int | None = None,
        cursor: int = 0,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.messages = tuple(messages)
        self.near_misses = tuple(near_misses)
        self.refusals = tuple(refusals)
        self.in_mailbox = in_mailbox
        self.cursor = cursor
        self.problem = dict(problem or {})


class UnexpectedMessage(FarmError, AssertionError):
    """A message arrived that should not have; ``messages`` are all of them."""

    def __init__(self, message: str, *, messages: Sequence[Summary] = ()) -> None:
        super().__init__(message)
        self.messages = tuple(messages)


def problem_error(status: int, problem: Mapping[str, Any], asked: str, missing: type[ApiError] = ApiError) -> ApiError:
    """The error for an answer that is none of 2xx; ``missing`` is what 404 means for what was asked."""
    title = line(str(problem.get("title") or f"HTTP {status}"), 200)
    detail = line(str(problem.get("detail") or ""), 500)
    text = f"{title}: {detail}" if detail and detail != title else title
    if status in (401, 403):
        return NotAllowed(f"{text}{TOKEN_HINT}", status=status, problem=problem)
    if status == 404:
        return missing(f"{text} ({asked})", status=status, problem=problem)
    if status == 409 and str(problem.get("type", "")).endswith("/conflict"):
        return AddressTaken(text, status=status, problem=problem)
    return ApiError(f"{text} (HTTP {status} to {asked})", status=status, problem=problem)
