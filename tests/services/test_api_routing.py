"""Paths: those found in the table and those that Klein finds are answered alike."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.web.server import Request

from mailfarm.services.api.rest import Rest

ensure = pytest_twisted.ensureDeferred


@pytest.fixture
def asked(monkeypatch):
    """The paths that were left to Klein."""
    paths: list[bytes] = []
    render = Rest.render

    def watch(self, request: Request):
        whole = self._whole

        class Watched:
            def render(self, request: Request):
                paths.append(request.path)
                return whole.render(request)

        self._whole = Watched()
        try:
            return render(self, request)
        finally:
            self._whole = whole

    monkeypatch.setattr(Rest, "render", watch)
    return paths


@ensure
async def test_a_path_that_is_plainly_ours_needs_no_klein_and_is_answered_the_same(farm, ask, asked):
    box = (await ask("POST", "/v1/mailboxes", {})).json
    id = await farm.file(box, "Hello")
    plain = [f"/v1/mailboxes/{box['id']}", f"/v1/mailboxes/{box['id']}/messages", f"/v1/messages/{id}", "/v1/health"]
    answers = [await ask("GET", path) for path in plain]
    assert asked == []
    odd = [path.replace("e", "%65", 1) for path in plain]
    for path, first in zip(odd, answers, strict=True):
        second = await ask("GET", path)
        assert (second.status, second.body) == (first.status, first.body), path
    assert len(asked) == len(odd)


@ensure
@pytest.mark.parametrize(
    ("method", "path", "status", "klein"),
    [
        ("GET", "/v1/mailboxes/0123", 404, False),
        ("GET", "/v1/mailboxes/ab-cd", 404, True),
        ("GET", "/v1/mailboxes/abc/", 404, True),
        ("GET", "/v1/mailboxes//messages", 404, True),
        ("GET", "/v1/nothing", 404, True),
        ("GET", "/v1/nothing/abc/messages", 404, True),
        ("GET", "/v1/mailboxes/<id>", 404, True),
        ("PUT", "/v1/mailboxes/abc", 405, True),
        ("DELETE", "/v1/health", 405, True),
        ("HEAD", "/v1/health", 200, False),
        ("GET", "/v1/problems/not-found", 200, True),
    ],
)
async def test_what_is_not_is_kleins_to_say(farm, ask, asked, method, path, status, klein):
    assert (await ask(method, path)).status == status
    assert bool(asked) is klein


@ensure
async def test_a_fault_behind_a_plain_path_is_an_incident(farm, ask, logged, monkeypatch):
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    box = (await ask("POST", "/v1/mailboxes", {})).json
    monkeypatch.setattr("mailfarm.mailboxes.store.find", broken)
    answer = await ask("GET", f"/v1/mailboxes/{box['id']}")
    assert (answer.status, answer.problem) == (500, "internal-error")
    assert [event["incident"] for event in logged] == [answer.json["incident"]]
    logged.clear()
