"""Signing in with a browser, and tokens beyond the first."""

import os
import re
from ipaddress import ip_network

import pytest
import pytest_twisted
from farm_api import Browser
from farm_live import connect, listen

from mailfarm.accounts import session, store
from mailfarm.accounts.first_token import ensure_first_token
from mailfarm.net import cookies

ensure = pytest_twisted.ensureDeferred
HTTPS = {"host": "mail.example.org", "origin": "https://mail.example.org"}
HOSTS = ("mail.example.org",)


async def signed_in(farm, browser, token=None, **headers):
    """The cookie pair a browser sends from now on."""
    given = {"origin": "http://localhost:8025"} | headers
    answer = await browser("POST", "/v1/session", {"token": token or await farm.token()}, **given)
    assert answer.status == 201
    return answer.header("set-cookie").partition(";")[0]


@ensure
async def test_a_token_is_exchanged_for_a_cookie_that_no_script_reads_and_no_other_site_uses(farm):
    browser = Browser(farm.api(account=None, hosts=HOSTS))
    token = await farm.token()
    answer = await browser("POST", "/v1/session", {"token": token}, origin="http://localhost:8025")
    assert answer.status == 201
    assert answer.json["signed_in"]
    cookie = answer.header("set-cookie")
    assert re.fullmatch(r"mailfarm-session=ms_[0-9a-f]{40}; Path=/; HttpOnly; SameSite=Strict; Max-Age=604800", cookie)
    assert token not in answer.body.decode() + cookie
    pair = cookie.partition(";")[0]
    assert (await browser("GET", "/v1/mailboxes", cookie=pair)).status == 200
    made = await browser("POST", "/v1/mailboxes", {}, cookie=pair, origin="http://localhost:8025")
    assert made.status == 201


@ensure
async def test_over_https_the_cookie_is_secure_and_bound_to_the_host(farm):
    browser = Browser(farm.api(account=None, hosts=HOSTS))
    for headers in (HTTPS, {"host": "mail.example.org"}):
        answer = await browser("POST", "/v1/session", {"token": await farm.token()}, **headers)
        assert re.match(r"__Host-mailfarm-session=ms_.*; Secure; Max-Age=", answer.header("set-cookie"))
    pair = answer.header("set-cookie").partition(";")[0]
    assert (await browser("GET", "/v1/mailboxes", cookie=f"mailfarm-session=ms_0; {pair}", **HTTPS)).status == 200


@ensure
async def test_a_neighbouring_host_cannot_give_a_visitor_a_session_of_its_own(farm):
    """A page of attacker.example.org can set a cookie for all of example.org, but none named __Host-."""
    proxy = ip_network("127.0.0.1")
    browser = Browser(farm.api(account=None, hosts=HOSTS, forwarded_from=(proxy,)))
    planted = await signed_in(farm, browser)
    assert planted.startswith(f"{cookies.PLAIN}=")
    for over_https in ({"x_forwarded_proto": "https"}, {"sec_fetch_site": "none"}, {"origin": HTTPS["origin"]}):
        headers = {"host": HTTPS["host"], "cookie": planted} | over_https
        assert not (await browser("GET", "/v1/session", **headers)).json["signed_in"], over_https
        assert (await browser("GET", "/v1/mailboxes", **headers)).status == 401, over_https
    ending = {"host": HTTPS["host"], "cookie": planted, "origin": HTTPS["origin"]}
    assert (await browser("DELETE", "/v1/session", **ending)).status == 204
    assert (await browser("GET", "/v1/session", cookie=planted)).json["signed_in"], "nor is it ended from there"


@ensure
async def test_where_there_is_no_https_the_cookie_given_is_the_cookie_read(farm):
    """On a network of one's own: browsers send Sec-Fetch-Site only where a page can be trusted."""
    browser = Browser(farm.api(account=None, hosts=HOSTS))
    plain = {"host": "mail.example.org:8025"}
    pair = await signed_in(farm, browser, origin="http://mail.example.org:8025", **plain)
    assert pair.startswith(f"{cookies.PLAIN}=")
    assert (await browser("GET", "/v1/session", cookie=pair, **plain)).json["signed_in"]


@ensure
async def test_with_the_cookie_a_change_needs_the_origin_of_our_own_page(farm):
    browser = Browser(farm.api(account=None))
    pair = await signed_in(farm, browser)
    for headers in ({}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://localhost:1"}):
        answer = await browser("POST", "/v1/mailboxes", {}, cookie=pair, **headers)
        assert (answer.status, answer.problem) == (403, "foreign-origin"), headers
    cross = await browser("GET", "/v1/mailboxes", cookie=pair, sec_fetch_site="cross-site")
    assert cross.problem == "foreign-origin"
    assert (await browser("GET", "/v1/mailboxes", cookie=pair)).json["mailboxes"] == []


@ensure
async def test_what_is_no_good_token_is_no_way_in(farm):
    browser = Browser(farm.api(account=None))
    ended = await farm.token(expires_at=1)
    pair = await signed_in(farm, browser)
    for text in ("mf_wrong", ended, pair.partition("=")[2], " ", "x" * 200, "\x00"):
        answer = await browser("POST", "/v1/session", {"token": text})
        assert (answer.status, answer.problem) == (401, "unauthenticated"), text
        assert answer.header("set-cookie") is None
    assert (await browser("POST", "/v1/session", {})).problem == "invalid-value"
    assert (await browser("POST", "/v1/session", b"token=x", content_type="text/plain")).status == 415


@ensure
async def test_a_session_is_no_bearer_token_and_a_token_no_session(farm):
    api = farm.api(account=None)
    browser = Browser(api)
    pair = await signed_in(farm, browser)
    assert (await Browser(api, pair.partition("=")[2])("GET", "/v1/mailboxes")).status == 401
    assert (await browser("GET", "/v1/mailboxes", cookie=f"{cookies.PLAIN}={await farm.token()}")).status == 401
    # who shows both is asked for the token alone
    both = await browser("GET", "/v1/mailboxes", cookie=pair, authorization="Bearer mf_wrong")
    assert both.status == 401


@ensure
async def test_no_token_in_an_address(farm):
    browser = Browser(farm.api(account=None))
    token = await farm.token()
    for path in (f"/v1/mailboxes?token={token}", f"/v1/mailboxes?access_token={token}"):
        assert (await browser("GET", path)).status == 401


@ensure
async def test_a_session_has_the_scopes_of_its_token_and_no_more(farm):
    browser = Browser(farm.api(account=None))
    pair = await signed_in(farm, browser, await farm.token(scopes=("mailboxes:read",)))
    assert (await browser("GET", "/v1/session", cookie=pair)).json["scopes"] == ["mailboxes:read"]
    refused = await browser("POST", "/v1/mailboxes", {}, cookie=pair, origin="http://localhost:8025")
    assert refused.problem == "scope-missing"


@ensure
async def test_signing_out_ends_the_session_for_everyone_who_has_the_cookie(farm):
    browser = Browser(farm.api(account=None))
    pair = await signed_in(farm, browser)
    assert (await browser("GET", "/v1/session", cookie=pair)).json["signed_in"]
    answer = await browser("DELETE", "/v1/session", cookie=pair, origin="http://localhost:8025")
    assert answer.status == 204
    assert "Max-Age=0" in answer.header("set-cookie")
    assert (await browser("GET", "/v1/mailboxes", cookie=pair)).status == 401
    assert not (await browser("GET", "/v1/session", cookie=pair)).json["signed_in"]
    assert (await browser("DELETE", "/v1/session")).status == 204


@ensure
async def test_a_revoked_token_takes_its_sessions_along(farm):
    browser = Browser(farm.api(account=None))
    admin = Browser(browser.api, await farm.token())
    made = (await admin("POST", "/v1/tokens", {"name": "for the screen in the hall"})).json
    pair = await signed_in(farm, browser, made["token"])
    assert (await admin("DELETE", f"/v1/tokens/{made['id']}")).status == 204
    assert (await browser("GET", "/v1/mailboxes", cookie=pair)).status == 401


@ensure
async def test_a_session_does_not_outlive_its_token(farm):
    browser = Browser(farm.api(account=None))
    admin = Browser(browser.api, await farm.token())
    made = (await admin("POST", "/v1/tokens", {"name": "short", "lifetime": 60})).json
    pair = await signed_in(farm, browser, made["token"])
    assert (await browser("GET", "/v1/session", cookie=pair)).json["expires_at"] == made["expires_at"]


@ensure
async def test_a_token_has_so_many_sessions_and_no_more(farm):
    token = await farm.token()
    texts = [session.new_session(os.urandom) for _ in range(session.MOST + 3)]
    for text in texts:
        await farm.database.unit(lambda tx, text=text: session.begin(tx, farm.ids, token, text))

    async def alive(tx):
        return [await session.find(tx, text) is not None for text in texts]

    assert await farm.database.read(alive) == [False] * 3 + [True] * session.MOST


@ensure
async def test_ended_sessions_are_forgotten(farm):
    token = await farm.token()
    text = session.new_session(os.urandom)
    made = await farm.database.unit(lambda tx: session.begin(tx, farm.ids, token, text))

    async def past(tx):
        await tx.execute("update token set expires_at = 1 where id = ?", (made.id,))
        return await session.forget_ended(tx), await session.forget_ended(tx), await store.find_token(tx, token)

    first, second, parent = await farm.database.unit(past)
    assert (first, second) == (1, 0)
    assert parent is not None


@ensure
async def test_where_nobody_signs_in_it_says_so(ask):
    assert (await ask("GET", "/v1/session")).json["auth"] == "none"
    assert (await ask("POST", "/v1/session", {"token": "mf_x"})).problem == "conflict"


# --- WebSocket


@ensure
async def test_a_websocket_is_admitted_by_cookie_and_origin(farm):
    api = farm.api(account=None)
    pair = await signed_in(farm, Browser(api))
    live = await listen(farm, account=None)
    port = live.listening[0].port
    ours = f"http://127.0.0.1:{port}"
    client = await connect(port, hello=False, cookie=pair, origin=ours)
    assert (await client.next("hello"))["auth"] is False
    client.say(op="watch")
    await client.next("watching")


@ensure
async def test_a_websocket_over_https_is_admitted_by_the_secure_cookie_alone(farm):
    live = await listen(farm, account=None)
    port = live.listening[0].port
    planted = await signed_in(farm, Browser(farm.api(account=None)))
    session_ = planted.partition("=")[2]
    for pair, signed_in_ in ((planted, False), (f"{cookies.SECURE}={session_}", True)):
        client = await connect(port, hello=False, cookie=pair, origin=f"https://127.0.0.1:{port}")
        assert (await client.next("hello"))["auth"] is not signed_in_
        client.dropConnection(abort=True)


@ensure
async def test_a_websocket_without_origin_is_not_admitted_by_its_cookie(farm):
    pair = await signed_in(farm, Browser(farm.api(account=None)))
    live = await listen(farm, account=None)
    client = await connect(live.listening[0].port, hello=False, cookie=pair)
    assert (await client.next("hello"))["auth"] is True
    client.say(op="auth", token=pair.partition("=")[2])
    await client.until(lambda self: self.ended)
    assert client.ended[0] == 4401


@ensure
async def test_a_websocket_with_an_ended_session_or_of_another_site_is_refused(farm):
    live = await listen(farm, account=None)
    port = live.listening[0].port
    pair = await signed_in(farm, Browser(farm.api(account=None)))
    for headers in (
        {"cookie": f"{cookies.PLAIN}=ms_{'0' * 40}", "origin": f"http://127.0.0.1:{port}"},
        {"cookie": pair, "origin": "http://evil.example"},
        {"authorization": f"Bearer {pair.partition('=')[2]}"},
    ):
        client = await connect(port, hello=False, **headers)
        await client.until(lambda self: self.ended)
        assert not client.open


# --- tokens


@ensure
async def test_tokens_are_made_listed_and_revoked(farm):
    api = farm.api(account=None)
    admin = Browser(api, await farm.token())
    made = await admin("POST", "/v1/tokens", {"name": "ci", "scope": "mailboxes:read messages:read", "lifetime": 3600})
    assert made.status == 201
    assert made.json["scopes"] == ["mailboxes:read", "messages:read"]
    user = Browser(api, made.json["token"])
    assert (await user("GET", "/v1/mailboxes")).status == 200
    assert (await user("POST", "/v1/tokens", {"name": "more"})).problem == "scope-missing"
    first = await admin("GET", "/v1/tokens?limit=1")
    second = await admin("GET", f"/v1/tokens?limit=1&after={first.json['next']}")
    assert second.json["next"] is None
    assert second.json["tokens"][0]["name"] == "ci"
    assert made.json["token"] not in first.body.decode() + second.body.decode()
    for _ in range(2):
        assert (await admin("DELETE", f"/v1/tokens/{made.json['id']}")).status == 204
    assert (await user("GET", "/v1/mailboxes")).status == 401
    assert (await admin("GET", "/v1/tokens")).json["tokens"][-1]["revoked_at"]


@ensure
async def test_no_token_gets_the_name_by_which_the_settings_token_is_known_and_ended(farm):
    admin = Browser(farm.api(account=None), await farm.token())
    for name in ("first", " first "):
        refused = await admin("POST", "/v1/tokens", {"name": name})
        assert (refused.status, refused.problem) == (400, "invalid-value")
        assert "MAILFARM_API_FIRST_TOKEN" in refused.json["detail"]
    made = (await admin("POST", "/v1/tokens", {"name": "first of all"})).json
    new = "mf_another-first-token-0123456789"
    done = await farm.database.unit(lambda tx: ensure_first_token(tx, farm.ids, farm.account, new))
    assert done.live
    assert (await Browser(admin.api, made["token"])("GET", "/v1/mailboxes")).status == 200


@ensure
async def test_nobody_gives_what_they_have_not(farm):
    api = farm.api(account=None)
    some = Browser(api, await farm.token(scopes=("tokens:write", "messages:read")))
    assert (await some("POST", "/v1/tokens", {"name": "x"})).json["scopes"] == ["messages:read", "tokens:write"]
    more = await some("POST", "/v1/tokens", {"name": "x", "scope": "messages:read mailboxes:write"})
    assert (more.problem, more.json["scope"]) == ("scope-missing", "mailboxes:write")
    for body in ({"name": " "}, {"name": "x", "scope": ""}, {"name": "x", "scope": "root"}, {"name": "x\ny"}, {}):
        assert (await some("POST", "/v1/tokens", body)).status == 400, body


@ensure
async def test_other_accounts_tokens_are_not_there(farm):
    api = farm.api(account=None)
    mine, theirs = Browser(api, await farm.token()), Browser(api, await farm.token("other"))
    made = (await theirs("POST", "/v1/tokens", {"name": "theirs"})).json
    assert (await mine("DELETE", f"/v1/tokens/{made['id']}")).status == 404
    assert made["id"] not in (await mine("GET", "/v1/tokens")).body.decode()


@ensure
async def test_sessions_are_not_listed_as_tokens(farm):
    browser = Browser(farm.api(account=None))
    token = await farm.token()
    await signed_in(farm, browser, token)
    assert len((await Browser(browser.api, token)("GET", "/v1/tokens")).json["tokens"]) == 1


def test_cookies_are_read_as_they_are_sent():
    def read(header, https=False):
        return cookies.session_of(header, https=https)

    assert read(None) == ""
    assert read("a=b; mailfarm-session=ms_1;c") == "ms_1"
    assert read("mailfarm-session=ms_1; __Host-mailfarm-session=ms_2") == "ms_2"
    assert read('mailfarm-session="ms_1"; mailfarm-session=; mailfarm-session=a b') == ""
    assert read("mailfarm-session=ms_1; mailfarm-session=ms_2") == "ms_1"
    assert read("mailfarm-session=ms_1", https=True) == ""
    assert read("mailfarm-session=ms_1; __Host-mailfarm-session=ms_2", https=True) == "ms_2"
    assert read("mailfarm-session=ms_1", https=None) == "ms_1"


@pytest.mark.parametrize(
    ("known", "https"),
    [
        ({"origin": "https://mail.example.org", "proxied": False}, True),
        ({"origin": "http://mail.example.org", "proxied": True}, False),
        ({"proxied": True, "host": "localhost"}, True),
        ({"proxied": False, "fetch": True, "host": "mail.example.org"}, False),
        ({"tls": True, "host": "localhost"}, True),
        ({"fetch": True, "host": "localhost:8025"}, False),  # a browser's own machine is trusted without TLS
        ({"fetch": True, "host": "[::1]:8025"}, False),
        ({"fetch": True, "host": "mail.example.org"}, True),
        ({"host": "mail.example.org"}, None),
        ({}, None),
    ],
)
def test_whether_a_browser_speaks_https(known, https):
    assert cookies.over_https(**({"origin": None} | known)) is https
