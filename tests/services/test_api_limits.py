"""How often the API may be asked, by whom, and what it knows while the database is away."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
import pytest_twisted
from farm_api import Browser, Farm, pump
from farm_live import connect, listen
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import TCP4ServerEndpoint

from mailfarm.accounts.limit_sets import read
from mailfarm.backends.memory import MemoryBus, MemoryLimiter
from mailfarm.errors import DatabaseUnavailable
from mailfarm.net.lookups import FRESH
from mailfarm.services.live.places import MOST_TOKENS

PROXIES = [ip_network("10.87.0.0/23")]


class Counting(MemoryLimiter):
    """By a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(lambda: self.now, wall=lambda: self.now)


class Watched:
    """The database, how often it was asked, and whether it answers."""

    def __init__(self, farm: Farm) -> None:
        self._database = farm.database
        self.reads = 0
        self.away = False

    async def unit(self, work: Any) -> Any:
        if self.away:
            raise DatabaseUnavailable("no route to host")
        return await self._database.unit(work)

    async def read(self, work: Any, *, once: bool = False) -> Any:
        self.reads += 1
        if self.away:
            raise DatabaseUnavailable("no route to host")
        return await self._database.read(work, once=once)


def limited(farm: Farm, limits: str, **more: Any) -> tuple[Any, Counting]:
    limiter = Counting()
    return farm.api(limiter=limiter, limits=read(limits), forwarded_from=PROXIES, **more), limiter


def seen_as(browser: Browser, address: str) -> Browser:
    """Its connections come from this address."""
    site = browser.agent._serverFactory
    peer = (IPv6Address if ":" in address else IPv4Address)("TCP", address, 4711)
    real = site.buildProtocol

    def build(addr: Any) -> Any:
        channel = real(addr)
        connected = channel.makeConnection

        def make(transport: Any) -> None:
            transport.peerAddress = peer
            connected(transport)

        channel.makeConnection = make
        return channel

    site.buildProtocol = build
    return browser


@pytest_twisted.ensureDeferred
async def test_a_token_has_so_many_requests_and_is_told_when_there_are_more(farm: Farm) -> None:
    api, limiter = limited(farm, "[set.default.token]\nrequests_per_minute = 3", account=None)
    one, two = Browser(api, await farm.token()), Browser(api, await farm.token())
    for _ in range(3):
        reply = await one("GET", "/v1/mailboxes")
        assert (reply.status, reply.header("ratelimit-policy")) == (200, '"token";q=3;w=60')
    reply = await one("GET", "/v1/mailboxes")
    assert (reply.status, reply.problem) == (429, "too-many-requests")
    assert reply.header("retry-after") == "20"
    assert reply.header("ratelimit") == '"token";r=0;t=20'
    assert reply.header("ratelimit-policy") == '"token";q=3;w=60'
    assert reply.json["detail"] == "too many requests with this token; try again in 20 s"
    assert (await two("GET", "/v1/mailboxes")).status == 200
    limiter.now += 20
    assert (await one("POST", "/v1/mailboxes", {})).status == 201
    assert (await one("POST", "/v1/mailboxes", {})).status == 429


@pytest_twisted.ensureDeferred
async def test_an_account_has_its_share_over_all_its_tokens_and_a_set_of_its_own(farm: Farm) -> None:
    limits = (
        "[set.default.account]\nrequests_per_minute = 2\n"
        "[set.more]\naccounts = ['dev']\naccount.requests_per_minute = 4"
    )
    api, _ = limited(farm, limits, account=None)
    mine, also_mine = Browser(api, await farm.token()), Browser(api, await farm.token())
    theirs = Browser(api, await farm.token("other"))
    for browser in (mine, also_mine, mine, also_mine):
        assert (await browser("GET", "/v1/mailboxes")).header("ratelimit-policy") == '"account";q=4;w=60'
    reply = await mine("GET", "/v1/mailboxes")
    assert (reply.status, reply.header("ratelimit")) == (429, '"account";r=0;t=15')
    for expected in (200, 200, 429):
        assert (await theirs("GET", "/v1/mailboxes")).status == expected


@pytest_twisted.ensureDeferred
async def test_a_client_is_counted_by_its_real_address(farm: Farm) -> None:
    api, _ = limited(farm, "[client]\nrequests_per_minute = 2\n[set.default.account]\nrequests_per_minute = 100")
    proxied = seen_as(Browser(api), "10.87.0.5")

    async def ask(told: str | None, path: str = "/v1/mailboxes") -> int:
        reply = await proxied("GET", path, x_forwarded_for=told)
        if reply.status == 200:
            of_account = "" if path == "/v1/version" else ', "account";q=100;w=60'
            policy = '"client";q=2;w=60' + of_account
            assert reply.header("ratelimit-policy") == policy
        return reply.status

    assert [await ask("2001:db8:5::1"), await ask("2001:db8:5::2", "/v1/version")] == [200, 200]
    assert await ask("2001:db8:5::3") == 429, "a /64 is one client"
    assert await ask("2001:db8:6::3") == 200
    # it cannot say that it is somebody else, nor that it is this machine
    assert [await ask("127.0.0.1, 203.0.113.9") for _ in range(3)] == [200, 200, 429]

    stranger, _ = limited(farm, "[client]\nrequests_per_minute = 2")
    direct = seen_as(Browser(stranger), "203.0.113.1")
    for expected in (200, 200, 429):
        reply = await direct("GET", "/v1/mailboxes", x_forwarded_for=f"198.51.100.{expected % 99}")
        assert reply.status == expected, "who is not listed is the client itself"


@pytest_twisted.ensureDeferred
async def test_clients_on_loopback_and_pages_that_are_no_routes_are_not_counted(farm: Farm) -> None:
    api, _ = limited(farm, "[client]\nrequests_per_minute = 1")
    here, there = Browser(api), seen_as(Browser(limited(farm, "[client]\nrequests_per_minute = 1")[0]), "203.0.113.1")
    for _ in range(3):
        reply = await here("GET", "/v1/mailboxes")
        assert (reply.status, reply.header("ratelimit-policy")) == (200, None)
        assert (await there("GET", "/")).status == 200


@pytest_twisted.ensureDeferred
async def test_a_token_is_looked_up_once_and_ends_at_once_when_it_is_revoked(farm: Farm) -> None:
    database = Watched(farm)
    told, untold = farm.api(account=None, database=database), farm.api(account=None, bus=MemoryBus())
    master = Browser(told, await farm.token())
    made = (await master("POST", "/v1/tokens", {"name": "one"})).json
    ask, other = Browser(told, made["token"]), Browser(untold, made["token"])
    now = 1000.0
    for api in (told, untold):
        api.access.tokens._seconds = lambda: now
    assert (await ask("GET", "/v1/mailboxes")).status == 200
    database.reads = 0
    assert (await ask("GET", "/v1/mailboxes")).status == 200
    assert database.reads == 1, "the list alone; the token is known"
    assert (await other("GET", "/v1/mailboxes")).status == 200
    assert (await master("DELETE", f"/v1/tokens/{made['id']}")).status == 204
    assert (await ask("GET", "/v1/mailboxes")).status == 401
    # where the bus has lost it: five seconds
    now += FRESH + 0.1
    assert (await other("GET", "/v1/mailboxes")).status == 401


@pytest.mark.parametrize("how", ["sign out", "revoke the token"])
@pytest_twisted.ensureDeferred
async def test_a_session_that_is_remembered_ends_with_its_sign_out_or_its_token(farm: Farm, how: str) -> None:
    api = farm.api(account=None)
    token = await farm.token()
    anonymous = Browser(api)
    origin = {"origin": "http://localhost:8025"}
    signed = await anonymous("POST", "/v1/session", {"token": token}, **origin)
    assert signed.status == 201
    cookie = {"cookie": (signed.header("set-cookie") or "").partition(";")[0]}
    for _ in range(2):
        assert (await anonymous("GET", "/v1/mailboxes", **cookie)).status == 200
    if how == "sign out":
        assert (await anonymous("DELETE", "/v1/session", **cookie, **origin)).status == 204
    else:
        (mine,) = (await Browser(api, token)("GET", "/v1/tokens")).json["tokens"]
        assert (await Browser(api, token)("DELETE", f"/v1/tokens/{mine['id']}")).status == 204
    assert (await anonymous("GET", "/v1/mailboxes", **cookie)).status == 401


@pytest_twisted.ensureDeferred
async def test_while_the_database_is_away_lists_and_waits_are_503_and_known_tokens_are_known(farm: Farm) -> None:
    database = Watched(farm)
    api = farm.api(account=None, database=database)
    known, unknown = Browser(api, await farm.token()), Browser(api, await farm.token())
    wrong = Browser(api, "mf_wrong")
    box = (await known("POST", "/v1/mailboxes", {})).json["id"]
    database.away = True
    paths = ("/v1/mailboxes", f"/v1/mailboxes/{box}", f"/v1/mailboxes/{box}/messages", f"/v1/mailboxes/{box}/events")
    for browser in (known, unknown, wrong):
        for path in (*paths, f"/v1/mailboxes/{box}/wait?timeout=0", f"/v1/mailboxes/{box}/wait?timeout=5"):
            reply = await browser("GET", path)
            assert (reply.status, reply.problem, reply.header("retry-after")) == (503, "unavailable", "2"), path
        reply = await browser("POST", "/v1/mailboxes", {})
        assert (reply.status, reply.problem) == (503, "unavailable")
    assert (await known("GET", "/v1/version")).status == 200
    database.away = False
    assert (await known("GET", "/v1/mailboxes")).status == 200
    assert (await unknown("GET", "/v1/mailboxes")).status == 200
    assert (await wrong("GET", "/v1/mailboxes")).status == 401


@pytest_twisted.ensureDeferred
async def test_a_wait_during_which_the_database_goes_away_is_503_or_ends_well(farm: Farm) -> None:
    database = Watched(farm)
    known = Browser(farm.api(database=database))
    box = (await known("POST", "/v1/mailboxes", {})).json["id"]
    path = f"/v1/mailboxes/{box}/wait?timeout=0.3"
    waiting = known.start("GET", path)
    known.agent.flush()
    await pump(lambda: len(farm.feeds), known.agent.flush)
    database.away = True
    reply = await known.finish("GET", path, waiting)
    assert (reply.status, reply.problem, reply.header("retry-after")) == (503, "unavailable", "2")


@pytest_twisted.ensureDeferred
async def test_who_shows_tokens_that_are_none_is_not_looked_up_for_ever(farm: Farm) -> None:
    """Without a file: a hundred in five minutes. What is known is not asked for, whoever else is in its network."""
    database = Watched(farm)
    api, limiter = limited(farm, "", account=None, database=database)
    browser = seen_as(Browser(api), "203.0.113.7")
    token, later = await farm.token(), await farm.token()
    good, wrong = {"authorization": f"Bearer {token}"}, {"authorization": "Bearer mf_wrong"}
    assert (await browser("GET", "/v1/mailboxes", **good)).status == 200
    ways = (
        ("GET", "/v1/mailboxes", None, wrong, 401),
        ("POST", "/v1/session", {"token": "mf_wrong"}, {"origin": "http://localhost:8025"}, 401),
        ("GET", "/v1/session", None, {"cookie": "mailfarm-session=ms_wrong"}, 200),
        ("DELETE", "/v1/session", None, {"cookie": "mailfarm-session=ms_wrong"}, 204),
    )
    for tried in range(100):
        method, path, body, headers, status = ways[tried % 4]
        assert (await browser(method, path, body, **headers)).status == status
    for method, path, body, headers, _ in ways:
        refused = await browser(method, path, body, **headers)
        assert (refused.status, refused.problem) == (429, "too-many-requests"), (method, path)
        assert refused.header("retry-after") == "3"
    units = database.reads
    assert (await browser("GET", "/v1/mailboxes", **wrong)).status == 429
    assert database.reads == units
    assert (await browser("GET", "/v1/mailboxes", **good)).status == 200
    assert (await browser("GET", "/v1/mailboxes", authorization=f"Bearer {later}")).status == 429
    here = Browser(farm.api(account=None, limiter=limiter, limits=read("")), "mf_wrong")
    assert {(await here("GET", "/v1/mailboxes")).status for _ in range(101)} == {401}, "loopback is not counted"
    limiter.now += 3
    assert (await browser("GET", "/v1/mailboxes", authorization=f"Bearer {later}")).status == 200


# ---- live


@pytest_twisted.ensureDeferred
async def test_a_websocket_with_tokens_that_are_none_is_429_in_the_end(farm: Farm) -> None:
    limits = read("[client]\nfailed_tokens = 2")
    live = await listen(
        farm, account=None, limiter=Counting(), limits=limits, forwarded_from=[ip_network("127.0.0.0/8")]
    )
    port, token = live.listening[0].port, await farm.token()
    known = await connect(port, x_forwarded_for="203.0.113.9", authorization=f"Bearer {token}")
    said = []
    for _ in range(3):
        client = await connect(port, hello=False, x_forwarded_for="203.0.113.9", authorization="Bearer mf_wrong")
        await client.until(lambda self: self.ended)
        said.append(client.ended)
    assert "401" in str(said[1])
    assert "429" in str(said[2])
    client = await connect(port, x_forwarded_for="203.0.113.9")
    client.say(op="auth", token="mf_wrong")
    assert (await client.next("problem"))["problem"] == "/v1/problems/too-many-requests"
    client.say(op="auth", token=token)
    assert await client.next("authenticated"), "it is known"
    assert known.open


@pytest_twisted.ensureDeferred
async def test_a_client_has_so_many_websockets_by_its_real_address(farm: Farm) -> None:
    limits = read("[client]\nwebsockets = 2")
    limiter = Counting()
    live = await listen(farm, limiter=limiter, limits=limits, forwarded_from=[ip_network("127.0.0.0/8")])
    port = live.listening[0].port
    first = [await connect(port, x_forwarded_for=f"2001:db8::{n}") for n in range(2)]
    refused = await connect(port, hello=False, x_forwarded_for="127.0.0.1, 2001:db8::3")
    assert not refused.open
    assert (await connect(port, x_forwarded_for="203.0.113.9")).open
    first[0].sendClose()
    await pump(lambda: sorted(limiter._places.values()) == [1, 1])
    assert (await connect(port, x_forwarded_for="2001:db8::3")).open
    for _ in range(4):
        assert (await connect(port)).open, "loopback is not limited"


@pytest_twisted.ensureDeferred
async def test_a_token_has_so_many_websockets_however_it_is_shown(farm: Farm) -> None:
    limiter = Counting()
    live = await listen(farm, account=None, limiter=limiter, limits=read("[set.default.token]\nwebsockets = 2"))
    port = live.listening[0].port
    token, other = await farm.token(), await farm.token()
    first = await connect(port, authorization=f"Bearer {token}")
    second = await connect(port)
    for _ in range(2):  # the same token again is the same place
        second.say(op="auth", token=token)
        await second.next("authenticated")
    for n in range(6):  # also in turn with another
        second.say(op="auth", token=(other, token)[n % 2])
        await second.next("authenticated")
    assert sorted(limiter._places.values()) == [1, 2]
    refused = await connect(port, hello=False, authorization=f"Bearer {token}")
    assert not refused.open
    late = await connect(port)
    late.say(op="auth", token=token)
    await late.until(lambda self: self.ended)
    assert late.ended[0] == 4429
    assert (await connect(port, authorization=f"Bearer {other}")).open
    first.sendClose()
    await pump(lambda: sorted(limiter._places.values()) == [1, 2])
    assert (await connect(port, authorization=f"Bearer {token}")).open


@pytest_twisted.ensureDeferred
async def test_a_connection_shows_so_many_tokens_and_no_more(farm: Farm) -> None:
    live = await listen(farm, account=None, limiter=Counting(), limits=read("[set.default.token]\nwebsockets = 2"))
    client = await connect(live.listening[0].port)
    for _ in range(MOST_TOKENS):
        client.say(op="auth", token=await farm.token())
        await client.next("authenticated")
    client.say(op="auth", token=await farm.token())
    await client.until(lambda self: self.ended)
    assert client.ended[0] == 4429


@pytest_twisted.ensureDeferred
async def test_a_revoked_token_ends_its_websockets_at_once_its_sessions_too(farm: Farm) -> None:
    live = await listen(farm, account=None)
    port = live.listening[0].port
    api = farm.api(account=None)
    other = await farm.token()
    made = (await Browser(api, other)("POST", "/v1/tokens", {"name": "one"})).json
    token = made["token"]
    signed = await Browser(api)("POST", "/v1/session", {"token": token}, origin="http://localhost:8025")
    cookie = (signed.header("set-cookie") or "").partition(";")[0]
    by_token = await connect(port, authorization=f"Bearer {token}")
    by_cookie = await connect(port, cookie=cookie, origin=f"http://127.0.0.1:{port}")
    stays = await connect(port, authorization=f"Bearer {other}")
    assert (await Browser(api, token)("DELETE", f"/v1/tokens/{made['id']}")).status == 204
    for client in (by_token, by_cookie):
        await client.until(lambda self: self.ended)
        assert client.ended[0] == 4401
    assert stays.ended is None


@pytest_twisted.ensureDeferred
async def test_a_websocket_while_the_database_is_away(farm: Farm) -> None:
    database = Watched(farm)
    live = await listen(farm, account=None, database=database)
    port = live.listening[0].port
    token, other = await farm.token(), await farm.token()
    await connect(port, authorization=f"Bearer {token}")
    database.away = True
    assert (await connect(port, authorization=f"Bearer {token}")).open, "it is known"
    assert not (await connect(port, hello=False, authorization=f"Bearer {other}")).open
    late = await connect(port)
    late.say(op="auth", token=other)
    assert (await late.next("problem"))["problem"] == "/v1/problems/unavailable"
    database.away = False
    late.say(op="auth", token=other)
    assert await late.next("authenticated")


@pytest_twisted.ensureDeferred
async def test_what_is_said_in_a_handshake_that_is_refused(farm: Farm) -> None:
    """As octets: 429 with Retry-After and a problem."""
    from loopback import connect as connect_socket

    live = await listen(
        farm,
        endpoints=(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),),
        limiter=Counting(),
        limits=read("[client]\nwebsockets = 1"),
        forwarded_from=[ip_network("127.0.0.0/8")],
    )
    port = live.listening[0].port
    await connect(port, x_forwarded_for="203.0.113.9")
    client = await connect_socket(port)
    client.send(
        f"GET /v1/events HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "X-Forwarded-For: 203.0.113.9\r\n\r\n"
    )
    await client.ended()
    assert client.received.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nRetry-After: 2\r\n" in client.received
    assert b'"type":"/v1/problems/too-many-requests"' in client.received
