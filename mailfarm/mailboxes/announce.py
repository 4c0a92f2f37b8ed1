"""Telling the bus what happened in a mailbox: to those who follow it, to those who watch its account, and, when it was
opened or closed, to all who may have looked it up before."""

from __future__ import annotations

from collections.abc import Iterable

from mailfarm.events import LOOKUP, Change, MailboxClosed, MailboxOpened
from mailfarm.ports import Bus

from .filing import Filing


def account_topic(account: str) -> str:
    """The topic of everything that happens in an account."""
    return f"account:{account}"


def announce_filed(bus: Bus, filing: Filing) -> None:
    """Publish what was filed, in order. Call it when the unit is durable, never before."""
    for mail in filing.alike:
        bus.publish_alike(mail, account_topic(mail.account))


def announce(bus: Bus, events: Iterable[Change | MailboxOpened | MailboxClosed]) -> None:
    """Publish ``events``, in order. Call it when the unit that made them is durable, never before."""
    for event in events:
        if isinstance(event, MailboxOpened | MailboxClosed):
            bus.publish(LOOKUP, event)
        bus.publish(event.mailbox, event)
        bus.publish(account_topic(event.account), event)
