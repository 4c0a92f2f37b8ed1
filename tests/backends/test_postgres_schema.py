"""The schema in PostgreSQL: made once, whoever makes it; older, newer and others' ones are told apart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
import pytest_twisted
from servers import free_port

from mailfarm.backends import postgres_schema
from mailfarm.backends.postgres_schema import SCHEMA, SchemaOld, files, judge, look, migrate
from mailfarm.errors import ConfigurationError, DatabaseUnavailable, SchemaMismatch

NEWEST = files()[-1].version


@pytest.fixture
def url(postgres):
    """An empty database."""
    return postgres.new_database()


@pytest.fixture
def schema(tmp_path):
    """A copy of the migrations, to add some to."""
    for path in SCHEMA.glob("*.sql"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def run(url, sql):
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else None
    finally:
        connection.close()


def add(schema, number, sql, compatible_from=1):
    (schema / f"{number:04d}_more.sql").write_text(f"-- compatible_from: {compatible_from}\n{sql}\n")


def tables(url):
    return {row[0] for row in run(url, "select tablename from pg_tables where schemaname = 'public'")}


def test_an_empty_database_gets_the_schema_once(url):
    assert look(url).state == "empty"
    said = []
    assert migrate(url, say=said.append).state == "ready"
    assert any("0001_initial" in line for line in said)
    assert {"mailbox", "message", "filed", "mailfarm_schema"} <= tables(url)
    said.clear()
    assert migrate(url, say=said.append).version == NEWEST
    assert said == [f"the schema has version {NEWEST}"]
    assert look(url).state == "ready"


def test_many_at_once_run_each_migration_once(url):
    with ThreadPoolExecutor(6) as threads:
        standings = list(threads.map(lambda _: migrate(url), range(6)))
    assert {standing.state for standing in standings} == {"ready"}
    assert len(run(url, "select * from mailfarm_schema")) == len(files())


@pytest_twisted.ensureDeferred
async def test_a_service_waits_for_an_old_schema_and_goes_on_when_it_is_new(url, made, monkeypatch, schema):
    database = made(url)
    with pytest.raises(SchemaOld, match="mailfarm schema"):
        await database.check_schema()
    migrate(url)
    await database.check_schema()
    add(schema, NEWEST + 1, "create table more (id text)")
    newer = files(schema)
    monkeypatch.setattr(postgres_schema, "files", lambda *_: newer)  # the program of tomorrow
    with pytest.raises(SchemaOld, match=f"has version {NEWEST} and this mailfarm needs {NEWEST + 1}"):
        await database.check_schema()
    migrate(url, schema=schema)
    await database.check_schema()


@pytest_twisted.ensureDeferred
async def test_a_program_works_on_a_newer_schema_that_says_so_and_on_no_other(url, made, schema):
    add(schema, NEWEST + 1, "alter table account add column more text", compatible_from=NEWEST)
    migrate(url, schema=schema)
    database = made(url)
    await database.check_schema()
    assert look(url).state == "ready"
    assert migrate(url).version == NEWEST + 1
    add(schema, NEWEST + 2, "alter table account drop column name", compatible_from=NEWEST + 2)
    migrate(url, schema=schema)
    assert look(url).state == "newer"
    with pytest.raises(SchemaMismatch, match="start a newer mailfarm"):
        await database.check_schema()
    with pytest.raises(SchemaMismatch, match="start a newer mailfarm"):
        migrate(url)


def test_a_database_of_somebody_else_is_left_alone(url):
    run(url, "create table invoices (id integer)")
    with pytest.raises(SchemaMismatch, match="none of mailfarm's"):
        migrate(url)
    assert tables(url) == {"invoices"}


def test_a_migration_that_was_edited_after_it_ran_is_noticed(url, schema):
    migrate(url)
    first = next(schema.glob("0001_*.sql"))
    first.write_text(first.read_text() + "create table sneaked_in (id text);\n")
    with pytest.raises(SchemaMismatch, match="development build"):
        migrate(url, schema=schema)
    assert "sneaked_in" not in tables(url)


def test_a_migration_that_fails_leaves_nothing_of_itself(url, schema):
    migrate(url)
    add(schema, NEWEST + 1, "create table more (id text); select 1 / 0")
    with pytest.raises(DatabaseUnavailable, match="division by zero"):
        migrate(url, schema=schema)
    assert "more" not in tables(url)
    assert look(url).version == NEWEST


def test_a_migration_does_not_stand_in_the_way_of_others_while_it_waits_for_a_table(url, schema, monkeypatch):
    migrate(url)
    add(schema, NEWEST + 1, "alter table account add column more text")
    reader = psycopg2.connect(url)
    reader.cursor().execute("select * from account")  # and does not end its transaction

    said = []

    def say(text):
        said.append(text)
        if "trying again" in text:
            run(url, "select * from account")  # nobody queues behind the migration
            reader.rollback()

    assert migrate(url, schema=schema, say=say).version == NEWEST + 1
    assert any("trying again" in line for line in said)
    reader.close()


def test_no_migration_meets_those_who_file_in_a_circle(url, schema):
    """They lock a mailbox, then write messages and events: a migration must not lock these in another order."""
    later = [path for path in sorted(schema.glob("*.sql")) if int(path.name[:4]) > 1]
    aside = {path: path.read_bytes() for path in later}
    for path in later:
        path.unlink()
    migrate(url, schema=schema)
    for path in later:
        path.write_bytes(aside[path])
        with psycopg2.connect(url) as filer, ThreadPoolExecutor(1) as pool, filer.cursor() as cursor:
            cursor.execute("lock table mailbox in row share mode")  # as "for update" does
            said = []
            done = pool.submit(migrate, url, schema=schema, say=said.append)
            while not done.done() and not run(url, "select 1 from pg_locks where not granted"):
                pass
            cursor.execute("lock table message, event in row exclusive mode")
            filer.commit()
            done.result(30)
        assert not any("trying again" in line for line in said), path.name


def test_who_may_not_make_tables_is_told_so(url):
    name = url.rpartition("/")[2]
    run(url, f"create role guest_{name} login")
    with pytest.raises(SchemaMismatch, match="may not make tables: permission denied"):
        migrate(url.replace("mailfarm@", f"guest_{name}@"))


def test_a_database_in_another_encoding_is_refused(postgres):
    connection = psycopg2.connect(postgres.dsn("postgres"))
    connection.autocommit = True
    connection.cursor().execute("create database latin encoding 'LATIN1' locale 'C' template template0")
    connection.close()
    with pytest.raises(SchemaMismatch, match="UTF8"):
        migrate(postgres.dsn("latin"))


def test_what_cannot_be_reached_and_what_is_no_url_are_said_without_their_secrets(postgres):
    with pytest.raises(DatabaseUnavailable, match="refused") as caught:
        migrate(f"postgresql://mailfarm:hidden@127.0.0.1:{free_port()}/x")
    assert "hidden" not in str(caught.value)
    with pytest.raises(DatabaseUnavailable, match="does not exist"):
        look(postgres.dsn("nowhere"))
    for url in (
        "mysql://root:hidden@db/x",
        "postgresql://mailfarm:hidden@db/x?nonsense=1",
        "postgresql://a,b,c/x?port=1,2",
    ):
        with pytest.raises(ConfigurationError) as wrong:
            migrate(url)
        assert "hidden" not in str(wrong.value)


def test_extensions_do_not_make_a_database_somebody_elses():
    assert judge(None, 0, files()).state == "empty"
    assert judge(None, 3, files()).state == "foreign"


def test_every_migration_says_with_whom_it_is_compatible():
    known = files()
    assert [file.version for file in known] == sorted({file.version for file in known})
    assert all(1 <= file.compatible_from <= file.version for file in known)
