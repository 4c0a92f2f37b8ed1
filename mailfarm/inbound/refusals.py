"""What was refused, told to whoever wonders why a mail did not come. Sampled and bounded: a hint, no ledger."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from mailfarm.events import Refused
from mailfarm.ids import Ids
from mailfarm.limits import Limit, gcra
from mailfarm.mail.reply import Reply
from mailfarm.ports import Bus, Origin

TOPIC: Final = "refused"
PER_ADDRESS: Final = Limit(10, 60)
IN_ALL: Final = Limit(1000, 60)
ADDRESSES: Final = 10_000
"""Addresses remembered; past it the one that was longest not told of is forgotten."""


class Refusals:
    """Publishes ``Refused`` events of one service. ``clock`` gives microseconds."""

    def __init__(self, bus: Bus, ids: Ids, clock: Callable[[], int], service: str) -> None:
        self._bus = bus
        self._ids = ids
        self._clock = clock
        self._service = service
        self._tats: OrderedDict[str, float] = OrderedDict()
        self._tat = 0.0
        self.dropped = 0
        """Refusals that were not told, because there were too many."""

    def tell(self, account: str, address: str, sender: str, origin: Origin, reply: Reply, lines: Sequence[str]) -> bool:
        """Tell of one refused address. Whether it was told: it is not when the address, or all, had their share, nor
        when nobody may see it (``account`` is empty)."""
        if not account:
            return False
        now = self._clock()
        key = address.lower()
        wait, tat = gcra(self._tats.get(key, 0.0), now / 1e6, PER_ADDRESS)
        wait_all, tat_all = gcra(self._tat, now / 1e6, IN_ALL)
        if wait or wait_all:
            self.dropped += 1
            return False
        self._tat = tat_all
        self._tats[key] = tat
        self._tats.move_to_end(key)
        if len(self._tats) > ADDRESSES:
            self._tats.popitem(last=False)
        self._bus.publish(
            TOPIC,
            Refused(
                id=self._ids.new(),
                account=account,
                at=now,
                service=self._service,
                client=origin.client,
                address=address,
                sender=sender,
                code=reply.code,
                enhanced=reply.enhanced,
                text=reply.text,
                lines=tuple(lines),
            ),
        )
        return True
