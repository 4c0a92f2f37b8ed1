"""Waits and event streams, on real sockets where a client comes and goes."""

import json

import pytest
import pytest_twisted
from farm_api import Browser, pump
from test_api_guard import raw, serve
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint

from mailfarm.mailboxes import messages

ensure = pytest_twisted.ensureDeferred


async def mailbox(ask):
    box = (await ask("POST", "/v1/mailboxes", {})).json
    return box, f"/v1/mailboxes/{box['id']}"


@ensure
async def test_what_is_there_already_is_found_at_once(farm, ask):
    box, path = await mailbox(ask)
    id = await farm.file(box, "Reset your password")
    found = (await ask("GET", f"{path}/wait?subject=reset&timeout=0")).json
    assert [one["id"] for one in found["messages"]] == [id]
    assert found["cursor"] == 1
    assert (await ask("GET", f"{path}/wait?after=1&timeout=0")).status == 408


@ensure
async def test_a_wait_is_answered_by_what_comes(farm, ask):
    box, path = await mailbox(ask)
    waiting = ask.start("GET", f"{path}/wait?subject=reset&contains=code&timeout=20")
    await pump(lambda: len(farm.feeds) == 1, ask.agent.flush)
    await farm.file(box, "Other")
    id = await farm.file(box, "Reset", text="your code")
    answer = await ask.finish("GET", f"{path}/wait", waiting)
    assert [one["id"] for one in answer.json["messages"]] == [id]
    assert answer.json["cursor"] == 2
    assert len(farm.feeds) == 0


@ensure
async def test_what_the_bus_lost_is_found_when_the_feeds_look(farm, ask):
    box, path = await mailbox(ask)
    waiting = ask.start("GET", f"{path}/wait?timeout=20")
    await pump(lambda: len(farm.feeds) == 1, ask.agent.flush)
    await farm.file(box, publish=False)
    await farm.feeds.look()
    assert (await ask.finish("GET", f"{path}/wait", waiting)).status == 200


@ensure
async def test_a_wait_in_vain_says_what_it_wanted_and_what_came_near(farm, ask):
    box, path = await mailbox(ask)
    await farm.file(box, "Welcome", text="hello")
    answer = await ask("GET", f"{path}/wait?subject=reset&from=shop&timeout=0.05")
    assert (answer.status, answer.problem) == (408, "wait-timed-out")
    told = answer.json
    assert told["criteria"] == {"subject": "reset", "from": "shop", "count": 1, "after": 0, "timeout": 0.05}
    assert told["messages"] == []
    assert told["cursor"] == 1
    assert [(one["message"]["subject"], one["failed"]) for one in told["near_misses"]] == [("Welcome", ["subject"])]
    assert told["refusals"] == []


@ensure
async def test_count_exact_and_none(farm, ask):
    box, path = await mailbox(ask)
    assert (await ask("GET", f"{path}/wait?none=true&timeout=0")).json == {"messages": [], "cursor": 0}
    assert (await ask("GET", f"{path}/wait?exact=0&timeout=0")).status == 200
    for _ in range(3):
        await farm.file(box)
    assert len((await ask("GET", f"{path}/wait?count=2&timeout=0")).json["messages"]) == 2
    assert len((await ask("GET", f"{path}/wait?exact=3&timeout=0")).json["messages"]) == 3
    few = await ask("GET", f"{path}/wait?count=4&timeout=0")
    assert (few.problem, len(few.json["messages"])) == ("wait-timed-out", 3)
    many = await ask("GET", f"{path}/wait?exact=2&timeout=5")
    assert (many.status, many.problem) == (409, "too-many-messages")
    some = await ask("GET", f"{path}/wait?none=true&timeout=5")
    assert (some.status, some.problem, some.json["criteria"]) == (
        409,
        "too-many-messages",
        {"none": True, "after": 0, "timeout": 5},
    )


@pytest.mark.parametrize(
    "query", ["count=0", "count=10001", "count=1&exact=1", "none=true&count=1", "none=1", "timeout=301", "timeout=-1"]
)
@ensure
async def test_a_wait_that_makes_no_sense_is_refused(ask, query):
    _, path = await mailbox(ask)
    assert (await ask("GET", f"{path}/wait?{query}")).problem == "invalid-value"


@ensure
async def test_a_mailbox_that_ends_ends_its_waits(farm, ask):
    _, path = await mailbox(ask)
    waiting = ask.start("GET", f"{path}/wait?timeout=20")
    await pump(lambda: len(farm.feeds) == 1, ask.agent.flush)
    await Browser(ask.api)("DELETE", path)
    assert (await ask.finish("GET", f"{path}/wait", waiting)).problem == "not-found"


@ensure
async def test_a_client_that_goes_away_frees_its_wait(farm, ask):
    box, _ = await mailbox(ask)
    port = await serve(farm)
    clients = [
        await raw(port, b"GET /v1/mailboxes/%b/wait HTTP/1.1\r\nHost: localhost\r\n\r\n" % box["id"].encode())
        for _ in range(5)
    ]
    await pump(lambda: len(farm.feeds) == 5)
    for client in clients[:3]:
        client.transport.abortConnection()
    clients[3].transport.loseConnection()
    await pump(lambda: len(farm.feeds) == 1)
    await farm.file(box)
    await pump(lambda: b"200 OK" in clients[4].data)


@ensure
async def test_waits_and_streams_have_a_cap_together(farm, ask):
    box, _ = await mailbox(ask)
    port = await serve(farm, max_waits=2)
    line = b"GET /v1/mailboxes/%b/%b HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    first = await raw(port, line % (box["id"].encode(), b"wait"))
    await raw(port, line % (box["id"].encode(), b"events"))
    await pump(lambda: len(farm.feeds) == 2)
    third = await raw(port, line % (box["id"].encode(), b"wait"))
    await pump(lambda: third.data)
    assert third.data.startswith(b"HTTP/1.1 503 ")
    assert b"too-many-waits" in third.data
    first.transport.abortConnection()
    await pump(lambda: len(farm.feeds) == 1)
    fourth = await raw(port, line % (box["id"].encode(), b"wait?timeout=0"))
    await pump(lambda: b"HTTP/1.1 408 " in fourth.data)


def events(data: bytes) -> list:
    """The events of a stream, out of the chunks of its transfer encoding."""
    body = data.partition(b"\r\n\r\n")[2]
    text = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        text += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return [
        {name: value.strip() for name, _, value in (line.partition(":") for line in block.split("\n")) if name}
        for block in text.decode().split("\n\n")
        if block and not block.startswith(":")
    ]


async def stream(farm, path, last="", query="", **changes):
    port = await serve(farm, **changes)
    more = f"Last-Event-ID: {last}\r\n" if last else ""
    client = await raw(
        port,
        f"GET {path}/events{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{more}\r\n".encode(),
    )
    await pump(lambda: client.data)
    return client


@ensure
async def test_a_stream_tells_events_as_they_come_and_goes_on_after_the_last(farm, ask):
    box, path = await mailbox(ask)
    for _ in range(2):
        await farm.file(box)
    client = await stream(farm, path, query="?after=0")
    assert b"Content-Type: text/event-stream; charset=utf-8" in client.data
    assert b"Content-Encoding" not in client.data
    await farm.file(box)
    await pump(lambda: len(events(client.data)) == 3)
    assert [one["id"] for one in events(client.data)] == ["1", "2", "3"]
    page = (await ask("GET", f"{path}/events?after=0")).json["events"]
    assert [json.loads(one["data"]) for one in events(client.data)] == page
    client.transport.abortConnection()
    again = await stream(farm, path, last="2")
    await pump(lambda: events(again.data))
    assert [one["id"] for one in events(again.data)] == ["3"]
    await ask("DELETE", path)
    await pump(lambda: len(events(again.data)) == 2)
    assert json.loads(events(again.data)[1]["data"])["type"] == "mailbox-closed"
    await pump(lambda: again.data.endswith(b"0\r\n\r\n"))


@ensure
async def test_a_stream_filters_and_begins_now_if_nothing_is_said(farm, ask):
    box, path = await mailbox(ask)
    await farm.file(box, "Reset before")
    client = await stream(farm, path, query="?subject=reset")
    await farm.file(box, "Other")
    await farm.file(box, "Reset")
    await pump(lambda: events(client.data))
    assert [one["id"] for one in events(client.data)] == ["3"]
    page = (await ask("GET", f"{path}/events?subject=reset")).json
    assert ([one["seq"] for one in page["events"]], page["cursor"]) == ([1, 3], 3)


@ensure
async def test_what_a_stream_cannot_do_is_a_problem(farm, ask):
    box, path = await mailbox(ask)
    await farm.file(box)
    await farm.database.unit(lambda tx: tx.execute("update mailbox set oldest = 1"))
    for query, status in (("?after=0", 410), ("?after=9", 400), ("?aftr=1", 400)):
        assert (await ask("GET", f"{path}/events{query}", accept="text/event-stream")).status == status
        assert (await ask("GET", f"{path}/events{query}")).status == status
    old = await ask("GET", f"{path}/events?after=0")
    assert (old.problem, old.json["oldest"], old.json["cursor"]) == ("cursor-too-old", 2, 1)
    assert (await ask("GET", f"{path}/events", accept="text/event-stream", last_event_id="x")).status == 400
    assert (await ask("HEAD", f"{path}/events?after=1", accept="text/event-stream")).status == 200
    assert len(farm.feeds) == 0


@ensure
async def test_a_stream_beats_and_drops_who_takes_nothing(farm, ask, monkeypatch):
    monkeypatch.setattr("mailfarm.services.api.sse.HEARTBEAT", 0.1)
    box, path = await mailbox(ask)
    client = await stream(farm, path)
    await pump(lambda: client.data.count(b": \n\n") > 2)
    client.transport.pauseProducing()
    for _ in range(400):
        await farm.file(box, "x" * 20_000)
        if not len(farm.feeds):
            break
    await pump(lambda: len(farm.feeds) == 0)
    client.transport.resumeProducing()
    await pump(lambda: client.lost)
    had = [one["id"] for one in events(client.data.rpartition(b"\n\n")[0] + b"\n\n")] if client.data else []
    assert had[:3] == ["1", "2", "3"]


@ensure
async def test_a_stream_that_pauses_and_goes_on_misses_nothing(farm, ask):
    box, path = await mailbox(ask)
    client = await stream(farm, path)
    client.transport.pauseProducing()
    for _ in range(300):
        await farm.file(box, "x" * 20_000)
    client.transport.resumeProducing()
    await pump(lambda: client.data.count(b"\nid: ") == 300 or b'"seq":300' in client.data)
    assert [int(one["id"]) for one in events(client.data)] == list(range(1, 301))


@ensure
async def test_a_stream_whose_client_goes_leaves_no_trace_in_the_log(farm, ask, logged):
    _, path = await mailbox(ask)
    api = farm.api(endpoints=(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),))
    await api.start()
    farm.cleanup.append(api.stop)
    line = f"GET {path}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()
    clients = [await raw(api.listening[0].port, line) for _ in range(4)]
    await pump(lambda: all(client.data for client in clients))
    for number, client in enumerate(clients):
        client.transport.abortConnection() if number % 2 else client.transport.loseConnection()
    await pump(lambda: api.site.requests == 0)
    assert len(farm.feeds) == 0
    assert logged == []


@ensure
async def test_a_download_that_is_broken_off_leaves_no_trace_in_the_log(farm, ask, logged):
    box, _ = await mailbox(ask)
    id = await farm.file(box, content=b"Subject: x\r\n\r\n" + b"x" * 76 * 100_000)
    api = farm.api(endpoints=(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),))
    await api.start()
    farm.cleanup.append(api.stop)
    client = await raw(api.listening[0].port, f"GET /v1/messages/{id}/raw HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await pump(lambda: client.data)
    client.transport.pauseProducing()
    client.transport.abortConnection()
    await pump(lambda: api.site.requests == 0)
    assert logged == []


@ensure
async def test_a_number_that_does_not_fit_is_refused_by_its_name_everywhere(farm, ask):
    box, path = await mailbox(ask)
    await farm.file(box)
    for where in ("messages?after=2", "events?after=2", "wait?after=2"):
        answer = await ask("GET", f"{path}/{where}")
        assert (answer.status, answer.problem, answer.json["name"]) == (400, "invalid-value", "after")
    answer = await ask("GET", "/v1/mailboxes?after=nothing")
    assert (answer.status, answer.json["name"]) == (400, "after")


@ensure
async def test_limit_is_not_for_streams_and_a_stream_may_be_declined(farm, ask):
    _, path = await mailbox(ask)
    refused = await ask("GET", f"{path}/events?limit=5", accept="text/event-stream")
    assert (refused.status, refused.json["name"]) == (400, "limit")
    page = await ask("GET", f"{path}/events?limit=5", accept="text/event-stream;q=0, application/json")
    assert page.header("content-type") == "application/json"


@ensure
async def test_pages_of_events_go_on_until_the_cursor_stands_still(farm, ask):
    box, path = await mailbox(ask)
    for number in range(7):
        await farm.file(box, "yes" if number == 6 else "no")
    found, cursor, last = [], 0, -1
    while cursor != last:
        page = (await ask("GET", f"{path}/events?limit=3&subject=yes&after={cursor}")).json
        found += [one["seq"] for one in page["events"]]
        last, cursor = cursor, page["cursor"]
    assert (found, cursor) == ([7], 7)


@ensure
async def test_head_on_a_wait_does_not_wait(farm, ask):
    _, path = await mailbox(ask)
    assert (await ask("HEAD", f"{path}/wait?timeout=300")).status == 200
    assert (await ask("HEAD", f"{path}/wait?count=0")).status == 400
    assert (await ask("HEAD", f"/v1/mailboxes/{'0' * 26}/wait")).status == 404


@ensure
async def test_following_from_the_first_pages_cursor_misses_nothing_that_happened_between_pages(farm, ask):
    box, path = await mailbox(ask)
    ids = [await farm.file(box, publish=False) for _ in range(4)]
    first = (await ask("GET", f"{path}/messages?limit=2")).json
    await ask("DELETE", f"/v1/messages/{ids[0]}")
    await ask("PATCH", f"/v1/messages/{ids[1]}", {"seen": True})
    second = (await ask("GET", f"{path}/messages?limit=2&after={first['next']}")).json
    assert second["next"] is None
    kinds = [one["type"] for one in (await ask("GET", f"{path}/events?after={first['cursor']}")).json["events"]]
    assert kinds[-2:] == ["deleted", "seen"]


@ensure
async def test_a_message_that_is_gone_is_none_that_came(farm, ask):
    box, path = await mailbox(ask)
    waiting = ask.start("GET", f"{path}/wait?timeout=20")
    await pump(lambda: len(farm.feeds) == 1, ask.agent.flush)
    await farm.file(box, publish=False)
    await farm.database.unit(lambda tx: messages.delete(tx, farm.ids, farm.account, box["id"], None))
    await farm.feeds.look()
    id = await farm.file(box)
    assert [one["id"] for one in (await ask.finish("GET", f"{path}/wait", waiting)).json["messages"]] == [id]
