"""What the ledger says was accepted, compared with what the stack's API gives back."""

from __future__ import annotations

from ledger import Found, Steady, check
from swarm_deployment import Deployment

from mailfarm.sdk import Inbox


def judged(stack: Deployment, steady: Steady, seconds: float = 60) -> Found:
    """Read every message the traffic was promised, through the API."""
    with stack.farm(timeout=60) as farm:
        boxes: dict[str, Inbox] = {}

        def ids(address: str) -> list[str]:
            inbox = boxes.setdefault(address, farm.mailbox(address))
            return [message.id for message in inbox.messages()]

        return check(ids, lambda id: farm._run(farm._verbs.octets(id, "raw")), steady.ledger, seconds=seconds)
