"""Filing: once, whatever comes again; numbered without gaps; nothing left behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import pytest_twisted
from twisted.internet.defer import DeferredList

from mailfarm.mailboxes import copies, filing, messages, store
from mailfarm.mailboxes.mailbox import NewMailbox


@pytest_twisted.ensureDeferred
async def test_what_is_filed_can_be_read_as_it_came(house):
    mailbox = await house.mailbox()
    content = bytes(range(256)) * 3000
    item = house.item(mailbox, content=content, subject="Hello", text="body", html="<b>", visible="vis")
    (filed,) = (await house.file(item)).filed
    stored = await house.read(messages.find, house.account, filed.message.id)
    assert stored.summary == filed.message
    assert stored.envelope == item.spooled.envelope
    assert stored.origin == item.spooled.origin
    assert stored.trace == item.spooled.trace
    assert stored.head == item.parsed.head
    assert (stored.text, stored.html) == ("body", "<b>")
    read, number = b"", 0
    while (chunk := await house.read(messages.read_chunk, stored.content, number)) is not None:
        assert len(chunk) <= 256 * 1024
        read += chunk
        number += 1
    assert read == content


@pytest_twisted.ensureDeferred
async def test_empty_content_is_a_message_too(house):
    mailbox = await house.mailbox()
    (filed,) = (await house.file(house.item(mailbox, content=b""))).filed
    stored = await house.read(messages.find, house.account, filed.message.id)
    assert stored.summary.size == 0
    assert await house.read(messages.read_chunk, stored.content, 0) is None


@pytest_twisted.ensureDeferred
async def test_one_message_for_each_mailbox_however_many_recipients_lead_there(house):
    a, b = await house.mailbox(), await house.mailbox()
    item = house.item(a, b, a, recipients=("one@x.test", "two@x.test", "three@x.test"))
    filing_ = await house.file(item)
    assert {event.mailbox: event.message.recipients for event in filing_.filed} == {
        a.id: ("one@x.test", "three@x.test"),
        b.id: ("two@x.test",),
    }
    counts = await house.counts()
    assert (counts["message"], counts["content"]) == (2, 1)


@pytest_twisted.ensureDeferred
async def test_the_same_spool_id_is_filed_once(house):
    mailbox = await house.mailbox()
    item = house.item(mailbox)
    await house.file(item)
    again = await house.file(item, house.item(mailbox))
    assert again.known == (item.spooled.id,)
    assert [event.seq for event in again.filed] == [2]
    assert (await house.file(item, item)).filed == ()
    assert (await house.find(mailbox)).messages == 2


@pytest_twisted.ensureDeferred
async def test_the_same_spool_id_twice_in_one_batch_is_one_message(house):
    mailbox = await house.mailbox()
    item = house.item(mailbox)
    assert len((await house.file(item, item)).filed) == 1


@pytest_twisted.ensureDeferred
async def test_the_same_spool_id_filed_at_the_same_time_is_one_message(house):
    mailbox = await house.mailbox()
    items = [house.item(mailbox) for _ in range(10)]
    results = await DeferredList([house.file(*items[start:], *items[:start]) for start in range(10)])
    assert all(success for success, _ in results)
    filed = [event for _, result in results for event in result.filed]
    assert sorted(event.seq for event in filed) == list(range(1, 11))
    assert (await house.find(mailbox)).messages == 10


@pytest_twisted.ensureDeferred
async def test_what_its_reader_has_deleted_never_comes_back(house):
    mailbox = await house.mailbox()
    item = house.item(mailbox)
    (filed,) = (await house.file(item)).filed
    await house.delete(mailbox, [filed.message.id])
    again = await house.file(item)
    assert (again.filed, again.known) == ((), (item.spooled.id,))
    assert (await house.list(mailbox)).messages == ()


@pytest_twisted.ensureDeferred
async def test_a_mailbox_that_is_gone_or_has_ended_gets_nothing(house):
    stays = await house.mailbox()
    goes = await house.mailbox()
    ends = await house.mailbox(lifetime=60)
    await house.unit(store.delete, house.ids, house.account, goes.id)
    house.ahead = 61
    only = house.item(goes)
    result = await house.file(house.item(stays, goes, ends), only)
    assert [event.mailbox for event in result.filed] == [stays.id]
    assert sorted(dropped.mailbox for dropped in result.dropped) == sorted([goes.id, ends.id, goes.id])
    assert (await house.counts())["content"] == 1
    assert (await house.file(only)).known == (only.spooled.id,)


@pytest_twisted.ensureDeferred
async def test_retention_says_when_a_message_expires(house):
    mailbox = await house.mailbox(retention=60)
    (filed,) = (await house.file(house.item(mailbox))).filed
    stored = await house.read(messages.find, house.account, filed.message.id)
    assert filed.message.received_at + 60_000_000 <= stored.expires_at <= house.clock() + 60_000_000
    ahead = house.item(mailbox)  # its listener's clock is
    ahead = replace(ahead, spooled=replace(ahead.spooled, accepted_at=house.clock() + 5_000_000))
    (filed,) = (await house.file(ahead)).filed
    stored = await house.read(messages.find, house.account, filed.message.id)
    assert stored.expires_at == ahead.spooled.accepted_at + 60_000_000


@pytest_twisted.ensureDeferred
async def test_retention_counts_from_when_it_was_filed_if_the_listeners_clock_was_behind_or_it_waited_long(house):
    mailbox = await house.mailbox(retention=300)
    item = house.item(mailbox)
    late = replace(item, spooled=replace(item.spooled, accepted_at=house.clock() - 600_000_000))
    before = house.clock()
    (filed,) = (await house.file(late)).filed
    stored = await house.read(messages.find, house.account, filed.message.id)
    assert stored.summary.received_at == late.spooled.accepted_at
    assert before + 299_000_000 < stored.expires_at < house.clock() + 301_000_000
    assert stored.content.until == stored.expires_at
    assert list(await house.unit(messages.expire, house.ids, 10)) == []
    house.ahead = 301
    (expired,) = await house.unit(messages.expire, house.ids, 10)
    assert expired.messages == (filed.message.id,)


@pytest_twisted.ensureDeferred
async def test_what_came_twice_is_kept_twice_and_the_second_says_so(house):
    mailbox, other = await house.mailbox(), await house.mailbox()

    async def send(*boxes, message_id="<1@x.test>", content=b"h"):
        item = house.item(*boxes, message_id=message_id)
        spooled = replace(item.spooled, sha256=content * 32)
        return replace(item, spooled=spooled, copy_key=copies.copy_key(message_id, spooled.sha256))

    async def filed(*items):
        return [event.message for event in (await house.file(*items)).filed]

    (first,) = await filed(await send(mailbox))
    second, third, unlike, elsewhere, bare, bare_again = await filed(
        await send(mailbox),
        await send(mailbox),
        await send(mailbox, content=b"i"),
        await send(other),
        await send(mailbox, message_id=""),
        await send(mailbox, message_id=""),
    )
    assert (second.duplicate_of, third.duplicate_of) == (first.id, first.id)
    assert [m.duplicate_of for m in (first, unlike, elsewhere, bare, bare_again)] == [None] * 5
    twice, again = await filed(await send(other, message_id="<2@x.test>"), await send(other, message_id="<2@x.test>"))
    assert (twice.duplicate_of, again.duplicate_of) == (None, twice.id)
    listed = (await house.list(mailbox)).messages
    assert len(listed) == 6
    assert {m.id: m.duplicate_of for m in listed}[second.id] == first.id
    assert (await house.read(messages.find, house.account, third.id)).summary.duplicate_of == first.id
    await house.delete(mailbox, [first.id])
    (fourth,) = await filed(await send(mailbox))
    assert fourth.duplicate_of == second.id  # the first that is still there


@pytest_twisted.ensureDeferred
async def test_looking_for_copies_is_one_question_and_reads_one_row_of_an_index_each(house):
    mailbox = await house.mailbox()
    for _ in range(3):
        await house.file(*[house.item(mailbox, message_id="<1@x.test>") for _ in range(100)])

    async def work(tx):
        tx = Counting(tx)
        items = [house.item(mailbox, message_id=f"<{n}@x.test>") for n in range(100)]
        filed = (await filing.file(tx, house.ids, items)).filed
        return tx.asked, sum(event.message.duplicate_of is not None for event in filed)

    assert await house.database.unit(work, late=True) == (6, 1)

    async def plan(tx):
        explain = "explain" if house.url else "explain query plan"
        return await tx.several([(f"{explain} {copies.FIRSTS}", copies.firsts([(mailbox.id, b"x" * 16)]))])

    text = str(await house.database.unit(plan, late=True))
    assert "message_copy" in text
    assert "Sort" not in text
    assert "TEMP B-TREE" not in text


@pytest_twisted.ensureDeferred
async def test_mail_for_a_mailbox_that_was_made_again_is_led_to_the_new_one(house):
    async def again(address):
        old = await house.mailbox(address=address)
        await house.unit(store.delete, house.ids, house.account, old.id)
        return old, await house.mailbox(address=address)

    gone, new = await again("anna@mailfarm.test")
    tagged, other = await again("bert@mailfarm.test")
    stays = await house.mailbox(address="carl@mailfarm.test")
    items = [
        house.item(gone, stays, recipients=("Anna@mailfarm.test", "carl@mailfarm.test")),
        house.item(tagged, recipients=("bert+tag@mailfarm.test",)),
        house.item(gone, recipients=("nobody@mailfarm.test",)),
    ]
    with pytest.raises(filing.MovedError) as moved:
        await house.unit(filing.file, house.ids, items, follow=True)
    items = [moved.value.led(item) for item in items]
    result = await house.unit(filing.file, house.ids, items, follow=True)
    assert sorted(event.mailbox for event in result.filed) == sorted([new.id, stays.id, other.id])
    assert [dropped.mailbox for dropped in result.dropped] == [gone.id]
    assert (await house.unit(filing.file, house.ids, items, follow=True)).filed == ()


@pytest_twisted.ensureDeferred
async def test_mail_follows_its_address_into_no_other_account_and_away_from_no_credentials_mailbox(house):
    elsewhere = await house.new_account("elsewhere")
    gone = await house.mailbox(address="anna@mailfarm.test")
    await house.unit(store.delete, house.ids, house.account, gone.id)
    await house.mailbox(elsewhere, address="anna@mailfarm.test")
    bert = await house.mailbox(address="bert@mailfarm.test")
    item = house.item(gone, recipients=("bert@mailfarm.test",))
    origin = replace(item.spooled.origin, service="submission", credential=house.ids.new())
    captured = replace(item, spooled=replace(item.spooled, origin=origin))
    items = [house.item(gone, recipients=("anna@mailfarm.test",)), captured]
    result = await house.unit(filing.file, house.ids, items, follow=True)
    assert (result.filed, len(result.dropped)) == ((), 2)
    with pytest.raises(filing.MovedError) as moved:  # open capture is by recipient
        await house.unit(filing.file, house.ids, [house.item(gone, recipients=("bert@mailfarm.test",))], follow=True)
    assert bert.id in str(moved.value._moved)


@pytest_twisted.ensureDeferred
async def test_one_unit_files_many(house):
    boxes = [await house.mailbox() for _ in range(5)]
    items = [house.item(*boxes) for _ in range(100)]
    result = await house.file(*items)
    assert len(result.filed) == 500
    for mailbox in boxes:
        assert [event.seq for event in result.filed if event.mailbox == mailbox.id] == list(range(1, 101))
        found = await house.find(mailbox)
        assert (found.cursor, found.messages, found.unseen) == (100, 100, 100)


@pytest_twisted.ensureDeferred
async def test_an_item_that_cannot_be_filed_takes_nothing_with_it(house):
    mailbox = await house.mailbox()
    good = house.item(mailbox)
    bad = replace(good, spooled=replace(house.item(mailbox).spooled, trace=object()))
    with pytest.raises(Exception):  # noqa: B017 - the driver's
        await house.file(good, bad)
    assert set((await house.counts()).values()) == {0, 1}
    assert len((await house.file(good)).filed) == 1


@pytest_twisted.ensureDeferred
async def test_filed_ids_are_forgotten_when_no_redelivery_can_come_any_more(house):
    mailbox = await house.mailbox()
    item = house.item(mailbox)
    await house.file(item)
    assert await house.unit(filing.forget_filed, house.clock() - 10_000_000) == 0
    assert await house.unit(filing.forget_filed, house.clock() + 1) == 1


@pytest_twisted.ensureDeferred
async def test_a_message_in_another_accounts_mailbox_is_that_accounts(house):
    other = await house.new_account("other")
    mailbox = await house.mailbox(other)
    (filed,) = (await house.file(house.item(mailbox))).filed
    assert filed.account == other
    assert (await house.read(messages.find, other, filed.message.id)).account == other


class Counting:
    """A tx that counts its questions."""

    def __init__(self, tx):
        self._tx = tx
        self.asked = 0

    @property
    def now(self):
        return self._tx.now

    def __getattr__(self, name):
        self.asked += 1
        return getattr(self._tx, name)


@pytest_twisted.ensureDeferred
async def test_a_thousand_mailboxes_take_as_many_questions_as_one(house):
    async def questions(*items):
        async def counted(tx):
            tx = Counting(tx)
            filed = (await filing.file(tx, house.ids, items)).filed
            return tx.asked, len(filed)

        return await house.database.unit(counted, late=True)

    (one,) = await house.unit(_boxes, house, 1)
    many = await house.unit(_boxes, house, 1000)
    assert await questions(house.item(one)) == (6, 1)
    assert await questions(*[house.item(one) for _ in range(100)]) == (6, 100)
    assert await questions(*[house.item(*many[n : n + 10]) for n in range(0, 1000, 10)]) == (7, 1000)
    assert {(await house.find(box)).messages for box in many[::99]} == {1}


async def _boxes(tx, house, count):
    return [(await store.create(tx, house.ids, house.account, NewMailbox(), house.domains))[0] for _ in range(count)]
