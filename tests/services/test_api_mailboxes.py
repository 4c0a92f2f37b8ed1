"""Mailboxes over REST."""

import pytest
import pytest_twisted
from farm_api import Browser

from mailfarm.accounts.credential import check
from mailfarm.accounts.store import find_credential
from mailfarm.events import LOOKUP
from mailfarm.mailboxes import store

ensure = pytest_twisted.ensureDeferred


@pytest.fixture
def farm_database(database_url):
    return database_url


@ensure
async def test_an_empty_object_makes_a_mailbox_with_its_own_smtp_user(farm, ask):
    made = await ask("POST", "/v1/mailboxes", {})
    assert made.status == 201
    assert made.header("location") == f"/v1/mailboxes/{made.json['id']}"
    assert made.json["address"].endswith("@mailfarm.test")
    assert (made.json["cursor"], made.json["messages"], made.json["kind"]) == (0, 0, "sandbox")
    smtp = made.json["smtp"]

    async def look(tx):
        found = await find_credential(tx, smtp["user"])
        return found, check(found, smtp["password"], tx.now)

    credential, good = await farm.database.read(look)
    assert good
    assert credential.mailbox == made.json["id"]
    read = await ask("GET", f"/v1/mailboxes/{made.json['id']}")
    assert "smtp" not in read.json
    assert read.header("cache-control") == "no-store"


@ensure
async def test_a_password_is_renewed_and_revoked_and_those_who_remember_it_are_told(farm, ask):
    box = (await ask("POST", "/v1/mailboxes", {})).json
    path = f"/v1/mailboxes/{box['id']}/password"
    told = []
    await farm.bus.subscribe(LOOKUP, told.append)

    async def look(tx):
        found = await find_credential(tx, box["smtp"]["user"])
        return found, [check(found, password, tx.now) for password in passwords]

    passwords = [box["smtp"]["password"]]
    for number in range(1, 3):
        answer = await ask("POST", path)
        assert (answer.status, answer.json["user"]) == (200, box["smtp"]["user"])
        passwords.append(answer.json["password"])
        credential, good = await farm.database.read(look)
        assert good == [False] * number + [True]
        assert (credential.mailbox, credential.account) == (box["id"], farm.account)
        assert [(each.kind, each.what) for each in told] == [("credential", credential.id)] * number
    assert (await ask("DELETE", path)).status == 204
    assert (await farm.database.read(look))[1] == [False] * 3
    assert len(told) == 3
    assert (await ask("DELETE", path)).status == 204
    assert len(told) == 3, "a second time changes nothing"
    passwords.append((await ask("POST", path)).json["password"])
    assert (await farm.database.read(look))[1] == [False] * 3 + [True]
    assert (await ask("POST", path, {"password": "mine"})).problem == "invalid-value"


@ensure
async def test_the_password_of_a_mailbox_that_is_gone_or_anothers_is_not_there(farm, ask):
    box = (await ask("POST", "/v1/mailboxes", {})).json
    path = f"/v1/mailboxes/{box['id']}/password"
    stranger = Browser(farm.api(account=None), await farm.token("other"))
    reader = Browser(stranger.api, await farm.token("dev", ("mailboxes:read",)))
    for method in ("POST", "DELETE"):
        assert (await stranger(method, path)).problem == "not-found"
        assert (await reader(method, path)).problem == "scope-missing"
    assert (await ask("DELETE", f"/v1/mailboxes/{box['id']}")).status == 204
    for method in ("POST", "DELETE"):
        assert (await ask(method, path)).problem == "not-found"


@ensure
async def test_a_mailbox_without_a_user_of_its_own_is_given_one(farm, ask):
    mailbox, _ = await farm.database.unit(lambda tx: store.ensure(tx, farm.ids, farm.account, "inbox@mailfarm.test"))
    told = []
    await farm.bus.subscribe(LOOKUP, told.append)
    login = (await ask("POST", f"/v1/mailboxes/{mailbox.id}/password")).json

    async def look(tx):
        found = await find_credential(tx, login["user"])
        return found.mailbox, check(found, login["password"], tx.now)

    assert await farm.database.read(look) == (mailbox.id, True)
    assert not told


@ensure
async def test_everything_about_it_can_be_asked_for(ask):
    wanted = {"address": "Ann@shop.example", "kind": "disposable", "lifetime": 60, "retention": 5}
    made = (await ask("POST", "/v1/mailboxes", wanted | {"starts_at": "2026-01-01T00:00:00Z"})).json
    assert made["address"] == "Ann@shop.example"
    assert made["retention"] == 5
    assert made["ends_at"] > made["starts_at"]
    taken = await ask("POST", "/v1/mailboxes", wanted)
    assert (taken.status, taken.problem) == (409, "conflict")
    found = (await ask("GET", "/v1/mailboxes?address=ann@SHOP.example")).json
    assert [one["id"] for one in found["mailboxes"]] == [made["id"]]


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "big"},
        {"lifetime": 0},
        {"lifetime": "60"},
        {"lifetime": True},
        {"lifetime": 1.5},
        {"retention": -1},
        {"address": 5},
        {"address": "no at"},
        {"address": "x" * 400 + "@a.example"},
        {"starts_at": "yesterday"},
        {"starts_at": "2026-01-01T00:00:00"},
        {"kind": "permanent", "lifetime": 5},
        {"address": "a\r\nb@shop.example"},
        {"lifetime": 10**30},
        [],
        "text",
        None,
    ],
)
@ensure
async def test_what_cannot_be_is_refused_by_name(ask, body):
    answer = await ask("POST", "/v1/mailboxes", b"null" if body is None else body)
    assert (answer.status, answer.problem) == (400, "invalid-value")


@ensure
async def test_an_unknown_member_is_named_and_the_known_ones_listed(ask):
    answer = await ask("POST", "/v1/mailboxes", {"adress": "a@b.example"})
    assert (answer.status, answer.problem) == (400, "unknown-name")
    assert answer.json["name"] == "adress"
    assert "address" in answer.json["known"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"{", "line 1 column 2"),
        (b'{"a":1,}', "line 1"),
        (b"\xff{}", "octet 0"),
        (b'{"kind":"sandbox","kind":"permanent"}', "twice"),
        (b'{"lifetime":NaN}', "NaN"),
        (b'{"address":"\\ud800@a.example"}', "surrogate"),
        (b"[" * 100_000, "deep"),
        (b'{"lifetime":' + b"9" * 5000 + b"}", "too long"),
        (b"", "line 1"),
        (b"{}\x00", "line 1"),
    ],
)
@ensure
async def test_what_is_not_json_is_refused_and_the_answer_says_where(ask, body, where):
    answer = await ask("POST", "/v1/mailboxes", body, content_type="application/json")
    assert (answer.status, answer.problem) == (400, "invalid-json")
    assert where in answer.json["detail"]


@ensure
async def test_pages_go_on_where_the_one_before_ended(ask):
    made = [(await ask("POST", "/v1/mailboxes", {})).json["id"] for _ in range(5)]
    first = (await ask("GET", "/v1/mailboxes?limit=3")).json
    second = (await ask("GET", f"/v1/mailboxes?limit=3&after={first['next']}")).json
    assert [one["id"] for one in first["mailboxes"] + second["mailboxes"]] == sorted(made)
    assert second["next"] is None
    exactly = (await ask("GET", "/v1/mailboxes?limit=5")).json
    assert exactly["next"] is None


@ensure
async def test_a_mailbox_can_be_changed_and_deleted(farm, ask):
    heard = []
    await farm.bus.subscribe(f"account:{farm.account}", heard.append)
    made = (await ask("POST", "/v1/mailboxes", {})).json
    path = f"/v1/mailboxes/{made['id']}"
    changed = (await ask("PATCH", path, {"lifetime": 60, "retention": 10})).json
    assert changed["ends_at"] is not None
    assert changed["retention"] == 10
    changed = (await ask("PATCH", path, {"ends_at": None})).json
    assert (changed["ends_at"], changed["retention"]) == (None, 10)
    assert (await ask("PATCH", path, {})).status == 400
    assert (await ask("PATCH", path, {"lifetime": 5, "ends_at": None})).status == 400
    gone = await ask("DELETE", path)
    assert (gone.status, gone.body) == (204, b"")
    for method, body in (("GET", None), ("PATCH", {"retention": 1}), ("DELETE", None)):
        assert (await ask(method, path, body)).problem == "not-found"
    assert [type(event).__name__ for event in heard] == ["MailboxOpened", "MailboxClosed"]


@ensure
async def test_what_is_anothers_is_not_found(farm):
    api = farm.api(account=None)
    mine, theirs = Browser(api, await farm.token()), Browser(api, await farm.token("other"))
    box = (await mine("POST", "/v1/mailboxes", {})).json
    message = await farm.file(box)
    for path in (
        f"/v1/mailboxes/{box['id']}",
        f"/v1/mailboxes/{box['id']}/messages",
        f"/v1/mailboxes/{box['id']}/events",
        f"/v1/mailboxes/{box['id']}/wait?timeout=0",
        f"/v1/mailboxes/{box['id']}/refusals",
        f"/v1/messages/{message}",
        f"/v1/messages/{message}/raw",
        f"/v1/messages/{message}/html",
        f"/v1/messages/{message}/text",
        f"/v1/messages/{message}/headers",
        f"/v1/messages/{message}/parts/1",
    ):
        assert (await theirs("GET", path)).problem == "not-found", path
    for method, path, body in (
        ("PATCH", f"/v1/mailboxes/{box['id']}", {"retention": 1}),
        ("DELETE", f"/v1/mailboxes/{box['id']}", None),
        ("PATCH", f"/v1/mailboxes/{box['id']}/messages", {"all": True, "seen": True}),
        ("DELETE", f"/v1/mailboxes/{box['id']}/messages", {"all": True}),
        ("PATCH", f"/v1/messages/{message}", {"seen": True}),
        ("DELETE", f"/v1/messages/{message}", None),
    ):
        assert (await theirs(method, path, body)).problem == "not-found", path
    assert (await theirs("GET", "/v1/mailboxes")).json["mailboxes"] == []
    assert (await mine("GET", f"/v1/mailboxes/{box['id']}")).json["messages"] == 1
