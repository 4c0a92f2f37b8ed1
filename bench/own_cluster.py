"""A cluster for one measurement: its own Redis twice, its own PostgreSQL, the schema in it, and no service yet."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from children import ROOT, WORK

sys.path.insert(0, str(ROOT / "tests"))

from running import Cluster
from servers import Postgres, Redis, server_folder


@dataclass(frozen=True, slots=True)
class OwnCluster:
    """``services`` starts and stops them; ``url`` is the database's."""

    services: Cluster
    queue: Redis
    cache: Redis
    postgres: Postgres
    url: str


@contextmanager
def own_cluster(name: str, *tuning: str) -> Iterator[OwnCluster]:
    """One whose logs are in a folder of this ``name``; ``tuning`` is for PostgreSQL. Nothing of it is left behind."""
    WORK.mkdir(parents=True, exist_ok=True)
    folders = [server_folder() for _ in range(3)]
    logs = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=WORK))
    try:
        with (
            Redis(folders[0]) as queue,
            Redis(folders[1], "--appendonly", "no") as cache,
            Postgres(folders[2], *tuning) as postgres,
        ):
            url = postgres.new_database()
            with Cluster(logs, url, [queue.url], cache.url) as services:
                services.schema()
                yield OwnCluster(services, queue, cache, postgres, url)
    finally:
        for folder in (*folders, logs):
            shutil.rmtree(folder)
