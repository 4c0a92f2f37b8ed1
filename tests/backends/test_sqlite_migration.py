"""What the first schema stored is read, followed and deleted under the newest."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from pathlib import Path

import orjson
import pytest_twisted
from spooled_samples import ENVELOPE, IDS, ORIGIN, clock
from twisted.internet import reactor

from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_open import SCHEMA, connect, migrate
from mailfarm.events import Summary
from mailfarm.mailboxes import messages, store
from mailfarm.mailboxes.changes import summary_text
from mailfarm.mailboxes.content import Head, Part, dump
from mailfarm.mailboxes.match import Criteria

CHUNK = 256 * 1024
TEXT = "hello \x00 'quoted' \N{ELEPHANT}"
CONTENTS = {"small": b"Subject: s\r\n\r\nhello\r\n", "large": bytes(range(256)) * 2500, "empty": b""}


def written_by_the_first(path: Path, folder: Path) -> None:
    """A database as the first schema's programs left it: three contents, one of them in two mailboxes."""
    schema = folder / "schema"
    schema.mkdir()
    shutil.copy(SCHEMA / "0001_initial.sql", schema)
    db = connect(path, busy_timeout=1, cache=1 << 20, durable=False, readable_only=False)
    assert migrate(db, path, schema) == 1
    db.execute("insert into account values ('a', 'dev', 0)")
    for box in ("b1", "b2"):
        db.execute(
            "insert into mailbox (id, account, address, address_key, kind, created_at, starts_at, seq, messages,"
            " unseen) values (?, 'a', ?, ?, 'sandbox', 0, 0, 4, 4, 4)",
            (box, f"{box}@x.test", f"{box}@x.test"),
        )
    for number, (name, content) in enumerate(CONTENTS.items(), 1):
        db.execute(
            "insert into content values (?, 'a', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 7)",
            (
                *(name, len(content), hashlib.sha256(content).digest(), b"Received: x\r\n", dump(ENVELOPE)),
                *(dump(ORIGIN), dump(Head(findings=("odd",))), dump((Part(1, None, "text/plain"),))),
                *(TEXT, f"<b>{name}</b>", f"visible {name}"),
            ),
        )
        for piece, start in enumerate(range(0, len(content), CHUNK)):
            db.execute("insert into content_chunk values (?, ?, ?)", (name, piece, content[start : start + CHUNK]))
        for box in ("b1", "b2") if name == "large" else ("b1",):
            summary = Summary(
                f"{name}-{box}", box, number, 5, "s@x.test", (), None, (), (), name, "", "", len(content), 0
            )
            db.execute(
                "insert into message (id, mailbox, content, seq, received_at, sender, from_key, summary, message_id)"
                " values (?, ?, ?, ?, 5, '', '', ?, '')",
                (summary.id, box, name, number, summary_text(summary)),
            )
            data = orjson.dumps({"filed": f"e-{name}-{box}", "at": 5, "message": summary.id}).decode()
            db.execute("insert into event values (?, ?, ?)", (box, number, data))
    db.close()


@pytest_twisted.ensureDeferred
async def test_what_the_first_schema_stored_is_read_as_before(tmp_path):
    path = tmp_path / "mail.sqlite"
    written_by_the_first(path, tmp_path)
    engine = Engine(path, clock=clock, deliver=reactor.callFromThread)
    database = Database(engine)
    for name, content in CONTENTS.items():
        stored = await database.read(lambda tx, name=name: messages.find(tx, "a", f"{name}-b1"))
        assert (stored.text, stored.html) == (TEXT, f"<b>{name}</b>")
        assert (stored.envelope, stored.origin, stored.trace) == (ENVELOPE, ORIGIN, b"Received: x\r\n")
        assert stored.head.findings == ("odd",)
        assert stored.summary.size == len(content)
        read, number = b"", 0
        while (
            piece := await database.read(lambda tx, ref=stored.content, n=number: messages.read_chunk(tx, ref, n))
        ) is not None:
            read, number = read + piece, number + 1
        assert read == content
        assert hashlib.sha256(read).digest() == stored.sha256
    found = await database.read(lambda tx: messages.list_(tx, "a", "b1", Criteria(contains="visible large")))
    assert [message.id for message in found.messages] == ["large-b1"]
    await engine.close()


@pytest_twisted.ensureDeferred
async def test_what_the_first_schema_stored_leaves_nothing_behind(tmp_path):
    path = tmp_path / "mail.sqlite"
    written_by_the_first(path, tmp_path)
    engine = Engine(path, clock=clock, deliver=reactor.callFromThread)
    database = Database(engine)

    async def count(tx):
        tables = ("content", "content_chunk", "message")
        return [(await tx.row(f"select count(*) from {table}"))[0] for table in tables]

    assert await database.unit(count) == [3, 4, 4]
    await database.unit(lambda tx: messages.delete(tx, IDS, "a", "b1", ["large-b1"]))
    assert await database.unit(count) == [3, 4, 3]  # the other mailbox still has it
    await database.unit(lambda tx: messages.delete(tx, IDS, "a", "b2", ["large-b2"]))
    assert await database.unit(count) == [2, 1, 2]
    await database.unit(lambda tx: store.delete(tx, IDS, "a", "b1"))
    assert await database.unit(count) == [0, 0, 0]
    assert await database.prune() == 0
    await engine.close()


def test_every_reference_holds_after_the_migration(tmp_path):
    path = tmp_path / "mail.sqlite"
    written_by_the_first(path, tmp_path)
    db = connect(path, busy_timeout=1, cache=1 << 20, durable=False, readable_only=False)
    migrate(db, path)
    assert db.execute("pragma foreign_key_check").fetchall() == []
    assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    fresh = sqlite3.connect(":memory:", isolation_level=None)
    migrate(fresh, Path("fresh"))
    names = "select name, sql from sqlite_master where sql is not null order by name"
    assert db.execute(names).fetchall() == fresh.execute(names).fetchall()
    db.close()
    fresh.close()
