"""Which limit set an account has, and the charges that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf
from typing import Final

from mailfarm.ports import Charge, Database, Tx

from .limit_sets import LimitSet, LimitSets, Rate

MOST: Final = 10_000
"""Accounts whose name is remembered."""


class SetOf:
    """The limit set of an account, by its id. An account's name never changes, so that it is looked up once."""

    def __init__(self, sets: LimitSets, database: Database) -> None:
        self._sets = sets
        self._database = database
        self._known: dict[str, LimitSet] = {}

    def known(self, account: str) -> LimitSet | None:
        """The set of this account, if nobody need be asked."""
        sets = self._sets
        return (sets.by_account.get(account) or self._known.get(account)) if sets.by_account else sets.default

    async def __call__(self, account: str) -> LimitSet:
        """The set of this account; the default one while that cannot be told. Raises nothing."""
        sets = self._sets
        found = self.known(account)
        if found is not None:
            return found

        async def look(tx: Tx) -> tuple[str] | None:
            return await tx.row("select name from account where id = ?", (account,))

        try:
            row = await self._database.read(look)
        except Exception:
            return sets.default  # and asked again with the next mail: a guard is no reason to refuse it
        found = sets.default if row is None else sets.by_account.get(row[0], sets.default)
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[account] = found
        return found


def charges(key: str, rates: Sequence[Rate], cost: int = 1) -> list[Charge]:
    """What ``cost`` units cost of each of these rates. Each has a key of its own."""
    return [Charge(f"{key}:{rate.period:g}", rate, cost) for rate in rates]


def again(wait: float) -> str:
    """When to try again, in words. ``wait`` is in seconds; infinite for what is more than the limit allows at all."""
    if wait == inf:
        return "this is more than the limit allows at once"
    if wait <= 120:
        return f"try again in {max(1, ceil(wait))} s"
    return f"try again in {ceil(wait / 60)} min" if wait <= 7200 else f"try again in {ceil(wait / 3600)} h"
