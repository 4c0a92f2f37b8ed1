"""The stack's Postgres from its first start on: who may do what in it, and that backup and restore need no more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml
from beside_postgres import beside
from running import command, until
from servers import Postgres, postgres_program, server_folder

STACK = Path(__file__).resolve().parent.parent / "stack"
PASSWORD = "it's a \\password"


class FirstStart(Postgres):
    """PostgreSQL as base/postgres-start makes it on an empty volume, its folders moved to ours."""

    def start(self) -> None:
        program = postgres_program("postgres")
        assert program is not None
        secret, scripts = self.folder / "database_password", self.folder / "initdb.d"
        secret.write_text(f"{PASSWORD}\n")
        scripts.mkdir(exist_ok=True)
        sql = (STACK / "postgres-init.sql").read_text("utf-8").replace("/run/secrets/database_password", str(secret))
        (scripts / "mailfarm.sql").write_text(sql)
        start = (STACK / "base" / "postgres-start").read_text("utf-8")
        start = start.replace("/docker-entrypoint-initdb.d", str(scripts))
        self.data.mkdir(exist_ok=True)
        if self.user:
            for each in (self.data, secret, scripts, scripts / "mailfarm.sql"):
                os.chown(each, self.folder.stat().st_uid, -1)
        self.data.chmod(0o700)
        environ = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "PGDATA": str(self.data),
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD_FILE": str(secret),
            "POSTGRES_INITDB_ARGS": "--data-checksums --auth-host=scram-sha-256",
        }
        wanted = ["-p", str(self.port), "-k", str(self.folder), "-c", "listen_addresses=127.0.0.1"]
        self._run(
            ["env", "-i", *(f"{k}={v}" for k, v in environ.items()), "sh", "-c", start, "sh", "postgres", *wanted]
        )
        self._until(self._answers)

    def _answers(self) -> bool:
        try:
            self.ask("select 1")
        except psycopg2.OperationalError:
            return False
        return True

    def connection(self, user: str = "mailfarm", database: str = "mailfarm", host: str = "127.0.0.1") -> Any:
        return psycopg2.connect(
            host=host, port=self.port, user=user, dbname=database, password=PASSWORD, connect_timeout=5
        )

    def ask(self, sql: str, **who: str) -> list[tuple[Any, ...]]:
        """The rows of a statement, as mailfarm unless told otherwise."""
        with closing(self.connection(**who)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else []

    def beside(self, *words: str) -> str:
        """A function of stack/deployment/postgres.bash; what it said."""
        return beside(self.port, "mailfarm", self.folder, "database_password", *words)


@pytest.fixture(scope="module")
def server() -> Iterator[FirstStart]:
    if postgres_program("postgres") is None:
        pytest.skip("there is no PostgreSQL server on this machine")
    with FirstStart(server_folder()) as server:
        yield server


def schema(server: FirstStart) -> None:
    url = f"postgresql://mailfarm@127.0.0.1:{server.port}/mailfarm"
    done = command("schema", MAILFARM_DATABASE_URL=url, MAILFARM_DATABASE_PASSWORD=PASSWORD)
    assert done.returncode == 0, done.stderr


def test_mailfarm_owns_its_database_and_is_not_the_superuser(server: FirstStart) -> None:
    rights = "select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls from pg_roles where rolname = "
    assert server.ask(f"{rights} current_user") == [(False, False, True, False, False)]
    assert server.ask("select pg_get_userbyid(datdba) from pg_database where datname = current_database()") == [
        ("mailfarm",)
    ]
    for forbidden in (
        "copy (select 1) to program 'cat'",
        "select pg_read_file('/etc/passwd')",
        "alter system set fsync = off",
        "create role other superuser",
        "set role postgres",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            server.ask(forbidden)


def test_the_stack_has_it_made_so() -> None:
    postgres = yaml.safe_load((STACK / "mailfarm.yml").read_text("utf-8"))["services"]["postgres"]
    assert postgres["environment"]["POSTGRES_USER"] == "postgres"
    assert postgres["environment"]["POSTGRES_PASSWORD_FILE"] == "/run/secrets/database_password"
    scripts = [each["target"] for each in postgres["configs"] if each["source"] == "postgres_init"]
    assert scripts == ["/docker-entrypoint-initdb.d/mailfarm.sql"]  # the official image runs it, and so does ours


def test_over_the_network_nobody_is_the_superuser(server: FirstStart) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        server.connection(user="postgres", database="postgres")
    assert server.ask("select rolsuper from pg_roles where rolname = current_user",
                      user="postgres", database="postgres", host=str(server.folder)) == [(True,)]  # fmt: skip


def test_a_wrong_password_is_refused(server: FirstStart) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(host="127.0.0.1", port=server.port, user="mailfarm", dbname="mailfarm", password="another")


def test_backup_and_restore_need_no_superuser(server: FirstStart) -> None:
    schema(server)
    server.ask("insert into account values ('a', 'main', 1)")
    (server.folder / "farm.dump").touch()
    assert "schema version" in server.beside("dump", "farm.dump")
    server.ask("insert into account values ('b', 'other', 1)")
    assert "WARNING" not in server.beside("load", "farm.dump")
    others = "select 1 from pg_stat_activity where datname = 'mailfarm' and pid <> pg_backend_pid()"
    with closing(server.connection()):  # it is cut
        until(lambda: server.ask(others))
        server.beside("swap")
    assert server.ask("select name from account") == [("main",)]
    server.beside("drop", "mailfarm_before")
    assert server.ask("select datname from pg_database where datname like 'mailfarm%'") == [("mailfarm",)]
    schema(server)  # the owner of what was restored may change it
    server.ask("create table later (x int); drop table later")


def test_it_starts_again_on_what_it_has_made(server: FirstStart) -> None:
    server.restart()
    assert server.ask("select current_user") == [("mailfarm",)]


def test_a_first_start_that_was_cut_off_begins_anew(component: Callable[[str], Path]) -> None:
    component("postgres")
    folder = server_folder()
    cut = FirstStart(folder)
    cut.data.mkdir()
    (cut.data / "new").mkdir()
    (cut.data / "new" / "PG_VERSION").write_text("15\n")
    if cut.user:
        for each in (cut.data, cut.data / "new", cut.data / "new" / "PG_VERSION"):
            os.chown(each, folder.stat().st_uid, -1)
    with cut:
        assert cut.ask("select current_user") == [("mailfarm",)]
        assert not (cut.data / "new").exists()
