"""What every test may use: ``component`` for programs that are not Python packages, and the rule that CI skips nothing.

``component("swaks")`` is the path of a program, or of Nodemailer's folder. Without it the test is skipped with a
sentence that says how to get it; where ``CI`` is set it fails instead, because there a skip would hide that nothing
was tested.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from servers import Postgres, Redis, Spares, add_clock, postgres_program, server_folder

from mailfarm.backends.postgres_schema import migrate

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")

# Machines differ and are shared: no test may fail because it was slow.
# The same examples in each run, so that a change is told what it broke and not what chance found; make fuzz has others.
settings.register_profile("mailfarm", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("long", deadline=None, print_blob=True, max_examples=5000)
settings.load_profile("mailfarm")


def find_component(name: str) -> Path | None:
    """Where a program, or the folder of a Node package, is on this machine."""
    if name == "nodemailer":
        folder = ROOT / ".make" / "node" / "node_modules" / name
        return folder if folder.is_dir() and shutil.which("node") else None
    if name == "postgres":
        return postgres_program(name)
    path = shutil.which(name)
    return Path(path) if path else None


@pytest.fixture(scope="session")
def component() -> Callable[[str], Path]:
    """A function from a component's name to its path; skips the test, or fails it under CI, where there is none."""

    def find(name: str) -> Path:
        path = find_component(name)
        if path is None:
            message = f"{name} is not on this machine: `make test` installs it where it may (root or sudo on Debian)"
            if IN_CI:
                pytest.fail(message)
            pytest.skip(message)
        return path

    return find


@pytest.fixture(scope="session")
def redis(component: Callable[[str], Path]) -> Iterator[Redis]:
    """One Redis for the whole worker process, synced before each answer. Keys of other tests are in it."""
    component("redis-server")
    folder = server_folder()
    with Redis(folder) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres(component: Callable[[str], Path]) -> Iterator[Postgres]:
    """One Postgres for the whole worker process; ask it for ``new_database()``."""
    component("postgres")
    folder = server_folder()
    with Postgres(folder) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    """The name of a database with mailfarm's schema, a clock that can be set (``servers.set_clock``) and nothing in
    it, to be copied."""
    url = postgres.new_database()
    migrate(url)
    add_clock(url)
    return url.rpartition("/")[2]


@pytest.fixture(scope="session")
def postgres_spares(postgres: Postgres, postgres_template: str) -> Spares:
    """The databases behind ``postgres_database``."""
    return Spares(postgres, postgres_template)


@pytest.fixture
def postgres_database(postgres_spares: Spares) -> Iterator[str]:
    """The URL of a database of one's own with mailfarm's schema and nothing in it."""
    url = postgres_spares.take()
    yield url
    postgres_spares.give(url)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """For what must hold on both engines: empty for SQLite, else the URL of a Postgres database of one's own."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_database"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI a skipped test is a failed test."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI skips nothing: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself."""
    report = yield
    if IN_CI and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI skips nothing: {report.longrepr}"
    return report


@pytest.fixture
def deployment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """stack/deployment, which is no package of the house."""
    monkeypatch.syspath_prepend(str(ROOT / "stack"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import deployment.checks
    import deployment.docker
    import deployment.labels
    import deployment.rollout
    import deployment.settings

    yield deployment
    for name in [name for name in sys.modules if name.partition(".")[0] == "deployment"]:
        del sys.modules[name]
