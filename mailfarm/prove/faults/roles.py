"""Which of the queue's two servers behind Sentinel is the master now, and which the replica."""

from __future__ import annotations

from typing import Any

from mailfarm.prove.target import Part, Target

from . import NotHere


def roles(target: Target) -> tuple[Part, Part]:
    """The master and the replica; another fault may have promoted the one that was it. Raises NotHere when there is no
    pair of them."""
    parts = target.of("redis-queue")
    found = [role_of(part) for part in parts]
    if sorted(found) != ["master", "slave"]:
        raise NotHere(f"the queue's servers are {' and '.join(found) or 'not ours'}")
    return parts[found.index("master")], parts[found.index("slave")]


def role_of(part: Part) -> str:
    """``master``, ``slave``, or empty where it is none of ours."""
    server: Any = getattr(part, "server", None)
    return str(server.ask("role").split()[0]) if server is not None else ""
