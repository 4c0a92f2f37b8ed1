"""The first token: the one a setting names, which opens the API before there is any other.

It is the account's token named ``first``; the API gives that name to no other. A text in the setting that was never
seen before becomes valid, and the one before it ends, its sessions included: who changes a secret does so because
somebody knows the old one. What was revoked once stays so, whatever a setting says: a replica that starts once more
with the old secret, while the new one is rolled out, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailfarm.ids import Ids
from mailfarm.ports import Tx

from . import store
from .token import SCOPES

NAME = "first"


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Whether the setting's token is ``live``, and the ids of those that were ``ended`` for it."""

    live: bool
    ended: tuple[str, ...] = ()


async def ensure_first_token(tx: Tx, ids: Ids, account: str, text: str) -> FirstToken:
    """See the module. The account has to exist."""
    await tx.lock("account", [account])  # replicas that start together do this one after the other
    found = await store.find_token(tx, text)
    if found is not None:
        if found.live(tx.now) and found.account == account:
            await _give_new_scopes(tx, found.id)
            return FirstToken(live=True)
        return FirstToken(live=False)
    others = await tx.rows(
        "select id from token where account = ? and name = ? and parent is null and revoked_at is null",
        (account, NAME),
    )
    ended = tuple(id for (id,) in others)
    for id in ended:
        await store.revoke_token(tx, account, id)
    await store.create_token(tx, ids, account, text, name=NAME, scopes_=SCOPES)
    return FirstToken(live=True, ended=ended)


async def _give_new_scopes(tx: Tx, id: str) -> None:
    """It has every scope, also those that came with a newer version."""
    scopes = " ".join(SCOPES)
    await tx.execute(
        "update token set scopes = ? where id = ? and name = ? and scopes <> ?", (scopes, id, NAME, scopes)
    )
