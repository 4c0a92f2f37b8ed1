"""Health, readiness and metrics, asked without a port."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry, Counter
from treq.testing import StubTreq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import globalLogPublisher

from mailfarm.errors import DatabaseUnavailable
from mailfarm.net.http import Status


@pytest.fixture
def said() -> Iterator[list[Any]]:
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


async def good() -> None:
    pass


def made(timeout: float = 2.0, **checks: Any) -> tuple[Status, Any, CollectorRegistry]:
    registry = CollectorRegistry()
    status = Status(registry, checks, reactor, timeout=timeout)
    return status, StubTreq(status), registry


async def ready(client: Any) -> tuple[int, Any]:
    response = await client.get("http://x/readyz")
    return response.code, json.loads(await response.text())


@pytest_twisted.ensureDeferred
async def test_it_is_healthy_until_it_stops() -> None:
    status, client, _ = made()
    response = await client.get("http://x/healthz")
    assert (response.code, await response.text()) == (200, "ok\n")
    status.stop()
    response = await client.get("http://x/healthz")
    assert (response.code, await response.text()) == (503, "stopping\n")
    assert (await ready(client))[0] == 503


@pytest_twisted.ensureDeferred
async def test_it_is_ready_when_every_check_is_well() -> None:
    _, client, _ = made(queue=good, database=good)
    checks = {"queue": "ok", "database": "ok"}
    assert await ready(client) == (200, {"ready": True, "state": "serving", "checks": checks})


@pytest_twisted.ensureDeferred
async def test_while_it_starts_it_is_not_healthy_and_says_for_what_it_waits() -> None:
    status, client, _ = made(queue=good)
    status.starting = "the database is away"
    response = await client.get("http://x/healthz")
    assert (response.code, await response.text()) == (503, "starting: the database is away\n")
    code, body = await ready(client)
    assert (code, body["state"], body["waiting"]) == (503, "starting", "the database is away")
    status.starting = ""
    assert (await ready(client))[0] == 200


@pytest_twisted.ensureDeferred
async def test_a_hint_may_be_away_and_it_is_ready_all_the_same() -> None:
    async def away() -> None:
        raise DatabaseUnavailable("it is away")

    status = Status(CollectorRegistry(), {"queue": good, "cache": away}, reactor, hints={"cache"})
    client: Any = StubTreq(status)
    code, body = await ready(client)
    assert (code, body["checks"]) == (200, {"queue": "ok", "cache": "it is away"})


@pytest_twisted.ensureDeferred
async def test_a_check_that_fails_says_why_if_that_is_written_to_be_read(said: list[Any]) -> None:
    async def away() -> None:
        raise DatabaseUnavailable("the database is locked by another process")

    async def broken() -> None:
        raise RuntimeError("password=hunter2")

    _, client, _ = made(database=away, queue=broken, bus=good)
    code, body = await ready(client)
    assert code == 503
    assert body["checks"] == {
        "database": "the database is locked by another process",
        "queue": "failed; the log says why",
        "bus": "ok",
    }
    (failure,) = [event for event in said if event.get("log_failure")]
    assert failure["name"] == "queue"


@pytest_twisted.ensureDeferred
async def test_a_check_that_does_not_answer_is_not_waited_for() -> None:
    cancelled: list[Any] = []
    _, client, _ = made(0.05, slow=lambda: Deferred(cancelled.append))
    pump = LoopingCall(client.flush)
    ended = pump.start(0.01)
    response = await client.get("http://x/readyz")
    assert response.code == 503
    assert json.loads(await response.text())["checks"] == {"slow": "no answer within 0.05 s"}
    assert len(cancelled) == 1
    pump.stop()
    await ended


@pytest_twisted.ensureDeferred
async def test_probes_that_overlap_share_one_run() -> None:
    runs: list[Deferred[None]] = []

    def check() -> Deferred[None]:
        runs.append(Deferred())
        return runs[-1]

    _, client, _ = made(slow=check)
    asked = [client.get("http://x/readyz") for _ in range(3)]
    assert len(runs) == 1
    runs[0].callback(None)
    client.flush()
    assert [(await each).code for each in asked] == [200] * 3
    client.get("http://x/readyz")
    assert len(runs) == 2
    runs[1].callback(None)


@pytest_twisted.ensureDeferred
async def test_metrics_are_prometheus_text() -> None:
    _, client, registry = made()
    Counter("mailfarm_test_things", "Things", registry=registry).inc(3)
    response = await client.get("http://x/metrics")
    assert response.code == 200
    assert response.headers.getRawHeaders("content-type")[0].startswith("text/plain")
    assert "mailfarm_test_things_total 3.0" in await response.text()


@pytest_twisted.ensureDeferred
async def test_there_is_nothing_else() -> None:
    _, client, _ = made()
    for method, path, name in (
        ("GET", "/", "no-such-route"),
        ("POST", "/nothing", "no-such-route"),
        ("POST", "/healthz", "method-not-allowed"),
    ):
        response = await client.request(method, f"http://x{path}")
        problem = await response.json()
        assert (response.code, problem["type"]) == (problem["status"], f"/v1/problems/{name}")
        assert response.headers.getRawHeaders("content-type") == ["application/problem+json"]
