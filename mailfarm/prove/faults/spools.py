"""Every queue shard is away, and listeners take mail into their local spool; then those who hold it are killed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from mailfarm.prove.target import Options, Target

from . import Fault, Tell

WITHIN = 60.0
"""Seconds after the last shard's end within which mail must be acknowledged again."""
SPOOLING = 2.0
"""Seconds for which mail goes into spools before the first of their owners is killed, and between kills."""


class SpoolKills(Fault):
    """Mail that only spools have: one listener is killed and comes back, another is away until all is drained."""

    name = "spool-kill"
    family = "spools"
    says = "every queue shard is away; listeners that spool are killed, one for good until the others have drained it"
    options = Options(replicas={"mx": 2}, spool=True)

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        shards, spool = target.of("redis-queue"), target.part("spool")
        back, gone = dice.sample(target.of("mx"), 2)
        for shard in shards:
            shard.kill()
        tell(f"spooling after {_until_acknowledged(target):.1f} s; {back.name} is killed, then {gone.name} and spool")
        time.sleep(SPOOLING)
        back.kill()
        back.start()
        time.sleep(SPOOLING)
        gone.kill()
        spool.kill()
        spool.start()
        for shard in shards:
            shard.start()
        time.sleep(dice.uniform(0, SPOOLING))
        spool.kill()  # while it drains what others have left
        spool.start()
        gone.start()


def _until_acknowledged(target: Target) -> float:
    """How many seconds it takes until mail is acknowledged. Raises TimeoutError."""
    began = time.monotonic()
    while time.monotonic() - began < WITHIN:
        attempts = target.mail.send(target.mail.letter())
        if all(attempt.outcome == "acked" for attempt in attempts):
            return time.monotonic() - began
        time.sleep(0.1)
    raise TimeoutError(f"without a queue shard nothing was acknowledged for {WITHIN:g} s, though there is a spool")


def faults() -> Iterator[Fault]:
    """The one there is."""
    yield SpoolKills()
