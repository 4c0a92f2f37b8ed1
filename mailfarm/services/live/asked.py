"""What a client may say, read strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from mailfarm.errors import Invalid
from mailfarm.mailboxes.match import Criteria
from mailfarm.net.problems import Problem

_MEMBERS = {
    "auth": ("token",),
    "subscribe": ("mailbox", "after", "filter"),
    "unsubscribe": ("mailbox",),
    "watch": (),
    "ping": (),
}
_FILTER = ("from", "to", "subject", "contains")
_LARGEST = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """One message of a client. ``after`` None: from now on."""

    op: str
    mailbox: str = ""
    after: int | None = None
    criteria: Criteria = field(default_factory=Criteria)
    token: str = field(default="", repr=False)


def read(payload: bytes, binary: bool) -> Asked:
    """The message. Raises Problem."""
    if binary:
        raise _wrong("send text frames")
    try:
        form = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise Problem("invalid-json", f"the message is not JSON: {error}") from None
    if not isinstance(form, dict) or not isinstance(form.get("op"), str):
        raise _wrong('a message is an object with an "op"')
    op = form.pop("op")
    if op not in _MEMBERS:
        raise _wrong(f"there is no op {op[:40]!r}; there are {', '.join(_MEMBERS)}")
    for name in form:
        if name not in _MEMBERS[op]:
            raise _wrong(f"{op} has no member {name[:40]!r}; it has {', '.join(_MEMBERS[op]) or 'none'}")
    return Asked(
        op,
        _text(form, "mailbox") if "mailbox" in _MEMBERS[op] else "",
        _number(form.get("after")),
        _criteria(form.get("filter")),
        _text(form, "token") if op == "auth" else "",
    )


def glimpse(payload: bytes) -> Asked:
    """As much of a message that is not good as can be made out, so that its sender knows which one it was."""
    try:
        form = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return Asked("")
    if not isinstance(form, dict):
        return Asked("")
    op, mailbox = (value if isinstance(value, str) else "" for value in (form.get("op"), form.get("mailbox")))
    return Asked(op[:40], mailbox[:200])


def _text(form: dict[str, Any], name: str) -> str:
    value = form.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise _wrong(f"{name} must be a text")
    return value


def _number(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise _wrong("after must be a change number")
    return value


def _criteria(form: Any) -> Criteria:
    if form is None:
        return Criteria()
    if not isinstance(form, dict) or not all(isinstance(value, str) for value in form.values()):
        raise _wrong("filter must be an object of texts")
    for name in form:
        if name not in _FILTER:
            raise _wrong(f"filter has no member {name[:40]!r}; it has {', '.join(_FILTER)}")
    try:
        return Criteria(*(form.get(name, "") for name in _FILTER))
    except Invalid as error:
        raise _wrong(str(error)) from None


def _wrong(detail: str) -> Problem:
    return Problem("message-invalid", detail)
