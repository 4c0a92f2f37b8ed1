"""Units to be run on a database, and what is seen of them: for tests of the Postgres backend."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred


def file(spool):
    async def work(tx):
        return await tx.insert("filed", ["spool", "filed_at"], [(spool, tx.now)])

    return work


async def spools(tx):
    return {row[0] for row in await tx.rows("select spool from filed")}


def statement(sql):
    async def work(tx):
        return await tx.row(sql)

    return work


def sample(database, name, **labels):
    return database.registry.get_sample_value(f"mailfarm_database_{name}", labels) or 0


def pause(seconds):
    done = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done
