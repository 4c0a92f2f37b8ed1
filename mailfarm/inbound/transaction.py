"""What a service knows of the transaction under way: MAIL, the recipients it took, and what it refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailfarm.mail.envelope import Envelope
from mailfarm.smtp.requests import Mail

from .refusals import Refusal, Refusals, Unclaimed

MOST_TOLD: Final = 10
"""Recipients told of when the whole message is refused."""


class Transaction:
    """``account`` is whose it is, empty while that is not known; ``mailboxes`` the ids, by recipient as it was said;
    ``taken`` how many RCPT were accepted, the same one again included, as the envelope has them."""

    __slots__ = ("_refusals", "account", "mailboxes", "sender", "smtputf8", "taken", "unclaimed")

    def __init__(self, request: Mail, account: str, refusals: Refusals) -> None:
        self.sender = request.sender
        self.smtputf8 = request.smtputf8
        self.account = account
        # By address, not by position: a look-up that was given up may still end after the next one.
        self.mailboxes: dict[str, str] = {}
        self.taken = 0
        self.unclaimed = Unclaimed(refusals)
        self._refusals = refusals

    def took(self, address: str, account: str, mailbox: str) -> None:
        """A recipient was accepted."""
        self.account = account
        self.mailboxes[address] = mailbox
        self.taken += 1
        self.unclaimed.claim(account, mailbox)

    def all_refused(self, envelope: Envelope, refusal: Callable[[str], Refusal]) -> None:
        """The message was refused, not one recipient: tell of each."""
        for recipient in envelope.recipients[:MOST_TOLD]:
            address = recipient.address
            self._refusals.tell(self.account, refusal(address), self.mailboxes.get(address, ""))
