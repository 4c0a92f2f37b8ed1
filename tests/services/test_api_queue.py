"""/v1/queue: what waits and what was set aside, who may see it, deciding about it. On SQLite and on Redis shards."""

from __future__ import annotations

import os
import shutil

import pytest
import pytest_twisted
from farm_api import Browser
from prometheus_client import CollectorRegistry
from servers import Redis, server_folder
from spooled_samples import DEADLINE, IDS, clock, spooled
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from mailfarm.accounts.token import SCOPES
from mailfarm.backends.redis_link import RedisLink
from mailfarm.backends.redis_queue import RedisQueue
from mailfarm.backends.redis_shards import ShardedQueue
from mailfarm.backends.sqlite_queue import Queue as SqliteQueue
from mailfarm.ports import CHUNK

ensure = pytest_twisted.ensureDeferred
CONTENT = b"Subject: poison\r\n\r\n\x00\xff bare \n and \r\r\n"
OWN = tuple(scope for scope in SCOPES if scope != "queue:all")


@pytest.fixture(scope="module")
def shards(redis):
    folder = server_folder()
    with Redis(folder) as other:
        yield redis, other
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "redis"])
def queue(request, farm):
    """A queue of one's own."""
    name = IDS.new()
    if request.param == "sqlite":
        return SqliteQueue(farm.engine, name, IDS, clock, reactor=reactor, reserve=0, holder="worker/1")
    servers = request.getfixturevalue("shards")

    async def begin():
        parts = []
        for server in servers:
            link = RedisLink(server.url, reactor, connections=3)
            await link.start()
            farm.cleanup.append(link.stop)
            assert await link.ready(DEADLINE)
            parts.append(RedisQueue(link, name, IDS, clock, reactor, CollectorRegistry(), holder="worker/1"))
        whole = ShardedQueue(parts)
        await whole.start()
        farm.cleanup.append(whole.stop)
        return whole

    return pytest_twisted.blockon(Deferred.fromCoroutine(begin()))


async def set_aside(queue, *mails) -> None:
    for mail in mails:
        await queue.put(mail)
    while (await queue.depth()).aside < len(mails):
        for attempt in await queue.take(10, 60.0):
            await queue.fail(attempt.fence, "it could not be\x1b[2J parsed")


@ensure
async def test_an_operator_sees_what_is_there_and_why(farm, queue) -> None:
    ask = Browser(farm.api(queue=queue))
    empty = (await ask("GET", "/v1/queue")).json
    assert (empty["waiting"], empty["leased"], empty["aside"], empty["oldest_seconds"]) == (0, 0, 0, None)
    await set_aside(queue, spooled(CONTENT, account="other"))
    await queue.put(spooled())
    await queue.take(1, 60.0)
    await queue.put(spooled())
    found = (await ask("GET", "/v1/queue")).json
    assert (found["waiting"], found["leased"], found["aside"]) == (1, 1, 1)
    assert 0 <= found["oldest_seconds"] < 60
    assert sum(shard["aside"] for shard in found["shards"]) == 1
    (entry,) = (await ask("GET", "/v1/queue/entries")).json["entries"]
    assert (entry["state"], entry["tries"], entry["size"]) == ("aside", 5, len(CONTENT))
    assert entry["account"] == "other"
    assert entry["recipients"] == ["inbox@mailfarm.test"]
    assert "it could not be" in entry["reason"]
    (leased,) = (await ask("GET", "/v1/queue/entries?state=leased")).json["entries"]
    assert leased["lease_ends_at"] > leased["put_at"]
    assert (leased["holder"], leased["waits_until"]) == ("worker/1", None)
    assert leased["shard"] in [shard["name"] for shard in found["shards"]] + [""]
    again = (await ask("GET", f"/v1/queue/entries/{leased['id']}")).json
    assert again.items() >= {name: leased[name] for name in leased if name != "age_seconds"}.items()
    (waiting,) = (await ask("GET", "/v1/queue/entries?state=waiting&limit=1")).json["entries"]
    assert (waiting["lease_ends_at"], waiting["waits_until"], waiting["reason"]) == (None, None, "")


@ensure
async def test_an_account_sees_and_decides_about_its_own(farm, queue) -> None:
    api = farm.api(queue=queue, account=None)
    mine, theirs = spooled(CONTENT, account=farm.account), spooled(account="other")
    await set_aside(queue, mine, theirs)
    ask = Browser(api, await farm.token(scopes=OWN))
    page = (await ask("GET", "/v1/queue/entries?limit=1")).json
    assert [entry["id"] for entry in page["entries"]] == [mine.id]
    assert page["more"] is False
    assert (page["entries"][0]["holder"], page["entries"][0]["shard"]) == ("", "")
    assert (await ask("GET", "/v1/queue")).problem == "scope-missing"
    missing = (await ask("GET", f"/v1/queue/entries/{IDS.new()}")).json["detail"]
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/raw", None),
        ("POST", "/retry", {}),
        ("POST", "/drop", {"confirm": theirs.id}),
    ):
        refused = await ask(method, f"/v1/queue/entries/{theirs.id}{path}", body)
        assert (refused.status, refused.problem) == (404, "not-found")
        assert refused.json["detail"][:20] == missing[:20]
    assert (await queue.depth()).aside == 2
    assert (await ask("POST", f"/v1/queue/entries/{mine.id}/retry", {})).status == 204
    operator = Browser(api, await farm.token(scopes=("queue:read", "queue:write", "queue:all")))
    assert (await operator("GET", f"/v1/queue/entries/{mine.id}")).json["state"] == "waiting"
    assert (await operator("POST", f"/v1/queue/entries/{theirs.id}/drop", {"confirm": theirs.id})).status == 204
    assert (await operator("GET", f"/v1/queue/entries/{mine.id}/raw")).json["scope"] == "messages:read"
    for scopes, path in ((("queue:write", "queue:all"), "entries"), (("queue:read", "queue:write"), "")):
        some = Browser(api, await farm.token(scopes=scopes))
        assert (await some("GET", f"/v1/queue/{path}".rstrip("/"))).problem == "scope-missing"
    reader = Browser(api, await farm.token(scopes=("queue:read", "queue:all")))
    assert (await reader("POST", f"/v1/queue/entries/{mine.id}/retry", {})).problem == "scope-missing"


@ensure
async def test_an_entrys_mail_is_read_byte_for_byte(farm, queue) -> None:
    ask = Browser(farm.api(queue=queue))
    for content in (CONTENT, b"", os.urandom(3 * CHUNK + 17)):
        mail = spooled(content)
        await queue.put(mail)
        whole = await ask("GET", f"/v1/queue/entries/{mail.id}/raw")
        assert whole.body == mail.trace + content
        assert whole.header("content-disposition") == f'attachment; filename="{mail.id}.eml"'
        bare = await ask("GET", f"/v1/queue/entries/{mail.id}/raw?trace=false")
        assert bare.body == content
        again = await ask("GET", f"/v1/queue/entries/{mail.id}/raw?trace=false", if_none_match=bare.header("etag"))
        assert (again.status, again.body) == (304, b"")


@ensure
async def test_dropping_must_be_confirmed_and_retrying_forgets_the_tries(farm, queue) -> None:
    ask = Browser(farm.api(queue=queue))
    gone, again = spooled(), spooled()
    await set_aside(queue, gone, again)
    path = f"/v1/queue/entries/{gone.id}/drop"
    for body in ({}, {"confirm": again.id}, {"confirm": ""}, {"confirm": True}, {"confirm": gone.id, "force": True}):
        assert (await ask("POST", path, body)).status == 400, body
    assert (await ask("POST", path, None)).problem == "invalid-json"
    assert (await ask("POST", path, b"confirm=" + gone.id.encode(), content_type="text/plain")).problem == "not-json"
    assert (await queue.depth()).aside == 2
    assert (await ask("POST", path, {"confirm": gone.id})).status == 204
    assert (await ask("POST", path, {"confirm": gone.id})).problem == "not-found"
    path = f"/v1/queue/entries/{again.id}"
    assert (await ask("POST", f"{path}/retry", {})).status == 204
    entry = (await ask("GET", path)).json
    assert (entry["state"], entry["tries"], entry["reason"]) == ("waiting", 0, "")
    assert (await ask("POST", f"{path}/retry", {})).problem == "not-set-aside"
    assert (await ask("POST", f"{path}/drop", {"confirm": again.id})).problem == "not-set-aside"
    await queue.take(1, 60.0)
    assert (await ask("POST", f"{path}/drop", {"confirm": again.id})).problem == "not-set-aside"
    assert (await queue.depth()).leased == 1


@ensure
async def test_lists_end_where_they_are_asked_to(farm, queue) -> None:
    ask = Browser(farm.api(queue=queue))
    mails = [spooled() for _ in range(5)]
    await set_aside(queue, *mails)
    page = (await ask("GET", "/v1/queue/entries?limit=3")).json
    assert (len(page["entries"]), page["more"]) == (3, True)
    page = (await ask("GET", "/v1/queue/entries?limit=5")).json
    assert ([entry["id"] for entry in page["entries"]], page["more"]) == ([mail.id for mail in mails], False)
    for query in ("state=gone", "limit=0", "limit=1001", "status=aside"):
        assert (await ask("GET", f"/v1/queue/entries?{query}")).status == 400


@ensure
async def test_accounts_look_through_the_queue_one_after_the_other(farm, queue, monkeypatch) -> None:
    """Each look may read the forms of 10,000 entries of a shard."""
    inspect, under_way, most = queue.inspect, 0, 0

    async def watched(*asked):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await inspect(*asked)
        finally:
            under_way -= 1

    monkeypatch.setattr(queue, "inspect", watched)
    await set_aside(queue, spooled(account=farm.account))
    ask = Browser(farm.api(queue=queue, account=None), await farm.token(scopes=OWN))
    answers = await gatherResults([Deferred.fromCoroutine(ask("GET", "/v1/queue/entries")) for _ in range(5)])
    assert [len(answer.json["entries"]) for answer in answers] == [1] * 5
    assert (most, under_way) == (1, 0)


@ensure
async def test_an_api_without_a_queue_says_what_to_set(farm) -> None:
    ask = Browser(farm.api())
    for path in ("", "/entries", f"/entries/{IDS.new()}"):
        answer = await ask("GET", f"/v1/queue{path}")
        assert (answer.status, answer.problem) == (503, "queue-unavailable")
        assert "MAILFARM_QUEUE_URL" in answer.json["detail"]


@ensure
async def test_a_shard_that_is_away_is_told_and_the_others_counted(farm, shards) -> None:
    folder = server_folder()
    links, parts, name = [], [], IDS.new()
    with Redis(folder) as dying:
        for server in (shards[0], dying):
            link = RedisLink(server.url, reactor, connections=3, timeout=1.0)
            await link.start()
            farm.cleanup.append(link.stop)
            assert await link.ready(DEADLINE)
            links.append(link)
            parts.append(RedisQueue(link, name, IDS, clock, reactor, CollectorRegistry()))
        queue = ShardedQueue(parts)
        mail = spooled()
        await parts[0].put(mail)
        dying.kill()
        ask = Browser(farm.api(queue=queue))
        found = (await ask("GET", "/v1/queue")).json
        assert found["waiting"] == 1
        assert [shard["waiting"] for shard in found["shards"]] == [1, None]
        assert found["shards"][1]["why"]
        assert (await ask("GET", f"/v1/queue/entries/{mail.id}")).json["shard"] == str(links[0])
        lost = await ask("GET", f"/v1/queue/entries/{IDS.new()}")  # it may be on the one that is away
        assert (lost.problem, bool(lost.header("retry-after"))) == ("queue-unavailable", True)
    shutil.rmtree(folder)
