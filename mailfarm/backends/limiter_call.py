"""One call of the limiter to Redis, as ``limiter.lua`` wants it: many charges, and what becomes of many places."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, Literal

from mailfarm.limits import Limit, Quota
from mailfarm.ports import Charge

FORMS: Final = 10_000
"""Charges whose form on the wire is kept, about 5 MB: services make a charge once and say it often."""

_PREFIX: Final = "mailfarm:limit:"
_CHARGE: Final = struct.Struct("<4d")

Verb = Literal[b"take", b"keep", b"free"]
Place = tuple[Verb, bytes, bytes, int]
"""What is asked about a place: verb, key, holder's id, how many places there are."""
Ask = tuple[Sequence[Charge], Place | None]
"""Charges, and what becomes of a place, which is taken only if they are allowed."""


class Forms:
    """Writes calls. ``lease``: seconds a place outlives its last renewal."""

    def __init__(self, lease: float) -> None:
        self._lease = b"%d" % round(lease * 1000)
        self._known: dict[str, tuple[Charge, bytes, bytes]] = {}

    def call(self, asked: Sequence[Ask]) -> tuple[list[bytes], list[bytes | int], int]:
        """The keys, the arguments, and how many lists of charges there are."""
        known = self._known
        keys: list[bytes] = []
        packed: list[bytes] = []
        sizes: list[int] = []
        places: list[bytes] = []
        words: list[bytes | int] = []
        for charges, place in asked:
            if charges:
                sizes.append(len(charges))
                for charge in charges:
                    form = known.get(charge.key)
                    if form is None or form[0] is not charge:
                        form = self._make(charge)
                    keys.append(form[1])
                    packed.append(form[2])
            if place is not None:
                verb, key, id, most = place
                places.append(key)
                words += (verb, id, most, len(sizes) if charges else 0)
        return (
            keys + places,
            [struct.pack(f"<{len(sizes)}I", *sizes), b"".join(packed), self._lease, *words],
            len(sizes),
        )

    def _make(self, charge: Charge) -> tuple[Charge, bytes, bytes]:
        limit = charge.limit
        if isinstance(limit, Quota):
            key = f"{_PREFIX}quota:{limit.period}:{charge.key}"
        else:
            key = f"{_PREFIX}tat:{limit.count}/{float(limit.period)!r}:{charge.key}"
        packed = _CHARGE.pack(not isinstance(limit, Limit), limit.count, limit.period, charge.cost)
        if len(self._known) >= FORMS:
            self._known.clear()
        form = self._known[charge.key] = (charge, _encoded(key), packed)
        return form


def place_key(key: str) -> bytes:
    """Where the holders of ``key`` stand."""
    return _encoded(f"{_PREFIX}place:{key}")


def weight(ask: Ask) -> int:
    """What it weighs in a call."""
    return len(ask[0]) + (ask[1] is not None)


def dealt(answers: Sequence[Any], asked: Sequence[Ask], lists: int) -> list[tuple[Any, Any]]:
    """To each of them its own: the answer to its charges, and to its place; 0 where it asked for none."""
    of_charges, of_places = iter(answers[:lists]), iter(answers[lists:])
    return [(next(of_charges) if charges else 0, next(of_places) if place else 0) for charges, place in asked]


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "backslashreplace")
