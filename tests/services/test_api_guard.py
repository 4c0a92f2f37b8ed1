"""Safe though open: what a web page that the developer visits may not do, and what nobody may."""

import pytest
import pytest_twisted
from farm_api import Browser, pump
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mailfarm.errors import DatabaseUnavailable
from mailfarm.net.http import Status
from mailfarm.services.api.guard import MAX_BODY

ensure = pytest_twisted.ensureDeferred
EVERYWHERE = ["/", "/app.js", "/v1/mailboxes", "/v1/openapi.json", "/v1/events", "/nothing", "/healthz", "/metrics"]


class Raw(Protocol):
    """What a server says, as it comes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


async def raw(port: int, data: bytes = b"") -> Raw:
    protocol = await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(Factory.forProtocol(Raw))
    protocol.transport.write(data)
    return protocol


async def serve(farm, **changes) -> int:
    api = farm.api(endpoints=(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),), **changes)
    await api.start()
    farm.cleanup.append(api.stop)
    return api.listening[0].port


@pytest.fixture
def all_of_it(farm):
    """An API with everything mounted."""
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    return Browser(farm.api(registry=registry, status=Status(registry, {}, reactor)))


@pytest.mark.parametrize("path", [path for path in EVERYWHERE if path != "/healthz"])
@ensure
async def test_a_name_that_was_rebound_to_us_is_refused(all_of_it, path):
    for host in ("evil.example", "evil.example:8025", "127.0.0.1.evil.example", "localhost.evil.example"):
        answer = await all_of_it("GET", path, host=host)
        assert (answer.status, answer.problem) == (421, "wrong-host")


@ensure
async def test_a_proxy_asks_by_address_whether_we_are_well(all_of_it):
    assert (await all_of_it("GET", "/healthz", host="10.1.2.3:8025")).status == 200


@pytest.mark.parametrize("path", EVERYWHERE)
@ensure
async def test_another_origin_is_refused_and_gets_no_cors(all_of_it, path):
    for origin in ("http://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:8025"):
        answer = await all_of_it("GET", path, origin=origin)
        assert (answer.status, answer.problem) == (403, "foreign-origin")
        assert answer.header("access-control-allow-origin") is None
    preflight = await all_of_it("OPTIONS", path, origin="http://evil.example", access_control_request_method="DELETE")
    assert preflight.status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "script"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"},
    ],
)
@ensure
async def test_a_browser_that_says_another_site_asks_is_believed(ask, headers):
    assert (await ask("GET", "/v1/mailboxes", **headers)).problem == "foreign-origin"


@ensure
async def test_a_link_from_another_site_may_be_followed(ask):
    headers = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert (await ask("GET", "/", **headers)).status == 200
    assert (await ask("POST", "/v1/mailboxes", {}, **headers)).problem == "foreign-origin"
    assert (await ask("GET", "/v1/mailboxes", sec_fetch_site="same-origin")).status == 200


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/json; charset=utf-16",
        "application/json5",
    ],
)
@ensure
async def test_a_form_cannot_change_anything(ask, content_type):
    assert (await ask("POST", "/v1/mailboxes", None)).status == 400
    answer = await ask("POST", "/v1/mailboxes", b"{}", content_type=content_type)
    assert (answer.status, answer.problem) == (415, "not-json")
    assert (await ask("GET", "/v1/mailboxes")).json["mailboxes"] == []
    for good in ("application/json", "application/JSON; charset=UTF-8", 'application/json;charset="utf-8"'):
        assert (await ask("POST", "/v1/mailboxes", b"{}", content_type=good)).status == 201


@ensure
async def test_a_verb_in_disguise_is_not_believed(ask):
    box = (await ask("POST", "/v1/mailboxes", {})).json
    path = f"/v1/mailboxes/{box['id']}"
    for name in ("x_http_method_override", "x_http_method", "x_method_override"):
        assert (await ask("GET", path, **{name: "DELETE"})).status == 200
    assert (await ask("GET", f"{path}?_method=DELETE")).problem == "unknown-name"
    assert (await ask("GET", path)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/mailboxes", "GET, HEAD, POST"),
        ("POST", "/v1/version", "GET, HEAD"),
        ("TRACE", "/v1/mailboxes", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/mailboxes", "GET, HEAD, POST"),
        ("BREW", "/v1/mailboxes", "GET, HEAD, POST"),
        ("POST", "/", "GET, HEAD"),
    ],
)
@ensure
async def test_a_wrong_method_is_told_which_are_right(ask, method, path, allow):
    answer = await ask(method, path)
    assert (answer.status, answer.problem) == (405, "method-not-allowed")
    assert answer.header("allow") == allow


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/v1/mailboxes/",
        "/v1//mailboxes",
        "//evil.example/v1",
        "/v1/messages/x/parts/",
        "/v1/messages/00000000000000000000000000/parts/x",
        "/v1/messages/00000000000000000000000000/parts/-1",
        "/V1/mailboxes",
    ],
)
@ensure
async def test_where_there_is_nothing_is_404(ask, path):
    for method in ("GET", "POST"):
        answer = await ask(method, path)
        assert answer.status in (404, 405), path
        assert answer.problem in ("no-such-route", "method-not-allowed")
        assert answer.header("location") is None
    assert (await ask("GET", path)).status == 404


@pytest.mark.parametrize(
    "id", ["x", "..", "%2e%2e", "%2F", "' or 1=1 --", "%00", "0" * 26, "z" * 10_000, "%f0%9f%92%a9"]
)
@ensure
async def test_an_id_that_is_none_is_not_found(ask, id):
    answer = await ask("GET", "/v1/mailboxes/" + id.replace(" ", "%20"))
    assert answer.status == 404


@ensure
async def test_a_path_or_query_that_is_not_utf8_is_refused(ask):
    assert (await ask("GET", "/v1/mailboxes/%ff")).problem == "bad-request"
    assert (await ask("GET", "/v1/mailboxes?after=%ff")).problem == "invalid-value"
    assert (await ask("GET", "/%ff")).problem == "bad-request"
    assert (await ask("get", "/v1/mailboxes")).problem == "bad-request"


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limt=5", "unknown-name"),
        ("limit=5&limit=6", "invalid-value"),
        ("limit=0", "invalid-value"),
        ("limit=1001", "invalid-value"),
        ("limit=", "invalid-value"),
        ("limit=1_0", "invalid-value"),
        ("limit=%D9%A3", "invalid-value"),
        ("limit=1e2", "invalid-value"),
        ("limit=" + "9" * 400, "invalid-value"),
        ("after=" + "x" * 2000, "invalid-value"),
        ("&".join(f"a{n}=1" for n in range(60)), "invalid-value"),
    ],
)
@ensure
async def test_a_query_says_what_it_means_or_is_refused(ask, query, name):
    answer = await ask("GET", f"/v1/mailboxes?{query}")
    assert (answer.status, answer.problem) == (400, name)


@ensure
async def test_head_is_get_without_the_body(ask):
    for path in ("/", "/v1/mailboxes", "/v1/openapi.json", "/v1/nothing"):
        got, head = await ask("GET", path), await ask("HEAD", path)
        assert head.body == b""
        assert (head.status, int(head.header("content-length"))) == (got.status, len(got.body))


@ensure
async def test_an_unexpected_error_says_an_id_and_nothing_else(farm, monkeypatch, logged):
    from mailfarm.services.api import mailboxes

    async def broken(*args: object, **more: object) -> None:
        raise RuntimeError("secret inner workings")

    monkeypatch.setattr(mailboxes.store, "list_", broken)
    answer = await Browser(farm.api())("GET", "/v1/mailboxes")
    assert (answer.status, answer.problem) == (500, "internal-error")
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    (event,) = logged
    assert (event["incident"], "log_failure" in event) == (answer.json["incident"], True)
    logged.clear()


@ensure
async def test_a_database_that_is_away_is_503_and_says_when_to_come_again(farm, monkeypatch):
    def away(work: object) -> None:
        raise DatabaseUnavailable("it is locked")

    ask = Browser(farm.api())
    monkeypatch.setattr(farm.database, "read", away)
    answer = await ask("GET", "/v1/mailboxes")
    assert (answer.status, answer.problem) == (503, "unavailable")
    assert answer.header("retry-after")
    assert b"locked" not in answer.body


@ensure
async def test_a_token_is_asked_for_and_its_scopes_hold(farm):
    api = farm.api(account=None)
    nobody = await Browser(api)("GET", "/v1/mailboxes")
    assert (nobody.status, nobody.problem, nobody.header("www-authenticate")) == (401, "unauthenticated", "Bearer")
    for given in ("nonsense", "Basic abc", "Bearer", "Bearer ", "bearer mf_wrong", "Bearer mf_\xe9"):
        answer = await Browser(api)("GET", "/v1/mailboxes", authorization=given)
        assert (answer.status, answer.problem) == (401, "unauthenticated"), given
    ended = Browser(api, await farm.token(expires_at=1))
    assert (await ended("GET", "/v1/mailboxes")).status == 401
    reader = Browser(api, await farm.token(scopes=("mailboxes:read",)))
    assert (await reader("GET", "/v1/mailboxes")).status == 200
    answer = await reader("POST", "/v1/mailboxes", {})
    assert (answer.status, answer.problem, answer.json["scope"]) == (403, "scope-missing", "mailboxes:write")
    for path in ("/v1/health", "/v1/version", "/v1/openapi.json", "/v1/problems", "/"):
        assert (await Browser(api)("GET", path)).status == 200


@ensure
async def test_every_route_but_those_about_itself_asks_for_a_token(farm):
    api = farm.api(account=None)
    nobody = Browser(api)
    for path, item in api.document["paths"].items():
        for method in item:
            answer = await nobody(method.upper(), path.replace("{id}", "0" * 26).replace("{n}", "1"))
            open_to_all = path.startswith(("/v1/health", "/v1/version", "/v1/openapi", "/v1/problems", "/v1/session"))
            assert (answer.status == 401) is not open_to_all, (method, path)


@ensure
async def test_a_body_that_is_too_large_is_refused_unread(farm):
    port = await serve(farm)
    head = b"POST /v1/mailboxes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for body in (
        b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1),
        b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 17 + b"0\r\n\r\n",
    ):
        client = await raw(port, head + body)
        await pump(lambda client=client: b"body-too-large" in client.data)
        assert client.data.startswith(b"HTTP/1.1 413 ")
    endless = await raw(port, head + b"Content-Length: 99999999999\r\n\r\n")
    block = b"x" * (1 << 20)
    sent = 0

    def more() -> None:
        nonlocal sent
        if sent < 64:
            endless.transport.write(block)
            sent += 1

    await pump(lambda: endless.lost, more)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"POST /v1/mailboxes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"\x16\x03\x01\x00\x00\r\n\r\n",
    ],
)
@ensure
async def test_odd_requests_get_nothing(farm, request_):
    client = await raw(await serve(farm), request_)
    await pump(lambda: client.data or client.lost)
    assert not client.data.startswith(b"HTTP/1.1 2")
    assert not client.data.startswith(b"HTTP/1.0 2")
    assert b"Traceback" not in client.data


@ensure
async def test_an_address_that_is_too_long_is_told_so(farm):
    port = await serve(farm)
    for size, status in ((1000, b"400"), (60_000, b"400"), (70_000, b"414"), (500_000, b"414")):
        client = await raw(port, b"GET /v1/mailboxes?x=%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * size))
        await pump(lambda client=client: client.data)
        assert client.data.startswith(b"HTTP/1.1 " + status)
        assert b"application/problem+json" in client.data
    client = await raw(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: %b\r\n\r\n" % (b"x" * 70_000))
    await pump(lambda: client.lost)
    assert b"/v1/problems/bad-request" in client.data


@ensure
async def test_stopping_ends_waits_and_says_so(farm, ask):
    api = farm.api(endpoints=(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),))
    await api.start()
    port = api.listening[0].port
    box = (await ask("POST", "/v1/mailboxes", {})).json
    wait = await raw(port, b"GET /v1/mailboxes/%b/wait HTTP/1.1\r\nHost: localhost\r\n\r\n" % box["id"].encode())
    stream = await raw(
        port,
        b"GET /v1/mailboxes/%b/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        % box["id"].encode(),
    )
    await pump(lambda: len(farm.feeds) == 2 and stream.data)
    await api.stop()
    await pump(lambda: wait.lost and stream.lost)
    assert wait.data.startswith(b"HTTP/1.1 503 ")
    assert b"/v1/problems/stopping" in wait.data
    assert stream.data.endswith(b"0\r\n\r\n")
    assert len(farm.feeds) == 0


@ensure
async def test_metrics_tell_the_routes_apart_and_health_is_there(all_of_it):
    await all_of_it("GET", "/v1/mailboxes/" + "0" * 26)
    text = (await all_of_it("GET", "/metrics")).body.decode()
    assert 'mailfarm_api_requests_total{method="GET",route="/v1/mailboxes/<id>",status="404"} 1.0' in text
    assert (await all_of_it("GET", "/healthz")).body == b"ok\n"
    assert (await all_of_it("GET", "/readyz")).json["ready"] is True


@ensure
async def test_stopping_closes_idle_connections_at_once_and_waits_for_what_is_in_progress(farm, ask):
    box = (await ask("POST", "/v1/mailboxes", {})).json
    id = await farm.file(box, content=b"Subject: x\r\n\r\n" + b"x" * 76 * 100_000)
    api = farm.api(endpoints=(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),), grace=30.0)
    await api.start()
    port = api.listening[0].port
    unused = await raw(port)
    kept = await raw(port, b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    busy = await raw(port, f"GET /v1/messages/{id}/raw HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await pump(lambda: kept.data and busy.data)
    busy.transport.pauseProducing()
    stopped = []
    ensureDeferred(api.stop()).addBoth(stopped.append)
    await pump(lambda: unused.lost and kept.lost)
    assert not stopped
    busy.transport.resumeProducing()
    await pump(lambda: stopped and busy.lost)
    assert stopped == [None]
    assert len(busy.data) > 76 * 100_000


@ensure
async def test_a_status_that_few_know_has_its_reason_phrase(farm):
    port = await serve(farm)
    client = await raw(port, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    await pump(lambda: client.data)
    assert client.data.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")


@ensure
async def test_a_compressed_body_is_refused(ask):
    answer = await ask("POST", "/v1/mailboxes", b"{}", content_encoding="gzip")
    assert (answer.status, answer.problem, answer.header("accept-encoding")) == (415, "not-json", "identity")
    assert (await ask("POST", "/v1/mailboxes", b"{}", content_encoding="identity")).status == 201


@ensure
async def test_an_answer_leaves_in_one_piece_head_and_body(farm):
    """A transport that sends at once would make two packets of them."""
    written = []

    class Transport(StringTransport):
        def write(self, data):
            written.append(data)
            super().write(data)

        def writeSequence(self, data):
            self.write(b"".join(data))

    channel = farm.api().site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    channel.makeConnection(Transport())
    for method, path, status in (
        (b"GET", b"/v1/health", b"200"),
        (b"HEAD", b"/v1/health", b"200"),
        (b"GET", b"/v1/nothing", b"404"),
    ):
        channel.dataReceived(b"%b %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (method, path))
        await pump(lambda: written)
        (answer,) = written
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        length = int(
            next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split()[1]
        )
        assert len(body) == (0 if method == b"HEAD" else length)
        written.clear()
    channel.connectionLost(Failure(ConnectionDone()))  # else its time-out would still come
