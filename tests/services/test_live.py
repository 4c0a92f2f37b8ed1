"""Events over WebSocket, on real sockets."""

from functools import partial
from types import SimpleNamespace

import pytest
import pytest_twisted
from counted import Counted
from farm_api import Browser, pump
from farm_live import connect, listen
from test_api_guard import raw, serve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailfarm.accounts.store import ensure_account
from mailfarm.backends.memory import MemoryBus
from mailfarm.events import LOOKUP, Revoked
from mailfarm.mailboxes import store
from mailfarm.mailboxes.feed import Feeds
from mailfarm.mailboxes.mailbox import NewMailbox
from mailfarm.net.turns import Turns
from mailfarm.services.live.connection import Connection
from mailfarm.services.live.frames import EventFrames

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
async def test_a_slow_consumer_is_noticed_also_behind_the_api(farm):
    live = await listen(farm, endpoints=(), slow_after=0.3)
    port = await serve(farm, websocket=live.resource)
    box = (await Browser(farm.api())("POST", "/v1/mailboxes", {})).json
    client = await connect(port)
    client.say(op="subscribe", mailbox=box["id"])
    await client.next("subscribed")
    client.transport.pauseProducing()
    for _ in range(500):
        await farm.file(box, "x" * 20_000)
        if not live.connections:
            break
    await pump(lambda: not len(farm.feeds))
    client.transport.resumeProducing()
    await client.until(lambda self: self.ended)
    assert client.ended[0] == 4008


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
async def test_a_token_in_the_handshake_or_in_the_first_message(farm):
    live = await listen(farm, account=None)
    port = live.listening[0].port
    token = await farm.token()
    api = Browser(farm.api(account=None), token)
    box = (await api("POST", "/v1/mailboxes", {})).json
    for client in (await connect(port, Authorization=f"Bearer {token}"), await connect(port)):
        client.say(op="auth", token=token)
        await client.next("authenticated")
        client.say(op="subscribe", mailbox=box["id"])
        await client.next("subscribed")
    theirs = await connect(port, Authorization=f"Bearer {await farm.token('other')}")
    theirs.say(op="subscribe", mailbox=box["id"])
    assert (await theirs.next("problem"))["status"] == 404


@ensure
async def test_without_a_good_token_nothing_is_told(farm, monkeypatch):
    monkeypatch.setattr("mailfarm.services.live.connection.AUTH_SECONDS", 0.3)
    live = await listen(farm, account=None)
    port = live.listening[0].port
    refused = await connect(port, hello=False, Authorization="Bearer nonsense")
    assert "401" in refused.ended[1]
    client = await connect(port)
    client.say(op="watch")
    assert (await client.next("problem"))["problem"] == "/v1/problems/unauthenticated"
    await client.until(lambda self: self.ended)
    assert client.ended[0] == 4401
    wrong = await connect(port)
    wrong.say(op="auth", token="mf_wrong")
    await wrong.until(lambda self: self.ended)
    assert wrong.ended[0] == 4401


@ensure
async def test_scopes_hold_here_too(farm):
    live = await listen(farm, account=None)
    port = live.listening[0].port
    client = await connect(port, Authorization=f"Bearer {await farm.token(scopes=('refusals:read',))}")
    for op in ({"op": "watch"}, {"op": "subscribe", "mailbox": "x"}):
        client.say(**op)
        assert (await client.next("problem"))["problem"] == "/v1/problems/scope-missing"


@ensure
async def test_a_revoked_token_ends_its_connections(farm):
    live = await listen(farm, account=None)
    client = await connect(live.listening[0].port, Authorization=f"Bearer {await farm.token()}")
    await farm.database.unit(lambda tx: tx.execute("update token set revoked_at = 1"))
    await live._look_at_tokens()
    await client.until(lambda self: self.ended)
    assert client.ended[0] == 4401


@ensure
async def test_many_tokens_are_looked_at_a_few_at_a_time(farm, monkeypatch):
    monkeypatch.setattr("mailfarm.services.live.service.AT_ONCE", 2)
    live = await listen(farm, account=None)
    tokens = [await farm.token() for _ in range(5)]
    clients = [await connect(live.listening[0].port, Authorization=f"Bearer {token}") for token in tokens]
    await farm.database.unit(lambda tx: tx.execute("update token set revoked_at = 1"))
    asked, ask = [], live.tokens.ask
    monkeypatch.setattr(live.tokens, "ask", lambda digest: asked.append(len(turns)) or ask(digest))
    turns, turn = [], farm.feeds.turn
    monkeypatch.setattr(farm.feeds, "turn", lambda: turns.append(1) or turn())
    await live._look_at_tokens()
    assert asked == [0, 0, 1, 1, 2]
    for client in clients:
        await client.until(lambda self: self.ended)


@ensure
async def test_a_consumer_that_takes_nothing_is_dropped_and_goes_on_by_cursor(farm, ask):
    live = await listen(farm, slow_after=0.5)
    port = live.listening[0].port
    box = (await ask("POST", "/v1/mailboxes", {})).json
    slow = await connect(port)
    slow.say(op="subscribe", mailbox=box["id"])
    await slow.next("subscribed")
    slow.transport.pauseProducing()
    (served,) = live.connections
    count = 0
    while not served._full:
        for _ in range(50):
            await farm.file(box, "x" * 20_000, text="y")
            count += 1
        assert count < 3000
    held = 0
    for _ in range(60):
        await farm.file(box, "x" * 20_000, text="y")
        count += 1
        held = max(held, served._octets)
    assert held < 400 * 1024  # feeds paused: what comes is not gathered without end
    await pump(lambda: not live.connections or served.state != served.STATE_OPEN)
    slow.transport.resumeProducing()
    await slow.until(lambda self: self.ended)
    assert slow.ended[0] == 4008
    had = [one["seq"] for one in slow.of("filed")]
    assert had == list(range(1, len(had) + 1))
    assert len(had) < count
    again = await connect(port)
    again.say(op="subscribe", mailbox=box["id"], after=had[-1])
    await again.until(lambda self: len(self.of("filed")) == count - len(had))
    assert [one["seq"] for one in again.of("filed")] == list(range(had[-1] + 1, count + 1))


@ensure
async def test_a_consumer_that_pauses_and_goes_on_misses_nothing(farm, ask):
    live = await listen(farm, slow_after=30)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    client = await connect(live.listening[0].port)
    client.say(op="subscribe", mailbox=box["id"])
    await client.next("subscribed")
    client.transport.pauseProducing()
    (served,) = live.connections
    count = 0
    while served._octets < 256 * 1024:
        await farm.file(box, "x" * 20_000)
        count += 1
        assert count < 3000
    for _ in range(20):
        await farm.file(box, "z")
        count += 1
    client.transport.resumeProducing()
    await client.until(lambda self: len(self.of("filed")) == count)
    assert [one["seq"] for one in client.of("filed")] == list(range(1, count + 1))


@ensure
async def test_a_client_that_answers_no_ping_is_dropped(farm):
    live = await listen(farm, heartbeat=0.2)
    client = await connect(live.listening[0].port)
    client.transport.pauseProducing()
    await pump(lambda: not live.connections)
    client.transport.resumeProducing()
    await client.until(lambda self: self.ended)


class CountedTurns(Turns):
    """Turns, and how many were taken."""

    taken = 0

    def next(self):
        self.taken += 1
        return super().next()


@pytest.fixture
def turns(farm, monkeypatch):
    """Two have their turn, then others."""
    monkeypatch.setattr("mailfarm.services.live.service.AT_ONCE", 2)
    monkeypatch.setattr("mailfarm.services.live.watch.TOLD_AT_ONCE", 2)
    turns = CountedTurns(reactor)
    farm.feeds = Feeds(farm.database, farm.bus, farm.spawn, turns.next)
    return turns


@ensure
async def test_all_are_pinged_in_turns_and_who_answers_stays(farm, turns):
    live = await listen(farm, heartbeat=0.2)
    clients = [await connect(live.listening[0].port) for _ in range(5)]
    pinged = [0] * len(clients)

    def watched(number):
        def ping(payload):
            pinged[number] += 1
            clients[number].sendPong(payload)

        return ping

    for number, client in enumerate(clients):
        client.onPing = watched(number)
    await pump(lambda: min(pinged) >= 3)  # the third comes to those only who answered the second
    assert len(live.connections) == 5
    assert turns.taken
    assert list(live.connections.values()) == sorted(live.connections.values())


@ensure
async def test_a_ping_is_due_once_in_a_heartbeat(farm, turns):
    clock = Clock()
    live = await listen(farm, reactor=clock, heartbeat=30.0)
    clients = [await connect(live.listening[0].port) for _ in range(5)]
    pinged = []
    for served in live.connections:
        served.ping = partial(pinged.append, served)
    clock.advance(29.0)
    assert not pinged
    clock.advance(3.0)
    await pump(lambda: len(pinged) == 5)
    assert pinged == list(live.connections)
    assert turns.taken == 2
    clock.advance(3.0)
    assert len(pinged) == len(clients)


@ensure
async def test_a_ping_that_fails_is_logged_and_the_others_are_pinged(farm, logged):
    clock = Clock()
    live = await listen(farm, reactor=clock, heartbeat=30.0)
    clients = [await connect(live.listening[0].port) for _ in range(3)]
    pinged = []
    first, *others = live.connections
    first.ping = lambda: [][0]
    for served in others:
        served.ping = partial(pinged.append, served)
    for _ in range(24):
        clock.advance(3.0)
    assert pinged == others * 2
    assert [entry["log_failure"].type for entry in logged] == [IndexError] * 2
    logged.clear()
    assert len(live.connections) == len(clients)


@ensure
async def test_thousands_with_one_token_are_ended_in_turns(farm, turns):
    live = await listen(farm, account=None)
    token = await farm.token()
    clients = [await connect(live.listening[0].port, authorization=f"Bearer {token}") for _ in range(5)]
    caller = next(iter(live.connections)).caller
    farm.bus.publish(LOOKUP, Revoked("e1", farm.account, 0, "token", caller.token))
    for client in clients:
        await client.until(lambda self: self.ended)
        assert client.ended[0] == 4401
    assert turns.taken == 2


@ensure
async def test_many_hints_for_many_are_told_in_turns(farm, turns):
    live = await listen(farm)
    heard = [[] for _ in range(3)]

    def tell(number, octets, closed, frames=1):
        heard[number].append(octets)

    for number in range(3):
        await live.watch(farm.account, partial(tell, number))
    (watch,) = live._watches.values()
    watch._telling = True  # as while others are told
    for number in range(4):
        watch._tell(b"%d" % number, "")
    await watch._tell_line()
    assert heard == [[b"0", b"1", b"2", b"3"]] * 3
    assert turns.taken == 2  # four hints each, so one watcher a turn


@ensure
async def test_stopping_tells_everyone_to_go(farm):
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    await live.stop()
    await client.until(lambda self: self.ended)
    assert client.ended[0] == 1001


@ensure
async def test_stopping_cuts_off_who_does_not_answer(farm, monkeypatch):
    monkeypatch.setattr("mailfarm.services.live.service.CLOSING", 0.1)
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    client.transport.pauseProducing()
    await live.stop()
    assert not live.connections
    client.transport.resumeProducing()
    await client.until(lambda self: self.ended)


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


@ensure
async def test_a_bad_token_is_refused_also_where_a_good_one_was_given(farm):
    live = await listen(farm, account=None)
    good, second = await farm.token(), await farm.token()
    client = await connect(live.listening[0].port, authorization=f"Bearer {good}")
    client.say(op="auth", token=second)
    await client.next("authenticated")
    client.say(op="auth", token=await farm.token(account="other"))
    assert (await client.next("problem"))["problem"] == "/v1/problems/invalid-value"
    client.say(op="auth", token="nonsense")
    await client.until(lambda self: self.ended)
    assert client.ended[0] == 4401
    assert not client.of("authenticated")


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


def test_a_slow_reader_has_its_time_anew_with_each_piece_it_takes():
    clock = Clock()
    dropped = []
    connection = Connection()
    connection.factory = SimpleNamespace(live=SimpleNamespace(reactor=clock, slow_after=15.0, frames=EventFrames()))
    connection.state = connection.STATE_OPEN
    connection.drop = lambda *told: dropped.append(told)
    written = []

    class Transport:
        def write(self, data):
            written.append(data)
            connection.pauseProducing()  # full at once

    connection.transport = Transport()
    connection.send(b"x")
    for _ in range(3 * 64):
        connection.send(b"x" * 1024)
    for _ in range(3):
        clock.advance(14)
        connection.resumeProducing()
    assert [len(data) for data in written] == [1, *[64 * 1024] * 3]
    assert dropped == []
    clock.advance(16)
    assert dropped[0][0] == 4008


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
