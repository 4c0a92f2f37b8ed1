"""Listing, reading, marking and deleting messages."""

from __future__ import annotations

import random

import pytest
import pytest_twisted

from mailfarm.errors import CursorTooOld, Damaged, Invalid, NotFound
from mailfarm.events import Deleted, Expired, Filed, Person, Seen
from mailfarm.mailboxes import events, messages, scan
from mailfarm.mailboxes.match import Criteria


async def filled(house, many=10, **asked):
    mailbox = await house.mailbox(**asked)
    await house.file(*[house.item(mailbox, subject=f"mail {n}", text=f"text {n}") for n in range(1, many + 1)])
    return mailbox


def seqs(page):
    return [message.seq for message in page.messages]


@pytest_twisted.ensureDeferred
async def test_pages_in_both_directions_show_each_message_once(house):
    mailbox = await filled(house, 10)
    found, after = [], 0
    while after is not None:
        page = await house.list(mailbox, after=after, limit=3)
        found += seqs(page)
        after = page.next
    assert found == list(range(1, 11))
    found, before = [], None
    while True:
        page = await house.list(mailbox, before=before, order="desc", limit=3)
        found += seqs(page)
        if page.next is None:
            break
        before = page.next
    assert found == list(range(10, 0, -1))


@pytest_twisted.ensureDeferred
async def test_the_cursor_is_the_last_change_considered_for_this_answer(house):
    mailbox = await filled(house, 10)
    await house.mark(mailbox, None)  # change 11 is no message
    assert (await house.list(mailbox)).cursor == 11
    assert (await house.list(mailbox, limit=4)).cursor == 4
    assert (await house.list(mailbox, limit=10)).cursor == 11
    assert (await house.list(mailbox, order="desc", limit=4)).cursor == 11
    assert (await house.list(mailbox, after=11)).cursor == 11
    assert (await house.list(mailbox, before=5)).cursor == 4
    assert (await house.list(mailbox, before=5, order="desc", limit=2)).cursor == 4
    assert (await house.list(mailbox, Criteria(subject="nothing"))).cursor == 11
    assert (await house.list(await house.mailbox())).cursor == 0


@pytest_twisted.ensureDeferred
async def test_going_on_after_the_cursor_never_skips_one(house):
    chance = random.Random(5)
    mailbox = await house.mailbox()
    seen, cursor, sent = [], 0, []
    for _ in range(60):
        if chance.random() < 0.6:
            sent.append(await house.send(mailbox, subject=chance.choice(("yes", "no"))))
        page = await house.list(mailbox, Criteria(subject="yes"), after=cursor, limit=chance.randint(1, 3))
        seen += [message.id for message in page.messages]
        cursor = page.cursor
    while (page := await house.list(mailbox, Criteria(subject="yes"), after=cursor, limit=2)).messages:
        seen += [message.id for message in page.messages]
        cursor = page.cursor
    everything = (await house.list(mailbox, Criteria(subject="yes"), limit=1000)).messages
    assert seen == [message.id for message in everything]


@pytest_twisted.ensureDeferred
async def test_filters_agree_with_the_matcher_and_look_at_a_bounded_number(house, monkeypatch):
    mailbox = await house.mailbox()
    for n in range(30):
        await house.file(
            house.item(
                mailbox,
                sender=f"bounce{n % 5}@example.org",
                from_=Person("", f"Who{n % 3}@Example.org"),
                subject=f"s{n}",
                text="odd" if n % 2 else "even",
                # what HTML shows is stored, or found when it is looked for
                visible="<three>" if n % 6 == 0 else "",
                html="<td class=nothing>&lt;th<b>ree</b>&gt;" if n % 6 == 3 else "",
            )
        )
    await house.mark(mailbox, [message.id for message in (await house.list(mailbox, limit=10)).messages])
    everything = (await house.list(mailbox, limit=100)).messages
    for criteria, expected in (
        (Criteria(from_="who1@example.ORG"), 10),
        (Criteria(from_="bounce2@example.org"), 6),
        (Criteria(from_="who"), 30),
        (Criteria(contains="ODD"), 15),
        (Criteria(contains="<three>"), 10),
        (Criteria(contains="class=nothing"), 0),
        (Criteria(from_="who0@example.org", contains="odd"), 5),
        (Criteria(subject="s2", contains="even"), 6),
    ):
        assert len((await house.list(mailbox, criteria, limit=100)).messages) == expected, criteria
        monkeypatch.setattr(scan, "MOST", 4)
        monkeypatch.setattr(scan, "ROWS", 3)
        found, after = [], 0
        while after is not None:
            page = await house.list(mailbox, criteria, after=after, limit=2)
            found += page.messages
            after = page.next
        back, before = [], None
        while True:
            page = await house.list(mailbox, criteria, before=before, limit=2, order="desc")
            back += page.messages
            before = page.next
            if before is None:
                break
        monkeypatch.undo()
        assert [message in found for message in everything].count(True) == len(found) == expected
        assert found == back[::-1]
    assert len((await house.list(mailbox, seen=True)).messages) == 10
    assert len((await house.list(mailbox, seen=False, order="desc")).messages) == 20


@pytest_twisted.ensureDeferred
async def test_a_sender_is_one_of_the_header_or_of_the_envelope_each_message_once_and_in_order(house):
    mailbox = await house.mailbox()
    ways = (
        ("a@one.test", "a@one.test"),
        ("b@one.test", "a@one.test"),
        ("a@one.test", "b@one.test"),
        ("b@one.test",) * 2,
    )
    for n in range(12):
        sender, address = ways[n % 4]
        await house.file(house.item(mailbox, sender=sender, from_=Person("", address)))
    asked = Criteria(from_="A@one.test")
    wanted = [seq for seq in range(1, 13) if seq % 4]
    for order in ("asc", "desc"):
        pages, at = [], None
        while at is not None or not pages:
            where = {} if at is None else {"after" if order == "asc" else "before": at}
            page = await house.list(mailbox, asked, order=order, limit=2, **where)
            pages.append([message.seq for message in page.messages])
            at = page.next
        assert sum(pages, []) == (wanted if order == "asc" else wanted[::-1])  # noqa: RUF017 - short
        assert all(len(page) == 2 for page in pages[:-1])
    assert [m.seq for m in (await house.list(mailbox, asked, after=3, before=9)).messages] == [5, 6, 7]


@pytest_twisted.ensureDeferred
async def test_a_limit_has_limits(house):
    mailbox = await house.mailbox()
    for limit in (0, 1001):
        with pytest.raises(Invalid):
            await house.list(mailbox, limit=limit)


@pytest_twisted.ensureDeferred
async def test_marking_is_one_event_and_counts_once(house):
    mailbox = await filled(house, 5)
    ids = [message.id for message in (await house.list(mailbox)).messages]
    (change,) = await house.mark(mailbox, [*ids[:2], ids[0], "nosuchmessage"])
    assert isinstance(change, Seen)
    assert (change.messages, change.seq, change.seen) == (tuple(ids[:2]), 6, True)
    assert await house.mark(mailbox, ids[:2]) == ()
    assert (await house.find(mailbox)).unseen == 3
    assert [message.seen for message in (await house.list(mailbox)).messages] == [True, True, False, False, False]
    await house.mark(mailbox, None, False)
    assert (await house.find(mailbox)).unseen == 5
    assert not (await house.read(messages.find, house.account, ids[0])).summary.seen


@pytest_twisted.ensureDeferred
async def test_a_call_marks_and_deletes_a_bounded_number(house, monkeypatch):
    monkeypatch.setattr(messages, "MOST", 4)
    mailbox = await filled(house, 10)
    assert [len((await house.mark(mailbox, None))[0].messages) for _ in range(3)] == [4, 4, 2]
    assert await house.mark(mailbox, None) == ()
    assert [len((await house.delete(mailbox, None))[0].messages) for _ in range(3)] == [4, 4, 2]
    assert await house.delete(mailbox, None) == ()
    with pytest.raises(Invalid):
        await house.delete(mailbox, ["x"] * 10_001)


@pytest_twisted.ensureDeferred
async def test_a_call_deletes_a_bounded_number_of_octets(house, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.changes.MOST_OCTETS", 1000)
    mailbox = await house.mailbox()
    await house.file(*[house.item(mailbox, content=b"x" * 400) for _ in range(5)])
    assert [len((await house.delete(mailbox, None))[0].messages) for _ in range(3)] == [2, 2, 1]


@pytest_twisted.ensureDeferred
async def test_deleting_the_last_message_of_a_content_deletes_the_content(house):
    a, b = await house.mailbox(), await house.mailbox()
    first, second = (await house.file(house.item(a, b, content=b"x" * 300_000))).filed
    (change,) = await house.delete(a, [first.message.id])
    assert isinstance(change, Deleted)
    assert (await house.counts())["content_chunk"] == 2
    await house.delete(b, [second.message.id])
    counts = await house.counts()
    assert (counts["message"], counts["content"], counts["content_chunk"]) == (0, 0, 0)
    with pytest.raises(NotFound):
        await house.read(messages.find, house.account, first.message.id)


@pytest_twisted.ensureDeferred
async def test_a_deleted_message_leaves_nothing_of_itself_in_the_events(house):
    mailbox = await house.mailbox()
    await house.send(mailbox, subject="very private", snippet="indeed")
    filed, *_ = await house.events(mailbox)
    assert filed.message.subject == "very private"
    await house.delete(mailbox, None)
    filed, deleted = await house.events(mailbox)
    assert isinstance(filed, Filed)
    assert (filed.seq, filed.message.id) == (1, deleted.messages[0])
    assert "private" not in repr(filed)

    async def rows(tx):
        return repr(await tx.rows("select * from event"))

    assert "private" not in await house.database.read(rows)


@pytest_twisted.ensureDeferred
async def test_messages_expire_with_one_event_a_mailbox(house):
    a, b, keeps = await filled(house, 3, retention=60), await filled(house, 2, retention=60), await filled(house, 1)
    assert await house.unit(messages.expire, house.ids, 100) == ()
    house.ahead = 61
    first = await house.unit(messages.expire, house.ids, 4)
    second = await house.unit(messages.expire, house.ids, 4)
    assert await house.unit(messages.expire, house.ids, 4) == ()
    assert all(isinstance(change, Expired) for change in (*first, *second))
    assert sum(len(change.messages) for change in (*first, *second)) == 5
    for mailbox, left in ((a, 0), (b, 0), (keeps, 1)):
        found = await house.find(mailbox)
        assert (found.messages, found.unseen) == (left, left)


@pytest_twisted.ensureDeferred
async def test_nobody_reads_or_changes_another_accounts_messages(house):
    mailbox = await filled(house, 1)
    (message,) = (await house.list(mailbox)).messages
    other = await house.new_account("other")
    attempts = (
        (messages.find, (other, message.id)),
        (messages.locate, (other, message.id)),
        (messages.list_, (other, mailbox.id)),
        (messages.mark, (house.ids, other, mailbox.id, None, True)),
        (messages.delete, (house.ids, other, mailbox.id, None)),
        (events.after, (other, mailbox.id, 0)),
    )
    for work, args in attempts:
        with pytest.raises(NotFound):
            await house.unit(work, *args)
    theirs = await house.mailbox(other)
    assert await house.unit(messages.delete, house.ids, other, theirs.id, [message.id]) == ()
    assert (await house.find(mailbox)).messages == 1


@pytest_twisted.ensureDeferred
async def test_old_events_are_trimmed_and_a_cursor_before_them_is_too_old(house, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.changes.EVENTS_KEPT", 20)
    monkeypatch.setattr("mailfarm.mailboxes.changes.TRIM", 5)
    mailbox = await filled(house, 1)
    for n in range(60):
        await house.mark(mailbox, None, n % 2 == 0)
        assert 0 <= (await house.counts())["event"] <= 25
    found = await house.find(mailbox)
    assert found.cursor == 61
    assert found.cursor - found.oldest >= 20
    with pytest.raises(CursorTooOld) as caught:
        await house.events(mailbox, found.oldest - 1)
    assert (caught.value.oldest, caught.value.last) == (found.oldest + 1, 61)
    kept = await house.events(mailbox, found.oldest)
    assert [change.seq for change in kept] == list(range(found.oldest + 1, 62))
    for after in (-1, 62):
        with pytest.raises(Invalid):
            await house.events(mailbox, after)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("seed", range(4))
async def test_change_numbers_have_no_gaps_whatever_happens_at_once(house, seed):
    chance = random.Random(seed)
    boxes = [await house.mailbox(retention=chance.choice((None, 30))) for _ in range(3)]
    jobs = []
    known: dict[str, list[str]] = {box.id: [] for box in boxes}
    told: dict[str, list] = {box.id: [] for box in boxes}

    def keep(result):
        for change in getattr(result, "filed", result):
            told[change.mailbox].append(change)
            if isinstance(change, Filed):
                known[change.mailbox].append(change.message.id)

    for _ in range(120):
        box = chance.choice(boxes)
        some = chance.sample(known[box.id], min(len(known[box.id]), chance.randint(0, 4))) or None
        what = chance.random()
        if what < 0.45:
            items = [house.item(*chance.sample(boxes, chance.randint(1, 3))) for _ in range(chance.randint(1, 3))]
            job = house.file(*items)
        elif what < 0.65:
            job = house.unit(messages.mark, house.ids, house.account, box.id, some, chance.random() < 0.5)
        elif what < 0.8:
            job = house.unit(messages.delete, house.ids, house.account, box.id, some)
        else:
            house.ahead += chance.random() * 8
            job = house.unit(messages.expire, house.ids, 3)
        job.addCallback(keep)
        jobs.append(job)
        if chance.random() < 0.3:
            await jobs[-1]
    for job in jobs:
        await job
    for box in boxes:
        found = await house.find(box)
        changes = await house.events(box)
        assert [change.seq for change in changes] == list(range(1, found.cursor + 1))
        assert sorted(change.seq for change in told[box.id]) == list(range(1, found.cursor + 1))
        # the events are the whole truth: replayed, they give what is there
        state: dict[str, bool] = {}
        for change in changes:
            if isinstance(change, Filed):
                state[change.message.id] = False
            elif isinstance(change, Seen):
                state |= dict.fromkeys(change.messages, change.seen)
            else:
                for id in change.messages:
                    del state[id]
        there = (await house.list(box, limit=1000)).messages
        assert {message.id: message.seen for message in there} == state
        assert (found.messages, found.unseen) == (len(state), list(state.values()).count(False))


@pytest_twisted.ensureDeferred
async def test_a_message_that_is_damaged_in_the_store_is_in_nobody_elses_way(house):
    mailbox = await house.mailbox()
    items = [house.item(mailbox, subject=f"{n}", text="find me") for n in range(3)]
    damaged = (await house.file(*items)).filed[1].message

    async def change(tx):
        (data,) = await tx.row("select data from content where id = ?", (items[1].spooled.id,))
        await tx.execute(
            "update content set data = ? where id = ?", (data[:-9] + b"#" + data[-8:], items[1].spooled.id)
        )

    await house.database.unit(change)
    with pytest.raises(Damaged, match="frame"):
        await house.read(messages.find, house.account, damaged.id)
    found = await house.list(mailbox, Criteria(contains="find me"))
    assert [message.subject for message in found.messages] == ["0", "2"]
    assert len((await house.list(mailbox)).messages) == 3
    assert len(await house.delete(mailbox, None)) == 1


@pytest_twisted.ensureDeferred
async def test_a_search_of_many_texts_finds_each_in_order(house):
    mailbox = await house.mailbox()
    texts = [f"text of {n} {'even' if n % 2 == 0 else 'odd'}" for n in range(300)]
    await house.file(*[house.item(mailbox, subject=f"{n}", text=text) for n, text in enumerate(texts)])
    found = await house.list(mailbox, Criteria(contains="even"), limit=1000)
    assert [int(message.subject) for message in found.messages] == list(range(0, 300, 2))
    first = await house.list(mailbox, Criteria(contains="even"), order="desc", limit=7)
    assert [int(message.subject) for message in first.messages] == list(range(298, 284, -2))
    rest = await house.list(mailbox, Criteria(contains="odd"), order="desc", before=first.next, limit=2)
    assert [int(message.subject) for message in rest.messages] == [283, 281]
