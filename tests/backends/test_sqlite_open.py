"""Opening: one owner, our files only, versions, migrations that happen whole or not at all."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from spooled_samples import clock
from twisted.internet import reactor

from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_open import APPLICATION_ID, connect, migrate
from mailfarm.errors import DatabaseUnavailable, SchemaMismatch

OPEN = "import sys, mailfarm.backends.sqlite_engine as e; from pathlib import Path\n"
OPEN += "e.Engine(Path(sys.argv[1]), clock=int, deliver=lambda call: call())"


def open_engine(path, **settings):
    return Engine(path, clock=clock, deliver=reactor.callFromThread, **settings)


@pytest_twisted.ensureDeferred
async def test_a_new_file_gets_the_schema_and_our_mark(tmp_path):
    path = tmp_path / "deep" / "down" / "mail.sqlite"
    engine = open_engine(path)
    await engine.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert db.execute("PRAGMA user_version").fetchone()[0] >= 1
    db.close()
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.stat().st_mode & 0o077 == 0


def run(*arguments):
    return subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True, timeout=60)


@pytest_twisted.ensureDeferred
async def test_a_second_mailfarm_on_the_same_file_is_told_who_has_it(tmp_path):
    path = tmp_path / "mail.sqlite"
    engine = open_engine(path)
    with pytest.raises(DatabaseUnavailable, match=rf"in use by another mailfarm \(process {os.getpid()}\)"):
        open_engine(path)
    second = run(OPEN, path)
    assert second.returncode == 1
    assert "is in use by another mailfarm" in second.stderr
    await engine.close()
    again = open_engine(path)
    await again.close()


def test_what_is_temporary_goes_with_its_process():
    ended = run(OPEN.replace("e.Engine(Path(sys.argv[1])", "x = e.Engine(None") + "; print(x.path)")
    assert ended.returncode == 0, ended.stderr
    assert not Path(ended.stdout.strip()).parent.exists()


@pytest_twisted.ensureDeferred
async def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = ("killed", "alive", "young")
    killed, alive, young = (tmp_path / f"mailfarm-ephemeral-{name}" / "mailfarm.sqlite" for name in names)
    for path in (killed, young):
        await open_engine(path).close()
    living = open_engine(alive)
    for path in (killed, alive):
        os.utime(f"{path}.lock", (1, 1))
    new = open_engine(None)
    assert new.path.parent.parent == tmp_path
    assert [path.parent.exists() for path in (killed, alive, young)] == [False, True, True]
    await new.close()
    await living.close()


@pytest_twisted.ensureDeferred
async def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "mail.sqlite"
    await open_engine(path).close()
    db = sqlite3.connect(path)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(SchemaMismatch, match=rf"version 99, and this mailfarm knows versions up to {version}"):
        open_engine(path)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={version}")  # the owner's lock was given back, too
    db.close()
    await open_engine(path).close()


def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "photos.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE photo (id)")
    db.close()
    with pytest.raises(SchemaMismatch, match="not one of mailfarm's"):
        open_engine(path)
    db = sqlite3.connect(path)
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("photo",)]
    db.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_bytes(b"Dear Sir or Madam, " * 1000)
    with pytest.raises(SchemaMismatch, match="not a mailfarm database"):
        open_engine(path)
    assert path.read_bytes() == b"Dear Sir or Madam, " * 1000


@pytest_twisted.ensureDeferred
async def test_an_empty_file_is_a_new_database(tmp_path):
    path = tmp_path / "mail.sqlite"
    path.touch()
    await open_engine(path).close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseUnavailable, match="file cannot be used"):
        open_engine(tmp_path / "file" / "mail.sqlite")


def test_a_database_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "mail.sqlite").mkdir()
    with pytest.raises(DatabaseUnavailable, match="cannot be opened"):
        open_engine(tmp_path / "mail.sqlite")


def test_a_database_locked_while_it_is_opened_is_unavailable(tmp_path):
    path = tmp_path / "mail.sqlite"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseUnavailable, match="locked by another program"):
        open_engine(path, busy_timeout=0.05)
    db.close()


def test_a_migration_happens_whole_or_not_at_all(tmp_path):
    schema = tmp_path / "schema"
    schema.mkdir()
    (schema / "0001_first.sql").write_text("CREATE TABLE one (a);")
    (schema / "0002_second.sql").write_text("CREATE TABLE two (a);\nINSERT INTO nowhere VALUES (1);")
    db = connect(tmp_path / "x.sqlite", busy_timeout=1, cache=1 << 20, durable=True, readable_only=False)
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(db, tmp_path / "x.sqlite", schema)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("one",)]
    (schema / "0002_second.sql").write_text("CREATE TABLE two (a); -- no line end")
    assert migrate(db, tmp_path / "x.sqlite", schema) == 2
    assert migrate(db, tmp_path / "x.sqlite", schema) == 2
    assert db.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall() == [("one",), ("two",)]
    db.close()
