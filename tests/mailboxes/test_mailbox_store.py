"""Mailboxes: how long they live, what they may be called, who finds them."""

from __future__ import annotations

import re

import pytest
import pytest_twisted
from mailbox_house import SECOND

from mailfarm.errors import Conflict, Invalid, NotFound
from mailfarm.events import MailboxClosed
from mailfarm.mailboxes import store
from mailfarm.mailboxes.addresses import Domains, made
from mailfarm.mailboxes.mailbox import NewMailbox, span_of_life

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("kind", "lifetime", "lives"),
    [
        ("sandbox", None, None),
        ("sandbox", 60, 60),
        ("disposable", None, HOUR),
        ("disposable", 14 * DAY, 14 * DAY),
        ("permanent", None, None),
    ],
)
def test_how_long_each_kind_lives(kind, lifetime, lives):
    start, end = span_of_life(NewMailbox(kind=kind, lifetime=lifetime), 1000)
    assert start == 1000
    assert end == (None if lives is None else 1000 + lives * SECOND)


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "permanent", "lifetime": 60},
        {"kind": "disposable", "lifetime": 14 * DAY + 1},
        {"kind": "disposable", "lifetime": 0},
        {"kind": "sandbox", "lifetime": -1},
        {"kind": "temporary"},
        {"starts_at": 1000 + 366 * DAY * SECOND},
    ],
)
def test_what_no_mailbox_may_be(asked):
    with pytest.raises(Invalid):
        span_of_life(NewMailbox(**asked), 1000)


def test_a_lifetime_counts_from_the_start_and_a_past_start_is_now():
    assert span_of_life(NewMailbox(starts_at=5000, lifetime=1), 1000) == (5000, 5000 + SECOND)
    assert span_of_life(NewMailbox(starts_at=10, lifetime=1), 1000) == (1000, 1000 + SECOND)


def test_addresses_made_by_machine_are_readable_and_unguessable():
    from mailfarm.ids import Ids

    number = 0

    def random(octets):
        nonlocal number
        number += 1
        return number.to_bytes(octets, "big")

    names = [str(made(Ids(lambda: 0, random), Domains(("farm.test",)))) for _ in range(200)]
    assert len(set(names)) == 200  # the last random bits are part of it
    for name in names:
        assert re.fullmatch(r"[a-z]+-[a-z]+-[0-9a-hjkmnp-tv-z]{10}@farm\.test", name)


@pytest_twisted.ensureDeferred
async def test_a_mailbox_is_made_with_nothing_asked(house):
    mailbox = await house.mailbox()
    assert mailbox.address.endswith("@mailfarm.test")
    assert (mailbox.kind, mailbox.ends_at, mailbox.cursor, mailbox.messages) == ("sandbox", None, 0, 0)
    assert await house.find(mailbox) == mailbox


@pytest_twisted.ensureDeferred
async def test_an_address_is_taken_once_however_it_is_written(house):
    await house.mailbox(address="Ann@mailfarm.test")
    for address in ("Ann@mailfarm.test", "ann@MAILFARM.test", '"ann"@mailfarm.test'):
        with pytest.raises(Conflict):
            await house.mailbox(address=address)


@pytest_twisted.ensureDeferred
async def test_addresses_that_are_none_or_not_ours_are_refused(house):
    for address in ("", "ann", "ann@elsewhere.test", "a b@mailfarm.test", "ann@mailfarm.test\r\nX: y", "x" * 5000):
        with pytest.raises(Invalid):
            await house.mailbox(address=address)
    house.domains = Domains(any=True)
    assert (await house.mailbox(address="ann@elsewhere.test")).address == "ann@elsewhere.test"


@pytest_twisted.ensureDeferred
async def test_mail_with_a_tag_leads_to_the_mailbox_without_unless_there_is_one_with_it(house):
    plain = await house.mailbox(address="ann@mailfarm.test")
    assert (await house.read(store.by_address, "Ann+shop@mailfarm.test")).id == plain.id
    tagged = await house.mailbox(address="ann+shop@mailfarm.test")
    assert (await house.read(store.by_address, "ann+shop@mailfarm.test")).id == tagged.id
    assert (await house.read(store.by_address, "ann+news@mailfarm.test")).id == plain.id
    assert await house.read(store.by_address, "bob@mailfarm.test") is None
    assert await house.read(store.by_address, "no address") is None
    users = ["ann", "an", "ann+shop", "bob", "anna"]
    found, with_tags = await house.read(store.leads, ["Ann+Shop@mailfarm.test", "ann+news@mailfarm.test", "no"], users)
    assert with_tags == {"ann"}
    assert [(lead.key, lead.own) for lead in found.values()] == [
        ("ann+shop@mailfarm.test", True),
        ("ann+news@mailfarm.test", False),
        ("no", False),
    ]


@pytest_twisted.ensureDeferred
async def test_a_tag_is_no_way_to_another_accounts_mail(house):
    await house.mailbox(address="ann@mailfarm.test")
    other = await house.new_account("other")
    with pytest.raises(Conflict):
        await house.mailbox(other, address="ann+shop@mailfarm.test")


@pytest_twisted.ensureDeferred
async def test_nobody_finds_another_accounts_mailbox(house):
    mailbox = await house.mailbox()
    other = await house.new_account("other")
    for work, args in (
        (store.find, (other, mailbox.id)),
        (store.change, (other, mailbox.id)),
        (store.delete, (house.ids, other, mailbox.id)),
    ):
        with pytest.raises(NotFound):
            await house.unit(work, *args)
    assert await house.read(store.list_, other) == []
    assert await house.read(store.list_, other, address=mailbox.address) == []


@pytest_twisted.ensureDeferred
async def test_mailboxes_are_listed_by_id_a_page_at_a_time(house):
    ids = sorted([(await house.mailbox()).id for _ in range(5)])
    found, after = [], ""
    while page := await house.read(store.list_, house.account, after=after, limit=2):
        found += [mailbox.id for mailbox in page]
        after = page[-1].id
    assert found == ids


@pytest_twisted.ensureDeferred
async def test_a_mailbox_that_has_ended_is_found_by_nobody_swept_or_not(house):
    mailbox = await house.mailbox(kind="disposable", address="ann@mailfarm.test", lifetime=60)
    house.ahead = 61
    with pytest.raises(NotFound):
        await house.find(mailbox)
    assert await house.read(store.list_, house.account) == []
    ended = await house.read(store.by_address, "ann@mailfarm.test")
    assert not ended.live(house.clock())
    with pytest.raises(Conflict, match="cleared away"):
        await house.mailbox(address="ann@mailfarm.test")
    (closed,) = await house.unit(store.expire_mailboxes, house.ids, 10)
    assert isinstance(closed, MailboxClosed)
    assert (closed.mailbox, closed.address) == (mailbox.id, mailbox.address)
    assert await house.unit(store.expire_mailboxes, house.ids, 10) == ()
    await house.mailbox(address="ann@mailfarm.test")


@pytest_twisted.ensureDeferred
async def test_a_mailbox_that_starts_later_is_there_but_does_not_live_yet(house):
    mailbox = await house.mailbox(starts_at=house.clock() + 60 * SECOND)
    assert not (await house.find(mailbox)).live(house.clock())
    house.ahead = 61
    assert (await house.find(mailbox)).live(house.clock())


@pytest_twisted.ensureDeferred
async def test_lifetime_and_retention_can_be_changed_within_the_rules(house):
    mailbox = await house.mailbox(kind="disposable")
    changed = await house.unit(store.change, house.account, mailbox.id, lifetime=2 * HOUR, retention=60)
    assert changed.ends_at > mailbox.ends_at
    assert changed.retention == 60
    same = await house.unit(store.change, house.account, mailbox.id)
    assert same == changed
    assert (await house.unit(store.change, house.account, mailbox.id, retention=None)).retention is None
    later = changed.ends_at + SECOND
    assert (await house.unit(store.change, house.account, mailbox.id, ends_at=later)).ends_at == later
    for asked in (
        {"ends_at": None},
        {"lifetime": 15 * DAY},
        {"ends_at": house.clock() + 15 * DAY * SECOND},
        {"ends_at": mailbox.starts_at},
        {"retention": 0},
        {"lifetime": 60, "ends_at": later},
    ):
        with pytest.raises(Invalid):
            await house.unit(store.change, house.account, mailbox.id, **asked)


@pytest_twisted.ensureDeferred
async def test_an_end_lies_ahead(house):
    mailbox = await house.mailbox()
    house.ahead = 10
    with pytest.raises(Invalid):
        await house.unit(store.change, house.account, mailbox.id, ends_at=mailbox.starts_at + 1)
    end = house.clock() + SECOND
    assert (await house.unit(store.change, house.account, mailbox.id, ends_at=end)).ends_at == end


@pytest_twisted.ensureDeferred
async def test_deleting_a_mailbox_leaves_nothing_behind_and_frees_its_address(house):
    mailbox = await house.mailbox(address="ann@mailfarm.test")
    other = await house.mailbox()
    await house.file(*[house.item(mailbox) for _ in range(20)], house.item(mailbox, other, content=b"x" * 600_000))
    await house.mark(mailbox, None)
    await house.unit(store.delete, house.ids, house.account, mailbox.id)
    assert await house.counts() == {
        "mailbox": 1, "message": 1, "content": 1, "content_chunk": 3, "event": 1, "credential": 0,
    }  # fmt: skip
    await house.mailbox(address="ann@mailfarm.test")


@pytest_twisted.ensureDeferred
async def test_a_large_mailbox_is_closed_at_once_and_cleared_in_steps(house, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.changes.MOST", 7)
    monkeypatch.setattr("mailfarm.mailboxes.store.CLEAR_EVENTS", 10)
    mailbox = await house.mailbox(address="ann@mailfarm.test")
    await house.file(*[house.item(mailbox) for _ in range(30)])
    await house.unit(store.delete, house.ids, house.account, mailbox.id)
    assert (await house.counts())["message"] == 23
    assert await house.read(store.by_address, "ann@mailfarm.test") is None
    await house.mailbox(address="ann@mailfarm.test")
    assert await house.unit(store.expire_mailboxes, house.ids, 10) == ()  # it was announced when it was closed
    steps = 0
    while await house.unit(store.clear_closed):
        steps += 1
    assert steps > 5
    assert set((await house.counts()).values()) == {0, 1}


@pytest_twisted.ensureDeferred
async def test_a_clock_set_back_brings_no_closed_mailbox_to_life(house, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.changes.MOST", 1)
    mailbox = await house.mailbox()
    await house.file(*[house.item(mailbox) for _ in range(3)])
    await house.unit(store.delete, house.ids, house.account, mailbox.id)
    house.ahead = -3600
    with pytest.raises(NotFound):
        await house.find(mailbox)
    assert len((await house.file(house.item(mailbox))).dropped) == 1
    while await house.unit(store.clear_closed):
        pass
    assert set((await house.counts()).values()) == {0}
