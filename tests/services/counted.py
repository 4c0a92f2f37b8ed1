"""A database, and how many questions it was asked."""

from __future__ import annotations

from typing import Any


class Counted:
    """Counts the statements of reads and units that go through it to a real database."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.statements = 0

    def unit(self, work: Any) -> Any:
        return self._database.unit(lambda tx: work(_Tx(self, tx)))

    def read(self, work: Any, **how: Any) -> Any:
        return self._database.read(lambda tx: work(_Tx(self, tx)), **how)


class _Tx:
    def __init__(self, counted: Counted, tx: Any) -> None:
        self._counted = counted
        self._tx = tx
        self.now = tx.now

    def __getattr__(self, name: str) -> Any:
        def ask(*args: Any, **options: Any) -> Any:
            self._counted.statements += 1
            return getattr(self._tx, name)(*args, **options)

        return ask
