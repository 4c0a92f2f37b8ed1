"""Sessions: what a browser is given for a token, so that the token itself is not kept there.

A session is a token too, a child of the one it was given for: never with more scopes, never alive when its parent is
not, and gone after ``LIFETIME``. Its text has a prefix of its own: a session is no bearer token, and a bearer token no
session. Every function that takes ``tx`` runs inside a unit and awaits only that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailfarm.ids import Ids
from mailfarm.ports import Tx

from . import store
from .secret import BYTES, digest
from .token import Token

PREFIX: Final = "ms_"
LIFETIME: Final = 7 * 86_400
"""Seconds a session lasts, unless its token ends earlier."""
MOST: Final = 100
"""Sessions of one token. Past it, the oldest ends."""
_SECOND: Final = 1_000_000


def new_session(random: Callable[[int], bytes]) -> str:
    """A new session's text: the prefix and 160 random bits."""
    return PREFIX + random(BYTES).hex()


def is_session(text: str) -> bool:
    """Whether a text is a session's, alive or not."""
    return text.startswith(PREFIX)


async def begin(tx: Tx, ids: Ids, token: str, session: str) -> Token | None:
    """Exchange the token with this text for a session with that one. None if the token is unknown or has ended, or is
    itself a session."""
    parent = None if is_session(token) else await store.find_token(tx, token)
    if parent is None or not parent.live(tx.now):
        return None
    await tx.lock("token", [parent.id])
    await _make_room(tx, parent.id)
    end = tx.now + LIFETIME * _SECOND
    end = end if parent.expires_at is None else min(end, parent.expires_at)
    made = Token(ids.new(), parent.account, parent.name, parent.scopes, tx.now, end, None, digest(session), parent.id)
    row = (made.id, made.account, made.name, " ".join(made.scopes), tx.now, end, made.secret_sha256, parent.id)
    columns = ("id", "account", "name", "scopes", "created_at", "expires_at", "secret_sha256", "parent")
    await tx.insert("token", columns, [row])
    return made


async def find(tx: Tx, session: str) -> Token | None:
    """The live session with this text."""
    if not is_session(session):
        return None
    found = await store.find_token(tx, session)
    return found if found is not None and found.live(tx.now) else None


async def end(tx: Tx, session: str) -> Token | None:
    """End a session and forget it: what it was, or None if it was not there, which is no mistake."""
    found = await store.find_token(tx, session) if is_session(session) else None
    if found is not None:
        await tx.execute("delete from token where id = ? and parent is not null", (found.id,))
    return found


async def forget_ended(tx: Tx, limit: int = 500) -> int:
    """Delete at most ``limit`` sessions that have ended; how many."""
    some = "select id from token where parent is not null and (expires_at <= ? or revoked_at is not null) limit ?"
    return await tx.execute(f"delete from token where id in ({some})", (tx.now, limit))


async def _make_room(tx: Tx, parent: str) -> None:
    await tx.execute("delete from token where parent = ? and expires_at <= ?", (parent, tx.now))
    keep = "select id from token where parent = ? order by created_at desc, id desc limit ?"
    await tx.execute(f"delete from token where parent = ? and id not in ({keep})", (parent, parent, MOST - 1))
