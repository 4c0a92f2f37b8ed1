"""Two real farms for the tests that attack them: see ``houses``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import houses
import pytest
from servers import Postgres, server_folder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Keep the names of all tests, before ``-k`` leaves some out."""
    session.stash[houses.COLLECTED] = [item.nodeid for item in items]


@pytest.fixture(scope="module", params=["dev", "cluster"])
def place(
    request: pytest.FixtureRequest, component: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[houses.Place]:
    """A farm with two accounts, on SQLite and on Postgres with Redis."""
    if request.param == "dev":
        with houses.dev(tmp_path_factory.mktemp("dev") / "data") as place:
            place.begin()
            yield place
        return
    component("redis-server")
    postgres: Postgres = request.getfixturevalue("postgres")
    folder = server_folder()
    with houses.cluster(folder, postgres) as place:
        place.begin()
        yield place
    shutil.rmtree(folder)
