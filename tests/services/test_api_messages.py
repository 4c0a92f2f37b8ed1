"""Messages over REST: list, read, mark, delete, and what is in them."""

import gzip
import hashlib
import os
from dataclasses import replace

import pytest
import pytest_twisted
from farm_api import TRACE, pump
from test_api_guard import raw, serve

from mailfarm.inbound.parse import parse
from mailfarm.mailboxes.content import Part
from mailfarm.services.api.content import unfolded

ensure = pytest_twisted.ensureDeferred


@pytest.fixture
def farm_database(database_url):
    return database_url


async def a_mailbox(ask, count=0, farm=None, **more):
    box = (await ask("POST", "/v1/mailboxes", {})).json
    ids = [await farm.file(box, f"Number {n}", **more) for n in range(count)]
    return box, f"/v1/mailboxes/{box['id']}", ids


@ensure
async def test_lists_page_in_both_directions(farm, ask):
    _, path, ids = await a_mailbox(ask, 5, farm)
    first = (await ask("GET", f"{path}/messages?limit=2")).json
    second = (await ask("GET", f"{path}/messages?limit=2&after={first['next']}")).json
    last = (await ask("GET", f"{path}/messages?limit=2&after={second['next']}")).json
    assert [one["id"] for page in (first, second, last) for one in page["messages"]] == ids
    assert (last["next"], last["cursor"]) == (None, 5)
    newest = (await ask("GET", f"{path}/messages?limit=3&order=desc")).json
    older = (await ask("GET", f"{path}/messages?limit=3&order=desc&before={newest['next']}")).json
    assert [one["id"] for page in (newest, older) for one in page["messages"]] == ids[::-1]
    found = (await ask("GET", f"{path}/messages?subject=number%203&from=shop@SHOP.example&contains=some%20TEXT")).json
    assert [one["id"] for one in found["messages"]] == [ids[3]]


@ensure
async def test_the_empty_mailbox_lists_nothing(ask):
    _, path, _ = await a_mailbox(ask)
    assert (await ask("GET", f"{path}/messages")).json == {"messages": [], "cursor": 0, "next": None}
    assert (await ask("GET", f"{path}/events")).json == {"events": [], "cursor": 0}


@ensure
async def test_messages_are_marked_and_deleted_one_many_and_all(farm, ask):
    heard = []
    box, path, ids = await a_mailbox(ask, 6, farm)
    await farm.bus.subscribe(box["id"], heard.append)
    await farm.bus.subscribe(f"account:{farm.account}", heard.append)
    assert (await ask("PATCH", f"/v1/messages/{ids[0]}", {"seen": True})).json["seen"] is True
    assert (await ask("PATCH", f"/v1/messages/{ids[0]}", {"seen": True})).json["seen"] is True
    marked = (await ask("PATCH", f"{path}/messages", {"ids": ids[:3], "seen": True})).json
    assert marked == {"changed": 2, "cursor": 8}
    assert (await ask("PATCH", f"{path}/messages", {"all": True, "seen": True})).json == {"changed": 3, "cursor": 9}
    assert (await ask("PATCH", f"{path}/messages", {"all": True, "seen": True})).json == {"changed": 0, "cursor": 9}
    assert (await ask("GET", path)).json["unseen"] == 0
    assert (await ask("GET", f"{path}/messages?seen=false")).json["messages"] == []
    assert (await ask("DELETE", f"/v1/messages/{ids[0]}")).status == 204
    gone = (await ask("DELETE", f"{path}/messages", {"ids": [ids[0], ids[1], "x"]})).json
    assert gone == {"deleted": 1, "cursor": 11}
    assert (await ask("DELETE", f"{path}/messages", {"all": True})).json == {"deleted": 4, "cursor": 12}
    assert (await ask("GET", f"/v1/messages/{ids[5]}")).problem == "not-found"
    assert [event.seq for event in heard] == [seq for seq in range(7, 13) for _ in "ab"]
    events = (await ask("GET", f"{path}/events?after=6")).json
    assert [one["type"] for one in events["events"]] == ["seen"] * 3 + ["deleted"] * 3


@pytest.mark.parametrize(
    "body",
    [b"", {}, {"all": False}, {"ids": []}, {"ids": ["x"], "all": True}, {"ids": "x"}, {"ids": [1]}, {"al": True}],
)
@ensure
async def test_nothing_is_deleted_by_leaving_something_out(farm, ask, body):
    _, path, _ = await a_mailbox(ask, 1, farm)
    answer = await ask("DELETE", f"{path}/messages", body)
    assert answer.status == 400
    assert (await ask("DELETE", f"{path}/messages")).problem == "invalid-json"
    assert (await ask("GET", path)).json["messages"] == 1


@ensure
async def test_all_of_more_than_one_unit_can_be_deleted(farm, ask, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.messages.MOST", 2)
    _, path, _ = await a_mailbox(ask, 5, farm)
    assert (await ask("PATCH", f"{path}/messages", {"all": True, "seen": True})).json == {"changed": 5, "cursor": 8}
    assert (await ask("DELETE", f"{path}/messages", {"all": True})).json == {"deleted": 5, "cursor": 11}


@ensure
async def test_a_message_shows_everything_but_its_bytes(farm, ask):
    box, _, _ = await a_mailbox(ask)
    id = await farm.file(box, "Hi", text="the text", html="<p>html")
    message = (await ask("GET", f"/v1/messages/{id}")).json
    assert (message["text"], message["html"], message["subject"]) == ("the text", "<p>html", "Hi")
    assert message["envelope"]["recipients"] == [{"address": box["address"], "notify": [], "orcpt": None}]
    assert message["origin"]["helo"] == "client.example"
    assert message["date"] == "2023-11-14T22:13:20.000000Z"
    assert (await ask("GET", f"/v1/messages/{id}/text")).body == b"the text"


@ensure
async def test_raw_is_what_was_sent_below_our_trace(farm, ask):
    box, _, _ = await a_mailbox(ask)
    sent = b"Subject: x\r\nX: \xff\xfe\r\n\r\n" + bytes(range(256)) * 5000
    id = await farm.file(box, content=sent)
    answer = await ask("GET", f"/v1/messages/{id}/raw")
    assert answer.body == TRACE + sent
    bare = await ask("GET", f"/v1/messages/{id}/raw?trace=false")
    assert bare.body == sent
    assert bare.header("etag") != answer.header("etag")
    assert answer.header("cache-control") == "private, no-cache"  # it may be deleted
    assert answer.header("content-disposition") == f'attachment; filename="{id}.eml"'
    assert answer.header("content-security-policy") == "sandbox; default-src 'none'"
    again = await ask("GET", f"/v1/messages/{id}/raw", if_none_match=answer.header("etag"))
    assert (again.status, again.body) == (304, b"")
    head = await ask("HEAD", f"/v1/messages/{id}/raw")
    assert (head.status, head.body, int(head.header("content-length"))) == (200, b"", len(answer.body))
    empty = await farm.file(box, content=b"")
    assert (await ask("GET", f"/v1/messages/{empty}/raw?trace=false")).body == b""


@ensure
async def test_a_large_message_waits_for_a_slow_reader_in_the_database(farm, ask, monkeypatch):
    box, _, _ = await a_mailbox(ask)
    id = await farm.file(box, content=b"x" * 32_000_000)
    read = []
    from mailfarm.services.api import content

    real = content.messages.read_chunk

    async def counted(tx, content_id, number):
        read.append(number)
        return await real(tx, content_id, number)

    monkeypatch.setattr(content.messages, "read_chunk", counted)
    port = await serve(farm)
    client = await raw(port)
    client.transport.pauseProducing()
    client.transport.write(b"GET /v1/messages/%b/raw HTTP/1.1\r\nHost: localhost\r\n\r\n" % id.encode())
    quiet = 0

    def settled() -> bool:
        nonlocal quiet
        quiet = quiet + 1 if read and len(read) == settled.last else 0
        settled.last = len(read)
        return quiet > 50

    settled.last = -1
    await pump(settled)
    assert len(read) < 100  # of 123: what the sockets hold, and no more
    client.transport.resumeProducing()
    await pump(lambda: len(client.data) > 32_000_000)
    # one that goes away in the middle frees everything
    api_site_requests = len(read)
    gone = await raw(port)
    gone.transport.pauseProducing()
    gone.transport.write(b"GET /v1/messages/%b/raw HTTP/1.1\r\nHost: localhost\r\n\r\n" % id.encode())
    await pump(lambda: len(read) > api_site_requests)
    gone.transport.abortConnection()
    await pump(lambda: gone.lost)


@ensure
async def test_a_message_deleted_while_it_is_read_ends_the_connection(farm, ask, monkeypatch):
    box, _, _ = await a_mailbox(ask)
    id = await farm.file(box, content=b"x" * 1_000_000)
    from mailfarm.services.api import content

    real = content.messages.read_chunk

    async def gone(tx, content_id, number):
        return None if number == 2 else await real(tx, content_id, number)

    monkeypatch.setattr(content.messages, "read_chunk", gone)
    client = await raw(await serve(farm), b"GET /v1/messages/%b/raw HTTP/1.1\r\nHost: localhost\r\n\r\n" % id.encode())
    await pump(lambda: client.lost)
    assert b"Content-Length: 10000" in client.data
    assert len(client.data) < 1_000_000


@ensure
async def test_content_that_was_changed_in_the_store_is_never_given_out_whole(farm, ask, logged):
    box, _, _ = await a_mailbox(ask)
    sent = b"Subject: x\r\n\r\n" + os.urandom(600_000)
    id = await farm.file(box, content=sent, parts=(Part(1, None, "text/plain", size=5),))

    async def change(tx):
        piece = bytearray((await tx.row("select data from content_chunk where number = 1"))[0])
        piece[1000] ^= 1
        await tx.execute("update content_chunk set data = ? where number = 1", (bytes(piece),))

    await farm.database.unit(change)
    client = await raw(await serve(farm), b"GET /v1/messages/%b/raw HTTP/1.1\r\nHost: localhost\r\n\r\n" % id.encode())
    await pump(lambda: client.lost)
    assert b"Content-Length: 6000" in client.data
    assert len(client.data) < 600_000
    assert (await ask("GET", f"/v1/messages/{id}/parts/1")).status == 500
    assert all("SHA-256 differs" in str(event["log_failure"].value) for event in logged)
    assert len(logged) == 2
    logged.clear()
    assert (await ask("GET", f"/v1/messages/{id}")).status == 200  # what was parsed is whole


@ensure
async def test_html_is_sanitised_and_sandboxed(farm, ask):
    box, _, _ = await a_mailbox(ask)
    nasty = '<p onclick="x()">Hi<script>alert(1)</script><img src="https://evil.example/p.gif"></p>'
    id = await farm.file(box, html=nasty)
    answer = await ask("GET", f"/v1/messages/{id}/html")
    assert answer.header("content-type") == "text/html; charset=utf-8"
    assert b"script" not in answer.body
    assert b"onclick" not in answer.body
    assert b"evil.example" not in answer.body
    policy = answer.header("content-security-policy")
    assert policy.startswith("sandbox; default-src 'none'; img-src data:;")
    remote = await ask("GET", f"/v1/messages/{id}/html?remote=true")
    assert b"https://evil.example/p.gif" in remote.body
    assert "https:" in remote.header("content-security-policy")
    none = await farm.file(box)
    assert (await ask("GET", f"/v1/messages/{none}/html")).problem == "not-found"


@ensure
async def test_headers_are_unfolded_and_in_order(farm, ask):
    box, _, _ = await a_mailbox(ask)
    id = await farm.file(box, content=b"Subject: a\r\n\tfolded\r\nX-B:  two \r\nX-B: \xff\r\n\r\nbody: no\r\n")
    found = (await ask("GET", f"/v1/messages/{id}/headers")).json["headers"]
    assert found == [
        ["Received", "from client.example"],
        ["Subject", "a folded"],
        ["X-B", "two"],
        ["X-B", "\xff"],
    ]


def test_headers_of_a_bomb_take_bounded_time():
    assert len(unfolded(b"a:b\r\n" * 200_000)) == 5000
    assert len(unfolded(b"a:b\r\n" + b" c\r\n" * 250_000)) == 1
    assert unfolded(b"") == []
    assert unfolded(b" x\r\nno colon\r\n: y\r\n") == []


PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 20
MULTIPART = b"\r\n".join(
    [
        b'Content-Type: multipart/related; boundary="b"',
        b"",
        b"--b",
        b"Content-Type: text/html",
        b"",
        b'<img src="cid:pic@x">',
        b"--b",
        b"Content-Type: image/png",
        b"Content-ID: <pic@x>",
        b'Content-Disposition: inline; filename="a.png"',
        b"Content-Transfer-Encoding: base64",
        b"",
        b"iVBORw0KGgoAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
        b"--b",
        b"Content-Type: text/html; name=evil.html",
        b"X-Evil: yes",
        b"Content-Disposition: attachment",
        b"",
        b"<script>1</script>",
        b"--b--",
        b"",
    ]
)


@ensure
async def test_parts_are_attachments_but_for_pictures(farm, ask):
    box, _, _ = await a_mailbox(ask)
    parsed = parse(MULTIPART)
    parts = (*parsed.parts[:3], replace(parsed.parts[3], filename="évil\u202e.html"))
    assert [part.content_type for part in parts] == ["multipart/related", "text/html", "image/png", "text/html"]
    id = await farm.file(box, content=MULTIPART, parts=parts, html=parsed.html, head=parsed.head)
    picture = await ask("GET", f"/v1/messages/{id}/parts/3")
    assert picture.body == PNG
    assert picture.header("content-type") == "image/png"
    assert picture.header("content-disposition") == 'inline; filename="a.png"'
    evil = await ask("GET", f"/v1/messages/{id}/parts/4")
    assert evil.body == b"<script>1</script>"
    assert evil.header("content-type") == "application/octet-stream"
    assert evil.header("content-disposition") == "attachment; filename=\"_vil.html\"; filename*=UTF-8''%C3%A9vil.html"
    assert evil.header("content-security-policy") == "sandbox; default-src 'none'"
    assert evil.header("x-evil") is None
    assert (await ask("GET", f"/v1/messages/{id}/parts/1")).problem == "not-found"
    assert (await ask("GET", f"/v1/messages/{id}/parts/99")).problem == "not-found"
    page = await ask("GET", f"/v1/messages/{id}/html")
    assert b'src="data:image/png;base64,iVBORw0KGgo' in page.body


@ensure
async def test_a_large_part_is_streamed_from_a_file(farm, ask):
    box, _, _ = await a_mailbox(ask)
    data = os.urandom(1_000_000).hex().encode()
    content = b"Content-Type: application/pdf; name=big.pdf\r\nContent-Disposition: attachment\r\n\r\n" + data
    parsed = parse(content)
    id = await farm.file(box, content=content, parts=tuple(parsed.parts), head=parsed.head)
    answer = await ask("GET", f"/v1/messages/{id}/parts/1")
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(data).digest()
    assert answer.header("content-type") == "application/pdf"
    assert (await ask("GET", f"/v1/messages/{id}/parts/1", if_none_match=answer.header("etag"))).status == 304
    head = await ask("HEAD", f"/v1/messages/{id}/parts/1")
    assert int(head.header("content-length")) == len(data)


@ensure
async def test_long_answers_are_compressed_for_who_asks(farm, ask):
    _, path, _ = await a_mailbox(ask, 20, farm)
    plain = await ask("GET", f"{path}/messages")
    assert plain.header("content-encoding") is None
    assert plain.header("vary") == "Accept-Encoding"
    short = await ask.finish_raw("GET", path, accept_encoding="gzip")
    assert short.header("content-encoding") is None
    small = await ask.finish_raw("GET", f"{path}/messages", accept_encoding="br, gzip;q=0.8")
    assert small.header("content-encoding") == "gzip"
    assert gzip.decompress(small.body) == plain.body
    never = await ask.finish_raw("GET", f"{path}/messages", accept_encoding="gzip;q=0, *;q=0")
    assert never.header("content-encoding") is None


@ensure
async def test_refusals_are_kept_for_their_account_alone(farm):
    from farm_api import Browser

    from mailfarm.events import Refused

    api = farm.api()
    await api.start()
    farm.cleanup.append(api.stop)
    ask = Browser(api)
    box = (await ask("POST", "/v1/mailboxes", {"address": "ann@mailfarm.test"})).json
    assert (await ask("GET", f"/v1/mailboxes/{box['id']}/refusals")).json == {"refusals": []}

    def refused(account, address, text):
        farm.bus.publish(
            "refused",
            Refused(farm.ids.new(), account, 1, "mx", "192.0.2.1", address, "a@b", 550, "5.1.1", text, ("C: RCPT",)),
        )

    for number in range(120):
        refused(farm.account, "Ann@MAILFARM.test", str(number))
    refused("another", "ann@mailfarm.test", "theirs")
    refused("", "ann@mailfarm.test", "nobody's")
    found = (await ask("GET", f"/v1/mailboxes/{box['id']}/refusals")).json["refusals"]
    assert [one["text"] for one in found] == [str(number) for number in range(20, 120)]
    assert (await ask("GET", "/v1/refusals?address=ann@mailfarm.test")).json["refusals"] == found
    for query in ("", "?", "?address="):
        missing = await ask("GET", f"/v1/refusals{query}")
        assert (missing.status, missing.problem, missing.json["name"]) == (400, "invalid-value", "address")
    (parameter,) = (await ask("GET", "/v1/openapi.json")).json["paths"]["/v1/refusals"]["get"]["parameters"]
    assert (parameter["required"], "default" in parameter["schema"]) == (True, False)


@ensure
async def test_what_changes_something_is_done_and_told_though_the_client_has_gone(farm, ask, monkeypatch):
    from twisted.internet.defer import Deferred

    box, _, ids = await a_mailbox(ask, 1, farm)
    heard = []
    await farm.bus.subscribe(box["id"], heard.append)
    gate = Deferred()
    real = farm.database.unit

    async def slow(work):
        result = await real(work)
        await gate
        return result

    port = await serve(farm)
    monkeypatch.setattr(farm.database, "unit", slow)
    client = await raw(port, b"DELETE /v1/messages/%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % ids[0].encode())
    gone = []

    async def is_gone():
        gone.append((await ask("GET", f"/v1/messages/{ids[0]}")).status == 404)

    while not gone or not gone[-1]:
        await is_gone()
    client.transport.abortConnection()
    await pump(lambda: client.lost)
    assert heard == []
    gate.callback(None)
    await pump(lambda: heard)
