"""Tokens and scopes over WebSocket: who is told what, and when that ends."""

import pytest_twisted
from farm_api import Browser
from farm_live import connect, listen

ensure = pytest_twisted.ensureDeferred


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
