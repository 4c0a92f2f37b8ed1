"""A session ends with its token, also when both are at work at the same moment."""

from __future__ import annotations

import os

import pytest_twisted
from mailbox_house import House
from twisted.internet.defer import Deferred

from mailfarm.accounts import session, store
from mailfarm.accounts.bearer import holders
from mailfarm.accounts.secret import digest
from mailfarm.accounts.token import SCOPES, new_token

ensure = pytest_twisted.ensureDeferred


async def token_of(house, **options):
    text = new_token(os.urandom)
    made = await house.unit(store.create_token, house.ids, house.account, text, name="x", scopes_=SCOPES, **options)
    return text, made.id


async def holder(house, text):
    return (await holders(house.database, [digest(text)]))[digest(text)].value


@ensure
async def test_revoking_a_token_ends_the_session_that_was_being_begun(postgres_database):
    """Revoking waits for the token's row, which signing in holds until its session is there to be seen."""
    house = await House(postgres_database).open()
    try:
        token, id = await token_of(house)
        text = session.new_session(os.urandom)
        made, may_end = Deferred(), Deferred()

        async def sign_in(tx):
            begun = await session.begin(tx, house.ids, token, text)
            made.callback(None)
            await may_end  # the row is locked, and the session not committed
            return begun

        signing_in = house.database.unit(sign_in)
        await made
        revoking = house.unit(store.revoke_token, house.account, id)

        async def waits(tx):
            (count,) = await tx.row(
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            )
            return count

        waiting = 0
        while not waiting:
            waiting = await house.database.read(waits)
        may_end.callback(None)
        assert (await signing_in).parent == id
        await revoking
        assert await holder(house, text) is None

        async def rows(tx):
            return (await tx.row("select count(*) from token where parent = ?", (id,)))[0]

        assert await house.database.read(rows) == 0
    finally:
        await house.close()


@ensure
async def test_a_session_whose_row_was_left_behind_ends_with_its_token(house):
    """The second belt: what is asked is the parent, too."""
    token, id = await token_of(house)
    text = session.new_session(os.urandom)
    await house.unit(session.begin, house.ids, token, text)
    assert (await holder(house, text)).token == id

    async def end_the_parent_alone(tx):
        await tx.execute("update token set revoked_at = ? where id = ?", (tx.now, id))

    await house.unit(lambda tx: end_the_parent_alone(tx))
    assert await holder(house, text) is None
    assert await house.read(session.find, text) is None


@ensure
async def test_a_session_is_held_no_longer_than_its_token(house):
    token, id = await token_of(house)
    text = session.new_session(os.urandom)
    await house.unit(session.begin, house.ids, token, text)

    async def shorten(tx):
        await tx.execute("update token set expires_at = ? where id = ?", (tx.now + 60_000_000, id))

    await house.unit(lambda tx: shorten(tx))
    held = (await holders(house.database, [digest(text)]))[digest(text)]
    assert held.ends_at is not None
    assert held.ends_at - held.now <= 60_000_000
