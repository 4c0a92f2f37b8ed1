"""Several statements in one journey: what they give is what statements one by one would have given."""

from __future__ import annotations

from random import Random

import psycopg2
import pytest
import pytest_twisted
from postgres_house import file, sample, spools, statement
from spooled_samples import soon

from mailfarm.backends import postgres_arrays, postgres_libpq, postgres_pipeline, postgres_tx
from mailfarm.backends.postgres_pipeline import asked
from mailfarm.errors import DatabaseUnavailable
from mailfarm.ports import NEVER, NOW, Rows

TABLE = "create temporary table odd (number bigint, small integer, said text, octets bytea)"
COLUMNS = ("number", "small", "said", "octets")


def rows(dice, count, nulls=0.2):
    def some(value):
        return None if dice.random() < nulls else value

    return [
        (
            some(dice.choice((0, -1, NEVER, -NEVER, dice.getrandbits(40)))),
            some(dice.randrange(-(2**31), 2**31)),
            some("".join(dice.choices('aé€😀,{}"\\ \n\t', k=dice.randrange(9)))),
            some(dice.randbytes(dice.randrange(300))),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 50, 3000])
@pytest.mark.parametrize("nulls", [0, 0.3])
@pytest_twisted.ensureDeferred
async def test_rows_are_there_octet_by_octet(postgres_database, made, count, nulls):
    given = rows(Random(f"{count} {nulls}"), count, nulls)

    async def work(tx):
        await tx.execute(TABLE)
        assert await tx.insert("odd", COLUMNS, given) == count
        (told,) = await tx.several([("select * from odd", [])])
        return told, await tx.rows("select * from odd")

    told, found = await made(postgres_database).unit(work)
    assert sorted(told, key=repr) == sorted(found, key=repr) == sorted(given, key=repr)


@pytest_twisted.ensureDeferred
async def test_octets_are_read_whatever_form_the_server_would_give_them(postgres_database, made):
    connection = psycopg2.connect(postgres_database)
    connection.autocommit = True
    connection.cursor().execute(f"alter database {connection.info.dbname} set bytea_output = 'escape'")
    connection.close()

    async def work(tx):
        return await tx.several([("select '\\x00ff5c41'::bytea", [])]), await tx.rows("select '\\x00ff5c41'::bytea")

    (one,), other = await made(postgres_database).unit(work)
    assert bytes(one[0][0]) == bytes(other[0][0]) == b"\x00\xff\\A"


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_understood_ends_the_connection_and_no_other(postgres_database, made, monkeypatch):
    database = made(postgres_database)

    async def work(tx):
        return await tx.several([("select 1", [])])

    with monkeypatch.context() as patched:
        patched.setitem(postgres_libpq._READERS, 23, lambda data: int(f"no number: {data!r}"))
        with pytest.raises(ValueError, match="no number"):
            await database.unit(work)
    assert await database.unit(work) == [[(1,)]]


@pytest_twisted.ensureDeferred
async def test_what_postgresql_cannot_store_is_mended(postgres_database, made):
    async def work(tx):
        await tx.insert("filed", ("spool", "filed_at"), [("a\0b", 1), ("c\udcffd", 2), ("ok", 3)])
        question = "select v.column1 || ? from (values ?) as v order by v.column2"
        return await tx.several(
            [(question, ["\0", Rows([("\ud800", 1), ("x", 2)])]), ("select count(*) from filed", [])]
        )

    assert [[*each] for each in await made(postgres_database).unit(work)] == [[("\ufffd\ufffd",), ("x\ufffd",)], [(3,)]]
    assert await made(postgres_database).read(spools) == {"a\ufffdb", "c\ufffdd", "ok"}


def test_marks_in_quotes_are_none_and_now_is_the_servers():
    question, params, _ = asked("select '? (values ?) as x', ?, ? from (values ?) as v", [NOW, 5, Rows([(1, "a")])])
    assert question == (
        f"select '? (values ?) as x', {postgres_pipeline.CLOCK}, $1"
        " from unnest($2::bigint[], $3::text[]) as v (column1, column2)"
    )
    assert [param.type for param in params] == [20, 1016, 1009]


@pytest.mark.parametrize("value", [1.5, True, [1], object()])
def test_a_value_without_a_binary_form_is_a_mistake_of_ours(value):
    with pytest.raises(TypeError):
        asked("select ?", [value])
    with pytest.raises(TypeError):
        postgres_arrays.columns([(value,)])


@pytest_twisted.ensureDeferred
async def test_behind_a_statement_that_fails_none_is_done_and_the_connection_stays_good(postgres_database, made):
    database = made(postgres_database, pool=1)
    (backend,) = await database.read(statement("select pg_backend_pid()"))

    async def taken(tx):
        await tx.insert("filed", ("spool", "filed_at"), [("a", 1), ("b", 2), ("a", 3)])
        await tx.tell("insert into filed (spool, filed_at) values (?, ?)", ["c", 4])

    for _ in range(2):  # the second time some of it is prepared, and some was skipped
        with pytest.raises(psycopg2.errors.UniqueViolation, match="filed_pkey") as caught:
            await database.unit(taken)
        assert "Key" not in str(caught.value), "the values are nobody's business"
        assert await database.read(spools) == set()
    assert await database.unit(file("a")) == 1
    assert await database.read(statement("select pg_backend_pid()")) == (backend,)


@pytest_twisted.ensureDeferred
async def test_a_connection_knows_so_many_statements_and_asks_the_others_all_the_same(postgres_database, made):
    database = made(postgres_database, pool=1)

    async def work(tx):
        questions = [(f"select {number} + ?", [1]) for number in range(150)]
        found = await tx.several(questions)
        known = await tx.row("select count(*) from pg_prepared_statements")
        return [row[0] for (row,) in found], known[0]

    for _ in range(2):
        found, known = await database.unit(work)
        assert found == [*range(1, 151)]
        assert known <= postgres_pipeline.MOST_PREPARED


@pytest_twisted.ensureDeferred
async def test_much_goes_both_ways_at_once(postgres_database, made):
    text = "x" * 500_000

    async def work(tx):
        found = await tx.several([("select repeat(?, 2), octet_length(?)", [text, b"y" * 500_000]) for _ in range(20)])
        return {(len(row[0]), row[1]) for (row,) in found}

    assert await soon(made(postgres_database).unit(work)) == {(1_000_000, 500_000)}


@pytest_twisted.ensureDeferred
async def test_what_waits_in_a_unit_is_bounded(postgres_database, made, monkeypatch):
    monkeypatch.setattr(postgres_tx, "MOST_WAITING", 10_000)

    async def work(tx):
        waited = []
        for number in range(40):
            await tx.insert("filed", ("spool", "filed_at"), [(f"{number} {'x' * 1000}", 1)])
            waited.append(tx._octets)
        return max(waited)

    database = made(postgres_database)
    assert await database.unit(work) <= 10_000
    assert len(await database.read(spools)) == 40


@pytest.mark.parametrize("late", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_connection_that_dies_in_a_journey_has_the_unit_run_again(postgres_database, made, late):
    database = made(postgres_database, pool=1)
    await database.read(spools)
    runs = []

    async def work(tx):
        runs.append(1)
        await file("once")(tx)
        if len(runs) < 3:
            await tx.several([("select pg_terminate_backend(pg_backend_pid())", []), ("select 1", [])])

    await database.unit(work, late=late)
    assert len(runs) == 3
    assert await database.read(spools) == {"once"}
    assert sample(database, "retries_total", why="lost") == 2


@pytest_twisted.ensureDeferred
async def test_a_row_that_stays_locked_is_given_up_in_a_late_unit_too(postgres_database, made):
    database, other = made(postgres_database), made(postgres_database)
    await database.unit(file("a"))

    async def account(tx):
        await tx.insert("account", ("id", "name", "created_at"), [("a", "n", 1)])

    await database.unit(account)
    link = await other.pool.take()
    await link.ask("begin; update account set name = 'x'")

    async def work(tx):
        await tx.lock("account", ["a"])
        await tx.several([("select 1", [])])

    with pytest.raises(DatabaseUnavailable, match="lock timeout"):
        await database.unit(work, late=True)
    await link.ask("rollback")
    other.pool.give(link)
    await database.unit(work, late=True)
