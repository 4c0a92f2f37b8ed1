"""Limit sets: how often and how much, read from the TOML file of ``MAILFARM_LIMITS`` (see ``mailfarm help limits``).

    [client]                          each client address (IPv6: each /64), before it is known whose mail it brings
    connections_per_minute = 600

    [set.default.mailbox]             each mailbox, in every account that has no set of its own
    messages_per_minute = 300

    [set.trial]                       another set, for the accounts it names; what it does not say is as in default
    accounts = ["trial"]
    [set.trial.account]
    messages_per_day = 1000

A minute and an hour are rates: the number may come at once, and is given back bit by bit. A day is the UTC day. 0 is no
limit. Every mistake is told at once, with its key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from mailfarm.errors import ConfigurationError
from mailfarm.limits import Limit, Quota

Rate = Limit | Quota
MOST: Final = 1_000_000_000
"""No limit is higher; 0 is none at all."""
FIVE_MINUTES: Final = 300

_SPANS: Final[Mapping[str, Any]] = {
    "minute": lambda count: Limit(count, 60),
    "hour": lambda count: Limit(count, 3600),
    "day": Quota,
}
_MESSAGES: Final = ("messages_per_minute", "messages_per_hour", "messages_per_day")
_RECIPIENTS: Final = ("recipients_per_minute", "recipients_per_hour", "recipients_per_day")
SUBJECTS: Final[Mapping[str, tuple[str, ...]]] = {
    "credential": ("sessions", *_MESSAGES, *_RECIPIENTS),
    "mailbox": _MESSAGES,
    "account": (*_MESSAGES, *_RECIPIENTS, "requests_per_minute"),
    "token": ("requests_per_minute", "websockets"),
}
"""What a set may limit, and how."""
CLIENT: Final = (
    "connections_per_minute",
    "sessions",
    "failed_auth",
    "failed_auth_of_a_user",
    "failed_tokens",
    *_MESSAGES,
    "requests_per_minute",
    "websockets",
)
"""What may be limited by client address."""
BUILT_IN: Final[Mapping[str, int]] = {
    "connections_per_minute": 600,
    "sessions": 500,
    "failed_auth": 10,
    "failed_auth_of_a_user": 50,
    "failed_tokens": 100,
}
"""What ``[client]`` has without a file; nothing else is limited then."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one client, credential, mailbox, account or token may do. Where nothing is said nothing is limited;
    ``sessions`` and ``websockets`` are places at the same time, and 0 is no limit."""

    connections: tuple[Rate, ...] = ()
    sessions: int = 0
    failed_auth: Limit | None = None
    failed_auth_of_a_user: Limit | None = None
    failed_tokens: Limit | None = None
    messages: tuple[Rate, ...] = ()
    recipients: tuple[Rate, ...] = ()
    requests: tuple[Rate, ...] = ()
    websockets: int = 0


@dataclass(frozen=True, slots=True)
class LimitSet:
    """What an account's credentials, mailboxes and tokens may do, each of them, and the account in all."""

    name: str = "default"
    credential: Allowed = Allowed()
    mailbox: Allowed = Allowed()
    account: Allowed = Allowed()
    token: Allowed = Allowed()


@dataclass(frozen=True, slots=True)
class LimitSets:
    """The whole file. ``by_account`` has the sets of accounts that are named, by the name or id that was written."""

    client: Allowed = Allowed()
    default: LimitSet = LimitSet()
    by_account: Mapping[str, LimitSet] = field(default_factory=dict)


def read(text: str) -> LimitSets:
    """The limit sets that ``text`` says, in TOML. Raises ConfigurationError with every mistake, one line each."""
    try:
        file = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"MAILFARM_LIMITS: the file is not TOML: {error}"]) from None
    reading = _Reading()
    sets = reading.whole(file)
    if reading.mistakes:
        raise ConfigurationError(reading.mistakes)
    return sets


class _Reading:
    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def whole(self, file: Mapping[str, Any]) -> LimitSets:
        self._only(file, "", ("client", "set"))
        client = _allowed({**BUILT_IN, **self._numbers(file, "client", CLIENT)})
        tables = self._table(file, "set", "")
        defaults = self._subjects(self._table(tables, "default", "set."), "set.default", {})
        by_account: dict[str, LimitSet] = {}
        for name in tables:
            if name == "default":
                continue
            path = f"set.{name}"
            table = self._table(tables, name, "set.")
            made = _set(name, self._subjects(table, path, defaults))
            for account in self._accounts(table, path):
                if account in by_account:
                    self._wrong(f"{path}.accounts", f"{account!r} is in set {by_account[account].name!r} already")
                by_account.setdefault(account, made)
        return LimitSets(client, _set("default", defaults), by_account)

    def _subjects(
        self, table: Mapping[str, Any], path: str, inherited: Mapping[str, Mapping[str, int]]
    ) -> dict[str, dict[str, int]]:
        more = () if path == "set.default" else ("accounts",)
        self._only(table, f"{path}.", (*more, *SUBJECTS))
        return {
            subject: {**inherited.get(subject, {}), **self._numbers(table, subject, keys, f"{path}.")}
            for subject, keys in SUBJECTS.items()
        }

    def _accounts(self, table: Mapping[str, Any], path: str) -> Iterable[str]:
        accounts = table.get("accounts")
        if not isinstance(accounts, list) or not accounts or not all(isinstance(a, str) and a for a in accounts):
            self._wrong(f"{path}.accounts", 'name the accounts that have this set, such as ["trial"]')
            return ()
        return accounts

    def _numbers(self, table: Mapping[str, Any], name: str, keys: tuple[str, ...], path: str = "") -> dict[str, int]:
        inner = self._table(table, name, path)
        self._only(inner, f"{path}{name}.", keys)
        found: dict[str, int] = {}
        for key, value in inner.items():
            if key not in keys:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
                self._wrong(f"{path}{name}.{key}", f"write a whole number from 0 (no limit) to {MOST}")
            else:
                found[key] = value
        return found

    def _table(self, table: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
        inner = table.get(name, {})
        if isinstance(inner, dict):
            return inner
        self._wrong(f"{path}{name}", f"this is a table; write [{path}{name}] and its keys below")
        return {}

    def _only(self, table: Mapping[str, Any], path: str, known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                near = get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                self._wrong(f"{path}{key}", f"there is no such key; {hint}")

    def _wrong(self, key: str, why: str) -> None:
        self.mistakes.append(f"MAILFARM_LIMITS: {key}: {why}")


def _set(name: str, numbers: Mapping[str, Mapping[str, int]]) -> LimitSet:
    return LimitSet(name, **{subject: _allowed(keys) for subject, keys in numbers.items()})


def _allowed(numbers: Mapping[str, int]) -> Allowed:
    rates: dict[str, list[Rate]] = {}
    for key, count in numbers.items():
        what, _, span = key.partition("_per_")
        if span and count:
            rates.setdefault(what, []).append(_SPANS[span](count))
    return Allowed(
        sessions=numbers.get("sessions", 0),
        failed_auth=_failures(numbers, "failed_auth"),
        failed_auth_of_a_user=_failures(numbers, "failed_auth_of_a_user"),
        failed_tokens=_failures(numbers, "failed_tokens"),
        websockets=numbers.get("websockets", 0),
        **{what: tuple(sorted(found, key=lambda rate: rate.period)) for what, found in rates.items()},
    )


def _failures(numbers: Mapping[str, int], key: str) -> Limit | None:
    count = numbers.get(key, 0)
    return Limit(count, FIVE_MINUTES) if count else None


WITHOUT_A_FILE: Final = read("")
"""The limits where no file is named."""
