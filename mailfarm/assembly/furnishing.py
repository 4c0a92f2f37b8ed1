"""What has to be in the database before anything is served: the account, its first token, its default mailbox.

Every replica does this at its start, at the same time as others; whoever comes second finds it done.
"""

from __future__ import annotations

from twisted.logger import Logger

from mailfarm.accounts.first_token import ensure_first_token
from mailfarm.accounts.store import ensure_account
from mailfarm.events import LOOKUP, Revoked
from mailfarm.ids import Ids
from mailfarm.inbound.capture import DefaultMailbox, ensure_default
from mailfarm.ports import Bus, Database

from .background import clock

_log = Logger()


async def furnish(
    database: Database, bus: Bus, ids: Ids, *, account: str, first_token: str, inbox: str
) -> DefaultMailbox:
    """The account of this name with its first token (empty: none) and its mailbox at the address ``inbox``. Raises
    DatabaseUnavailable, Conflict (another account has that address)."""
    owner = (await database.unit(lambda tx: ensure_account(tx, ids, account))).id
    if first_token:
        first = await database.unit(lambda tx: ensure_first_token(tx, ids, owner, first_token))
        if not first.live:
            _log.warn("MAILFARM_API_FIRST_TOKEN was revoked, or is another account's: it opens nothing; set a new one")
        for id in first.ended:
            _log.info("the first token is another one now; the one before it, {id}, has ended", id=id)
            bus.publish(LOOKUP, Revoked(ids.new(), owner, clock(), "token", id))
    default = DefaultMailbox(owner, inbox)
    await ensure_default(database, bus, ids, default)
    return default
