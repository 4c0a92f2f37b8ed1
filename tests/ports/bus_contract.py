"""What every implementation of the Bus port keeps.

A subclass gives ``open_bus()`` and ``close_bus(bus)``. A bus may tell later than ``publish`` returns: the tests wait.
"""

from __future__ import annotations

import pytest_twisted
from spooled_samples import IDS, clock, until
from twisted.logger import globalLogPublisher

from mailfarm.events import Filed, FiledAlike, MailboxClosed, Person, Refused, Seen, Summary


def alike(boxes, account="account"):
    """Events of one mail that was filed into so many mailboxes: box0, box1 ..."""
    summary = Summary("", "", 0, 1, "a@x", (), Person("Ü", "a@x"), (), (), "s\n", "t", "<i>", 9, 0)
    made = FiledAlike(account, clock(), summary)
    for number in range(boxes):
        made.add(IDS.new(), IDS.new(), f"box{number}", number + 1, (f"{number}@x",), "first" if number % 2 else None)
    return made


def closed(mailbox="box"):
    return MailboxClosed(IDS.new(), "account", mailbox, clock(), "inbox@mailfarm.test")


class BusContract:
    async def open_bus(self):
        raise NotImplementedError

    async def close_bus(self, bus): ...

    @pytest_twisted.async_yield_fixture
    async def bus(self):
        bus = await self.open_bus()
        yield bus
        await self.close_bus(bus)

    @pytest_twisted.ensureDeferred
    async def test_a_listener_hears_what_is_published_in_order(self, bus):
        heard = []
        await bus.subscribe("box", heard.append)
        events = [closed() for _ in range(100)]
        for event in events:
            bus.publish("box", event)
        await until(lambda: len(heard) == 100)
        assert heard == events

    @pytest_twisted.ensureDeferred
    async def test_every_kind_of_event_arrives_as_it_was(self, bus):
        heard = []
        await bus.subscribe("box", heard.append)
        summary = Summary(
            "m",
            "box",
            7,
            1,
            "",
            ("a@x",),
            Person("Ü", "a@x"),
            (),
            (Person("", "b@x"),),
            "s",
            "t",
            "<i>",
            9,
            0,
            True,
            "d",
        )
        events = [
            Filed("e1", "a", "box", 7, 1, summary),
            Seen("e2", "a", "box", 8, 2, ("m", "n"), False),
            Refused("e3", "", 3, "mx", "::1", "a@x", "", 550, "5.1.1", "no", ("C: RCPT", "S: 550")),
            closed(),
        ]
        for event in events:
            bus.publish("box", event)
        await until(lambda: len(heard) == len(events))
        assert heard == events

    @pytest_twisted.ensureDeferred
    async def test_who_listens_to_some_of_what_is_alike_hears_that_and_in_order(self, bus):
        one, other, account, elsewhere = [], [], [], []
        await bus.subscribe("box3", one.append)
        await bus.subscribe("box1201", other.append)
        await bus.subscribe("account:mine", account.append)
        await bus.subscribe("account:yours", elsewhere.append)
        mine, yours = alike(1300, "mine"), alike(10, "yours")  # more than one call carries
        bus.publish("box3", before := closed())
        bus.publish_alike(mine, "account:mine")
        bus.publish_alike(yours, "account:yours")
        bus.publish("box3", after := closed())
        await until(lambda: len(one) == 4 and len(elsewhere) == 10)
        assert one == [before, mine.event(3), yours.event(3), after]
        assert other == [mine.event(1201)]
        assert account == [mine.event(number) for number in range(1300)]
        assert elsewhere == [yours.event(number) for number in range(10)]

    @pytest_twisted.ensureDeferred
    async def test_topics_are_apart(self, bus):
        one, two = [], []
        await bus.subscribe("one", one.append)
        await bus.subscribe("two", two.append)
        bus.publish("one", first := closed())
        bus.publish("two", second := closed())
        bus.publish("three", closed())
        await until(lambda: one and two)
        assert (one, two) == ([first], [second])

    @pytest_twisted.ensureDeferred
    async def test_everyone_who_listens_hears(self, bus):
        heard = [[] for _ in range(5)]
        for each in heard:
            await bus.subscribe("account:1", each.append)
        bus.publish("account:1", event := closed())
        await until(lambda: all(heard))
        assert heard == [[event]] * 5

    @pytest_twisted.ensureDeferred
    async def test_publishing_to_nobody_is_nothing(self, bus):
        bus.publish("nobody", closed())

    @pytest_twisted.ensureDeferred
    async def test_who_stopped_hears_no_more(self, bus):
        stopped, other = [], []
        subscription = await bus.subscribe("box", stopped.append)
        await bus.subscribe("box", other.append)
        bus.publish("box", first := closed())
        await until(lambda: stopped and other)
        subscription.stop()
        subscription.stop()
        bus.publish("box", closed())
        await until(lambda: len(other) == 2)
        assert stopped == [first]

    @pytest_twisted.ensureDeferred
    async def test_who_comes_again_hears_again(self, bus):
        heard = []
        (await bus.subscribe("box", heard.append)).stop()
        await bus.subscribe("box", heard.append)
        bus.publish("box", closed())
        await until(lambda: heard)
        assert len(heard) == 1

    @pytest_twisted.ensureDeferred
    async def test_the_same_listener_twice_hears_twice(self, bus):
        heard = []
        first = await bus.subscribe("box", heard.append)
        await bus.subscribe("box", heard.append)
        bus.publish("box", closed())
        await until(lambda: len(heard) == 2)
        first.stop()
        bus.publish("box", closed())
        await until(lambda: len(heard) == 3)

    @pytest_twisted.ensureDeferred
    async def test_a_listener_that_raises_is_logged_and_harms_nobody(self, bus):
        heard, logged = [], []

        def bad(event):
            raise ValueError("a bad listener")

        globalLogPublisher.addObserver(logged.append)
        try:
            await bus.subscribe("box", bad)
            await bus.subscribe("box", heard.append)
            bus.publish("box", closed())
            bus.publish("box", closed())
            await until(lambda: len(heard) == 2)
        finally:
            globalLogPublisher.removeObserver(logged.append)
        assert any("a bad listener" in str(entry.get("log_failure")) for entry in logged)

    @pytest_twisted.ensureDeferred
    async def test_listeners_may_stop_while_they_are_told(self, bus):
        heard = []
        subscriptions = []

        def once(event):
            heard.append(event)
            for subscription in subscriptions:
                subscription.stop()

        for _ in range(3):
            subscriptions.append(await bus.subscribe("box", once))
        bus.publish("box", closed())
        await until(lambda: heard)
        last = []
        await bus.subscribe("box", last.append)
        bus.publish("box", closed())
        await until(lambda: last)
        assert len(heard) == 1

    @pytest_twisted.ensureDeferred
    async def test_listeners_may_subscribe_and_publish_while_they_are_told(self, bus):
        inner, outer = [], []

        def hear(event):
            outer.append(event)
            if len(outer) == 1:
                bus.subscribe("other", inner.append)
                bus.publish("box", closed())

        await bus.subscribe("box", hear)
        bus.publish("box", closed())
        await until(lambda: len(outer) == 2)
        bus.publish("other", closed())
        await until(lambda: inner)
