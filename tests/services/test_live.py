"""Events over WebSocket, on real sockets."""

import pytest
import pytest_twisted
from counted import Counted
from farm_api import Browser, pump
from farm_live import connect, listen
from test_api_guard import raw, serve
from twisted.internet.defer import Deferred

from mailfarm.accounts.store import ensure_account
from mailfarm.backends.memory import MemoryBus
from mailfarm.mailboxes import store
from mailfarm.mailboxes.mailbox import NewMailbox

ensure = pytest_twisted.ensureDeferred


@ensure
async def test_what_happens_comes_in_order_and_once(farm, ask):
    live = await listen(farm)
    port = live.listening[0].port
    box = (await ask("POST", "/v1/mailboxes", {})).json
    first = await farm.file(box, "before")
    client = await connect(port)
    client.say(op="subscribe", mailbox=box["id"], after=0)
    assert await client.next("subscribed") == {"type": "subscribed", "mailbox": box["id"], "cursor": 0}
    assert (await client.next("filed"))["message"]["id"] == first
    second = await farm.file(box, "after")
    await ask("PATCH", f"/v1/messages/{second}", {"seen": True})
    await ask("DELETE", f"/v1/messages/{first}")
    await client.until(lambda self: len(self.heard) >= 3)
    assert [(one["type"], one["seq"]) for one in client.heard] == [("filed", 2), ("seen", 3), ("deleted", 4)]
    page = (await ask("GET", f"/v1/mailboxes/{box['id']}/events?after=1")).json
    assert client.heard == page["events"]


@ensure
async def test_what_the_bus_lost_comes_when_the_feeds_look(farm, ask):
    live = await listen(farm)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    client = await connect(live.listening[0].port)
    client.say(op="subscribe", mailbox=box["id"])
    await client.next("subscribed")
    for number in range(3):
        await farm.file(box, str(number), publish=False)
    await farm.feeds.look()
    await client.until(lambda self: len(self.heard) == 3)
    await farm.file(box, "told")
    await client.until(lambda self: len(self.heard) == 4)
    assert [one["seq"] for one in client.heard] == [1, 2, 3, 4]


@ensure
async def test_a_filter_keeps_back_what_does_not_match(farm, ask):
    live = await listen(farm)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    client = await connect(live.listening[0].port)
    client.say(op="subscribe", mailbox=box["id"], filter={"subject": "reset", "contains": "secret"})
    await client.next("subscribed")
    await farm.file(box, "Reset", text="nothing of interest")
    await farm.file(box, "Other", text="a secret")
    wanted = await farm.file(box, "Your RESET", text="the Secret")
    await client.next("filed")
    assert client.heard == []
    await ask("PATCH", f"/v1/messages/{wanted}", {"seen": True})
    assert (await client.next("seen"))["seq"] == 4


@ensure
async def test_a_cursor_no_longer_kept_is_answered_resync(farm, ask):
    live = await listen(farm)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    await farm.file(box)
    await farm.file(box)
    await farm.database.unit(lambda tx: tx.execute("update mailbox set oldest = 1 where id = ?", (box["id"],)))
    client = await connect(live.listening[0].port)
    client.say(op="subscribe", mailbox=box["id"], after=0)
    assert await client.next("resync") == {"type": "resync", "mailbox": box["id"], "oldest": 2, "cursor": 2}
    client.say(op="subscribe", mailbox=box["id"], after=1)
    assert (await client.next("filed"))["seq"] == 2


@ensure
async def test_watch_tells_of_mailboxes_and_coalesces_their_changes(farm, ask):
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    client.say(op="watch")
    await client.next("watching")
    box = (await ask("POST", "/v1/mailboxes", {})).json
    assert (await client.next("mailbox-opened"))["mailbox"] == box["id"]
    for _ in range(20):
        await farm.file(box)
    await client.until(lambda self: any(one["mailbox"]["messages"] == 20 for one in self.of("mailbox")))
    assert len(client.of("mailbox")) < 20
    read = (await ask("GET", f"/v1/mailboxes/{box['id']}")).json
    assert client.of("mailbox")[-1]["mailbox"] == read


@ensure
async def test_hints_of_many_mailboxes_are_one_question_and_of_ones_own_account_alone(farm, ask):
    boxes = [(await ask("POST", "/v1/mailboxes", {})).json for _ in range(30)]
    stranger = (await farm.database.unit(lambda tx: ensure_account(tx, farm.ids, "other"))).id
    theirs, _ = await farm.database.unit(lambda tx: store.create(tx, farm.ids, stranger, NewMailbox(), farm.domains))
    counted = Counted(farm.database)
    live = await listen(farm, database=counted)
    client = await connect(live.listening[0].port)
    client.say(op="watch")
    await client.next("watching")
    counted.statements = 0
    watch = live._watches[farm.account]
    watch._changed = dict.fromkeys([theirs.id, "gone", *(box["id"] for box in boxes)])
    watch._soon()
    await client.until(lambda self: len(self.of("mailbox")) == 30)
    assert [frame["mailbox"]["id"] for frame in client.of("mailbox")] == [box["id"] for box in boxes]
    assert counted.statements == 1


@ensure
async def test_the_end_of_a_mailbox_is_told_once_to_who_watches_and_follows_it(farm, ask):
    live = await listen(farm)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    client = await connect(live.listening[0].port)
    client.say(op="watch")
    client.say(op="subscribe", mailbox=box["id"])
    await client.next("subscribed")
    await ask("DELETE", f"/v1/mailboxes/{box['id']}")
    await client.next("mailbox-closed")
    client.say(op="ping")
    await client.until(lambda self: self.of("pong"))
    assert client.of("mailbox-closed") == []
    client.say(op="subscribe", mailbox=box["id"])
    assert (await client.next("problem"))["status"] == 404


@ensure
async def test_unsubscribing_ends_it_and_subscribing_again_replaces(farm, ask):
    live = await listen(farm)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    client = await connect(live.listening[0].port)
    client.say(op="subscribe", mailbox=box["id"])
    client.say(op="subscribe", mailbox=box["id"])
    client.say(op="ping")
    await client.next("pong")
    await farm.file(box)
    client.say(op="ping")
    await client.until(lambda self: self.of("pong") and self.of("filed"))
    assert len(client.of("filed")) == 1
    client.heard.clear()
    client.say(op="unsubscribe", mailbox=box["id"])
    await client.next("unsubscribed")
    await farm.file(box)
    client.say(op="ping")
    await client.next("pong")
    assert client.heard == []
    assert len(farm.feeds) == 0


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (b"{", "invalid-json"),
        (b"[]", "message-invalid"),
        (b'{"op":"dance"}', "message-invalid"),
        (b'{"op":"subscribe"}', "message-invalid"),
        (b'{"op":"subscribe","mailbox":5}', "message-invalid"),
        (b'{"op":"subscribe","mailbox":"x","after":-1}', "message-invalid"),
        (b'{"op":"subscribe","mailbox":"x","after":true}', "message-invalid"),
        (b'{"op":"subscribe","mailbox":"x","afterr":1}', "message-invalid"),
        (b'{"op":"subscribe","mailbox":"x","filter":{"subjekt":"a"}}', "message-invalid"),
        (b'{"op":"subscribe","mailbox":"x","filter":{"subject":1}}', "message-invalid"),
        (b'{"op":"subscribe","mailbox":"x"}', "not-found"),
        (b'{"op":"auth","token":""}', "message-invalid"),
        (b'{"op":"_work"}', "message-invalid"),
    ],
)
@ensure
async def test_what_is_not_of_the_protocol_is_answered_and_the_connection_lives(farm, message, name):
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    client.sendMessage(message)
    assert (await client.next("problem"))["problem"] == f"/v1/problems/{name}"
    client.sendMessage(b"\x00", isBinary=True)
    assert (await client.next("problem"))["problem"] == "/v1/problems/message-invalid"
    client.say(op="ping")
    await client.next("pong")


@ensure
async def test_a_number_never_given_out_is_refused(farm, ask):
    live = await listen(farm)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    client = await connect(live.listening[0].port)
    client.say(op="subscribe", mailbox=box["id"], after=7)
    assert (await client.next("problem"))["problem"] == "/v1/problems/invalid-value"


@ensure
async def test_subscriptions_have_a_cap(farm, ask, monkeypatch):
    monkeypatch.setattr("mailfarm.services.live.connection.SUBSCRIPTIONS", 2)
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    for _ in range(3):
        box = (await ask("POST", "/v1/mailboxes", {})).json
        client.say(op="subscribe", mailbox=box["id"])
    assert (await client.next("problem"))["problem"] == "/v1/problems/too-many-subscriptions"
    assert len(farm.feeds) == 2
    client.transport.abortConnection()
    await pump(lambda: len(farm.feeds) == 0)


@ensure
async def test_a_message_too_large_closes_with_1009(farm):
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    client.sendMessage(b'{"op":"' + b"x" * 70_000 + b'"}')
    await client.until(lambda self: self.ended)
    assert client.ended[0] == 1009


@ensure
async def test_a_flood_of_messages_is_answered_in_order(farm):
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    for number in range(2000):
        if number % 2:
            client.say(op="ping")
        else:
            client.say(op="unsubscribe", mailbox=str(number))
    await client.until(lambda self: len(self.heard) == 2000)
    assert [one["mailbox"] for one in client.heard[::2]] == [str(number) for number in range(0, 2000, 2)]


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:80"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "null"}, 403),
        ({"path": "/v1/events?token=abc"}, 400),
    ],
)
@ensure
async def test_a_foreign_page_gets_no_connection(farm, given, code):
    live = await listen(farm)
    client = await connect(live.listening[0].port, hello=False, **given)
    assert not client.open
    assert not live.connections
    assert str(code) in client.ended[1]


@ensure
async def test_our_own_page_gets_one(farm):
    live = await listen(farm)
    port = live.listening[0].port
    await connect(port, origin=f"http://127.0.0.1:{port}")


@ensure
async def test_it_can_be_mounted_in_the_site_of_the_api(farm):
    live = await listen(farm, endpoints=())
    port = await serve(farm, websocket=live.resource)
    ask = Browser(farm.api())
    box = (await ask("POST", "/v1/mailboxes", {})).json
    client = await connect(port, origin=f"http://127.0.0.1:{port}")
    client.say(op="subscribe", mailbox=box["id"])
    await client.next("subscribed")
    await farm.file(box)
    assert (await client.next("filed"))["seq"] == 1
    for given in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        assert not (await connect(port, hello=False, **given)).open
    plain = await raw(port, b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await pump(lambda: plain.data)
    assert plain.data.startswith(b"HTTP/1.1 426 ")
    assert b"Upgrade: websocket" in plain.data
    posted = await raw(port, b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n")
    await pump(lambda: posted.data)
    assert posted.data.startswith(b"HTTP/1.1 426 ")


@ensure
async def test_handshakes_that_are_none_are_refused(farm):
    port = (await listen(farm)).listening[0].port
    head = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n"
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    for request in (
        head + b"\r\n",
        head + upgrade + b"\r\n",
        head + upgrade + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
        head + upgrade + b"Sec-WebSocket-Version: 7\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n",
        b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        client = await raw(port, request)
        await pump(lambda client=client: client.data)
        assert client.data.startswith(b"HTTP/1.1 4"), request
        assert b"Traceback" not in client.data


@ensure
async def test_connections_have_a_cap(farm):
    live = await listen(farm, max_connections=1)
    port = live.listening[0].port
    await connect(port)
    second = await connect(port, hello=False)
    assert "503" in second.ended[1]


@ensure
async def test_stopping_tells_everyone_to_go(farm):
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    await live.stop()
    await client.until(lambda self: self.ended)
    assert client.ended[0] == 1001


@ensure
async def test_an_event_is_encoded_once_for_everyone(farm, ask, monkeypatch):
    encoded = []
    from mailfarm.services.live import frames

    real = frames.to_json
    monkeypatch.setattr(frames, "to_json", lambda event: encoded.append(event) or real(event))
    live = await listen(farm)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    clients = [await connect(live.listening[0].port) for _ in range(10)]
    for client in clients:
        client.say(op="subscribe", mailbox=box["id"])
        await client.next("subscribed")
    await farm.file(box)
    for client in clients:
        await client.next("filed")
    assert len(encoded) == 1


@ensure
async def test_a_subscription_that_is_refused_leaves_the_one_before(farm, ask):
    live = await listen(farm)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    client = await connect(live.listening[0].port)
    client.say(op="subscribe", mailbox=box["id"])
    await client.next("subscribed")
    client.say(op="subscribe", mailbox=box["id"], after=99)
    await client.next("problem")
    await farm.file(box)
    assert (await client.next("filed"))["seq"] == 1
    await farm.database.unit(lambda tx: tx.execute("update mailbox set oldest = 1"))
    client.say(op="subscribe", mailbox=box["id"], after=0)
    await client.next("resync")
    await farm.file(box)
    assert (await client.next("filed"))["seq"] == 2
    assert len(farm.feeds) == 1


@pytest.mark.parametrize(
    ("message", "op", "mailbox"),
    [
        (b'{"op":"subscribe","mailbox":"x","after":-1}', "subscribe", "x"),
        (b'{"op":"subscribe","mailbox":5}', "subscribe", None),
        (b'{"op":"dance","mailbox":"x"}', "dance", "x"),
        (b'{"op":5,"mailbox":"x"}', None, "x"),
        (b"[1]", None, None),
        (b"{", None, None),
    ],
)
@ensure
async def test_a_problem_says_which_message_it_is_about_as_far_as_that_can_be_read(farm, message, op, mailbox):
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    client.sendMessage(message)
    problem = await client.next("problem")
    assert (problem.get("op"), problem.get("mailbox")) == (op, mailbox)


class LateBus(MemoryBus):
    """A bus that takes its time to confirm a subscription."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Deferred] = []
        self.open = 0

    async def subscribe(self, topic, deliver, missed=None):
        self.asked.append(Deferred())
        await self.asked[-1]
        real = await super().subscribe(topic, deliver)
        self.open += 1
        bus = self

        class Held:
            def stop(self) -> None:
                bus.open -= 1
                real.stop()

        return Held()


@ensure
async def test_a_watch_that_nobody_wants_any_more_is_not_left_open(farm):
    farm.bus = LateBus()
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    client.say(op="watch")
    await client.until(lambda self: farm.bus.asked)
    client.transport.abortConnection()
    await client.until(lambda self: not live.connections)
    farm.bus.asked[0].callback(None)
    assert farm.bus.open == 0


class LosingBus(MemoryBus):
    """A bus that may say that it lost something."""

    missed = None

    def subscribe(self, topic, deliver, missed=None):
        self.missed = missed or self.missed
        return super().subscribe(topic, deliver)


@ensure
async def test_who_watches_is_told_when_hints_may_have_been_lost(farm):
    farm.bus = LosingBus()
    live = await listen(farm)
    clients = [await connect(live.listening[0].port) for _ in range(2)]
    for client in clients:
        client.say(op="watch")
        await client.next("watching")
    farm.bus.missed()
    for client in clients:
        await client.next("watching")


@ensure
async def test_a_second_watcher_waits_for_the_bus_too(farm, ask):
    farm.bus = LateBus()
    live = await listen(farm)
    first, second = [await connect(live.listening[0].port) for _ in range(2)]
    for client in (first, second):
        client.say(op="watch")
        client.say(op="ping")
    await first.until(lambda self: farm.bus.asked)
    assert not first.heard
    assert not second.heard
    farm.bus.asked[0].callback(None)
    for client in (first, second):
        await client.next("watching")
    assert (len(farm.bus.asked), farm.bus.open) == (1, 1)


@ensure
async def test_a_message_that_is_gone_is_marked_so_and_no_filter_lets_it_through(farm, ask):
    live = await listen(farm)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    path = f"/v1/mailboxes/{box['id']}"
    id = await farm.file(box, "Reset")
    await ask("DELETE", f"{path}/messages", {"all": True})
    client = await connect(live.listening[0].port)
    client.say(op="subscribe", mailbox=box["id"], after=0)
    filed = await client.next("filed")
    assert (filed["gone"], filed["message"]["id"], filed["message"]["subject"]) == (True, id, "")
    client.say(op="subscribe", mailbox=box["id"], after=0, filter={"from": "shop"})
    await client.next("subscribed")
    assert (await client.next("deleted"))["seq"] == 2
    assert not client.of("filed")
    page = (await ask("GET", f"{path}/events?after=0")).json["events"]
    assert [(one["type"], one.get("gone")) for one in page] == [("filed", True), ("deleted", None)]
    assert [one["type"] for one in (await ask("GET", f"{path}/events?subject=r")).json["events"]] == ["deleted"]
