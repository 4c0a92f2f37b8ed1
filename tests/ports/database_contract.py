"""What every implementation of the Database port keeps.

A subclass gives ``open_store(folder)``: an object with ``database``, ``await restart()`` and ``await close()``. The
schema is mailfarm's own; the tests use ``account`` and ``filed`` of it, and SQL that every engine shares.
"""

from __future__ import annotations

import pytest
import pytest_twisted
from spooled_samples import clock, soon, start
from twisted.internet.defer import gatherResults

from mailfarm.ports import NOW, Rows


async def count(tx):
    return (await tx.row("SELECT count(*) FROM filed"))[0]


def file(*spools):
    async def work(tx):
        return await tx.insert("filed", ["spool", "filed_at"], [(spool, tx.now) for spool in spools])

    return work


async def now(tx):
    return tx.now


async def nothing(tx):
    return None


async def forget(tx):
    await tx.execute("delete from filed")


def questions(text, octets, missing):
    async def work(tx):
        return await tx.several(
            [
                ("select spool from filed where spool = ?", [text]),
                (
                    "select v.column1 from (values ?) as v where v.column2 = ? or v.column1 = ?",
                    [Rows([(1, octets)]), octets, missing],
                ),
            ]
        )

    return work


class DatabaseContract:
    async def open_store(self, folder):
        raise NotImplementedError

    @pytest_twisted.async_yield_fixture
    async def store(self, tmp_path):
        store = await self.open_store(tmp_path)
        yield store
        await store.close()

    @pytest.fixture
    def database(self, store):
        return store.database

    @pytest_twisted.ensureDeferred
    async def test_a_unit_returns_its_result_and_is_read_afterwards(self, database):
        assert await database.unit(file("a", "b")) == 2
        assert await database.read(count) == 2

    @pytest_twisted.ensureDeferred
    async def test_several_questions_are_answered_in_order_each_with_its_rows(self, database):
        async def work(tx):
            await file("a", "b")(tx)
            found = "select f.spool from (values ?) as v join filed f on f.spool = v.column1 order by 1"
            add = "insert into filed (spool, filed_at) select v.column1, v.column2 + ? from (values ?) as v"
            return await tx.several(
                [
                    (found, [Rows([("a",), ("c",)])]),
                    (f"{add} where true on conflict do nothing returning spool", [1, Rows([("a", 1), ("c", 2)])]),
                    ("select filed_at, 'what? (values ?)' from filed where spool = ?", ["c"]),
                    (found, [Rows([("a",), ("c",)])]),
                ]
            )

        nothing, late = [], await database.unit(work, late=True)
        assert [[*rows] for rows in late] == [[("a",)], [("c",)], [(3, "what? (values ?)")], [("a",), ("c",)]]
        assert [[*rows] for rows in await database.read(questions("nobody", b"\0\xff", None))] == [nothing, [(1,)]]

    @pytest_twisted.ensureDeferred
    async def test_what_is_told_is_done_before_the_next_question_and_by_the_end(self, database):
        async def work(tx):
            await tx.insert("filed", ["spool", "filed_at"], [("a", 1), ("b", 2)])
            await tx.tell("update filed set filed_at = filed_at + 1 where spool = ?", ["a"])
            seen = await tx.rows("select filed_at from filed order by spool")
            await tx.tell("delete from filed where spool = ?", ["b"])
            return [*seen]

        assert await database.unit(work) == [(2,), (2,)]
        assert await database.read(count) == 1

    @pytest_twisted.ensureDeferred
    async def test_a_late_unit_knows_the_time_from_its_first_answer(self, database):
        async def work(tx):
            await tx.lock("mailbox", ["nobody's"])
            await tx.several([("insert into filed (spool, filed_at) values (?, ?)", ["a", NOW])])
            return tx.now, (await tx.row("select filed_at from filed"))[0]

        before = await database.unit(now)
        for _ in range(2):
            told, stored = await database.unit(work, late=True)
            assert before <= told <= stored <= await database.unit(now)
            await database.unit(forget)

    @pytest_twisted.ensureDeferred
    async def test_a_late_unit_that_fails_leaves_nothing_wherever_it_does(self, database):
        async def first(tx):
            await tx.lock("mailbox", ["nobody's"])
            await tx.several([("select 1", []), ("select nonsense", [])])

        async def told(tx):
            await tx.several([("select 1", [])])
            await file("a")(tx)
            await tx.tell("update filed set nonsense = 1")

        async def raised(tx):
            await file("a")(tx)
            raise LookupError

        for work in (first, told, raised, first):
            with pytest.raises(Exception, match=r"nonsense|^$"):
                await database.unit(work, late=True)
            assert await database.read(count) == 0
        await database.unit(nothing, late=True)
        assert await database.unit(file("a"), late=True) == 1

    @pytest_twisted.ensureDeferred
    async def test_rows_may_be_many(self, database):
        spools = [(f"{number:04}",) for number in range(3000)]

        async def work(tx):
            await tx.tell(
                "insert into filed (spool, filed_at) select v.column1, 5 from (values ?) as v", [Rows(spools)]
            )
            return await tx.several(
                [("select f.spool from (values ?) as v join filed f on f.spool = v.column1", [Rows(spools)])]
            )

        (found,) = await database.unit(work)
        assert sorted(found) == spools

    @pytest_twisted.ensureDeferred
    async def test_a_unit_that_raises_leaves_nothing_and_raises_the_same(self, database):
        error = LookupError("no such thing")

        async def work(tx):
            await file("a")(tx)
            raise error

        with pytest.raises(LookupError) as caught:
            await database.unit(work)
        assert caught.value is error
        assert await database.read(count) == 0

    @pytest_twisted.ensureDeferred
    async def test_a_read_that_raises_raises_the_same(self, database):
        async def work(tx):
            raise LookupError("no such thing")

        with pytest.raises(LookupError, match="no such thing"):
            await database.read(work)
        assert await database.read(count) == 0

    @pytest_twisted.ensureDeferred
    async def test_a_unit_sees_its_own_changes(self, database):
        async def work(tx):
            await file("a")(tx)
            return await count(tx)

        assert await database.unit(work) == 1

    @pytest_twisted.ensureDeferred
    async def test_a_failing_unit_does_not_touch_its_neighbours(self, database):
        async def bad(tx):
            await file("bad")(tx)
            raise ValueError("bad")

        works = [start(database.unit(bad if n % 3 == 1 else file(str(n)))) for n in range(30)]
        failed = 0
        for work in works:
            try:
                await work
            except ValueError:
                failed += 1
        assert failed == 10
        assert await database.read(count) == 20

    @pytest_twisted.ensureDeferred
    async def test_units_do_not_run_into_each_other(self, database):
        async def work(tx):
            row = await tx.row("SELECT filed_at FROM filed WHERE spool = ?", ("counter",))
            return await tx.execute("UPDATE filed SET filed_at = ? WHERE spool = ?", (row[0] + 1, "counter"))

        async def begin(tx):
            await tx.insert("filed", ["spool", "filed_at"], [("counter", 0)])

        async def end(tx):
            return await tx.row("SELECT filed_at FROM filed WHERE spool = ?", ("counter",))

        await database.unit(begin)
        # where writers are not one at a time this is what a unit run again is for
        await soon(gatherResults([start(database.unit(work)) for _ in range(100)]))
        assert await database.read(end) == (100,)

    @pytest_twisted.ensureDeferred
    @pytest.mark.parametrize("once", [False, True])
    async def test_a_read_cannot_write(self, database, once):
        async def told(tx):
            return await tx.several([("insert into filed (spool, filed_at) values ('a', 1) returning spool", [])])

        for work in (file("a"), told, forget):
            with pytest.raises(Exception, match=r".+"):
                await database.read(work, once=once)
        assert await database.read(count) == 0
        assert await database.unit(file("a")) == 1

    @pytest_twisted.ensureDeferred
    async def test_a_read_that_asks_once_knows_the_time_from_its_answer(self, database):
        async def work(tx):
            moment, spools = await tx.several([("select cast(? as bigint)", [NOW]), ("select spool from filed", [])])
            return tx.now, moment[0][0], [*spools]

        async def found(tx):
            return await tx.rows("select spool from filed where spool = ?", ["b"]), tx.now

        async def last(tx):
            return await tx.row("select max(spool) from filed"), tx.now

        for spool in "abc":
            before = await database.unit(file(spool)) and await database.unit(now)
            told, asked, spools = await database.read(work, once=True)
            assert before <= told <= asked <= await database.unit(now)
            assert sorted(spools) == [(each,) for each in "abc" if each <= spool]
            assert (await database.read(last, once=True))[0] == (spool,)
        rows, moment = await database.read(found, once=True)
        assert [*rows] == [("b",)]
        assert before <= moment <= await database.unit(now)

    @pytest_twisted.ensureDeferred
    async def test_a_read_that_asks_more_than_once_has_one_snapshot_all_the_same(self, database):
        async def work(tx):
            (first,) = await tx.several([("select count(*) from filed", [])])
            if not written:
                written.append(start(database.unit(file(*"abc"))))
            return [first[0], await tx.row("select count(*) from filed"), *await tx.rows("select count(*) from filed")]

        written = []
        counts = await database.read(work, once=True)
        assert await written[0] == 3
        assert counts in ([(0,)] * 3, [(3,)] * 3)

    @pytest_twisted.ensureDeferred
    async def test_a_read_that_asks_once_and_fails_spoils_none_after_it(self, database):
        async def fails(tx):
            await tx.several([("select 1", []), ("select nonsense", [])])

        async def raises(tx):
            await tx.row("select 1")
            raise LookupError("of its own")

        for work in (fails, raises, fails, raises):
            with pytest.raises(Exception, match=r".+"):
                await database.read(work, once=True)
            assert await database.read(count, once=True) == await database.read(count) == 0

    @pytest_twisted.ensureDeferred
    async def test_rows_row_and_execute(self, database):
        await database.unit(file("a", "b", "c"))

        async def work(tx):
            assert [tuple(r) for r in await tx.rows("SELECT spool FROM filed ORDER BY spool DESC")] == [
                ("c",),
                ("b",),
                ("a",),
            ]
            assert tuple(await tx.row("SELECT spool FROM filed ORDER BY spool")) == ("a",)
            assert await tx.row("SELECT spool FROM filed WHERE spool = ?", ("x",)) is None
            assert list(await tx.rows("SELECT spool FROM filed WHERE spool = ?", ("x",))) == []
            assert await tx.execute("UPDATE filed SET filed_at = 7 WHERE spool <> ?", ("a",)) == 2
            assert await tx.execute("DELETE FROM filed WHERE spool = ?", ("x",)) == 0
            deleted = await tx.rows("DELETE FROM filed WHERE filed_at = ? RETURNING spool", (7,))
            assert sorted(r[0] for r in deleted) == ["b", "c"]
            return await count(tx)

        assert await database.unit(work) == 1

    @pytest.mark.parametrize("many", [0, 1, 2, 127, 128, 129, 1000, 2500])
    @pytest_twisted.ensureDeferred
    async def test_insert_takes_any_number_of_rows(self, database, many):
        assert await database.unit(file(*[str(n) for n in range(many)])) == many
        assert await database.read(count) == many

    @pytest_twisted.ensureDeferred
    async def test_insert_passes_over_what_is_there_if_told_so(self, database):
        await database.unit(file("1", "5"))

        async def work(tx):
            rows = [(str(n), tx.now) for n in (*range(10), 3)]
            return await tx.insert("filed", ["spool", "filed_at"], rows, ignore=True)

        assert await database.unit(work) == 8
        assert await database.read(count) == 10

    @pytest_twisted.ensureDeferred
    async def test_insert_of_what_is_there_fails_whole(self, database):
        await database.unit(file("5"))
        with pytest.raises(Exception, match=r".+"):
            await database.unit(file(*[str(n) for n in range(300)]))
        assert await database.read(count) == 1

    @pytest_twisted.ensureDeferred
    async def test_values_come_back_as_they_were(self, database):
        big = 2**62
        values = ("id", "bytes", b"\x00\xff" * 500, "çağrı 🐘 '; drop table token; --", big, None)

        async def work(tx):
            await tx.insert("account", ["id", "name", "created_at"], [("a", "bytes", 1)])
            columns = ["id", "account", "name", "secret_sha256", "scopes", "created_at", "expires_at"]
            await tx.insert("token", columns, [("id", "a", "bytes", values[2], values[3], big, None)])
            return await tx.row("SELECT id, name, secret_sha256, scopes, created_at, expires_at FROM token")

        assert tuple(await database.unit(work)) == values

    @pytest_twisted.ensureDeferred
    async def test_foreign_keys_hold(self, database):
        async def orphan(tx):
            columns = ["id", "account", "name", "secret_sha256", "scopes", "created_at"]
            await tx.insert("token", columns, [("id", "nobody", "x", b"", "", 1)])

        with pytest.raises(Exception, match=r".+"):
            await database.unit(orphan)

    @pytest_twisted.ensureDeferred
    async def test_now_is_one_moment_of_the_databases_clock(self, database):
        async def work(tx):
            first = tx.now
            await count(tx)
            return first, tx.now

        before = clock()
        first, second = await database.unit(work)
        assert first == second
        # a database on another machine may have another idea of the time, but not by an hour
        assert abs(first - before) < 3_600_000_000
        again, _ = await database.read(work)
        assert again >= first

    @pytest_twisted.ensureDeferred
    async def test_lock_takes_any_ids(self, database):
        async def work(tx):
            await tx.lock("mailbox", [])
            await tx.lock("mailbox", ["nobody", "nothing"])
            return await count(tx)

        assert await database.unit(work) == 0

    @pytest_twisted.ensureDeferred
    async def test_a_tx_ends_with_its_unit(self, database):
        kept = []

        async def work(tx):
            kept.append(tx)

        await database.unit(work)
        with pytest.raises(Exception, match=r".+"):
            await kept[0].execute("DELETE FROM filed")

    @pytest_twisted.ensureDeferred
    async def test_many_reads_and_units_at_once(self, database):
        units = [start(database.unit(file(f"{n}"))) for n in range(50)]
        reads = [start(database.read(count)) for _ in range(100)]
        await soon(gatherResults(units))
        assert all(0 <= n <= 50 for n in await soon(gatherResults(reads)))
        assert await database.read(count) == 50

    @pytest_twisted.ensureDeferred
    async def test_everything_is_there_after_a_restart(self, store):
        await store.database.unit(file("a", "b"))
        await store.restart()
        assert await store.database.read(count) == 2
        assert await store.database.unit(file("c")) == 1
