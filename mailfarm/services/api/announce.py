"""Tells the bus what a request has changed: whoever watches the mailbox, and whoever watches its account."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mailfarm.events import Change, MailboxClosed, MailboxOpened
from mailfarm.ports import Bus

Announce = Callable[[Iterable[Change | MailboxOpened | MailboxClosed]], None]


def announcer(bus: Bus) -> Announce:
    """A function that publishes events, each on the topic of its mailbox and on that of its account."""

    def announce(events: Iterable[Change | MailboxOpened | MailboxClosed]) -> None:
        for event in events:
            bus.publish(event.mailbox, event)
            bus.publish(f"account:{event.account}", event)

    return announce
