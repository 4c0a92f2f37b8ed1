"""MailDev: what Node projects catch mail with in development. It parses each mail and writes it to a file, unsynced."""

from __future__ import annotations

import json
import re
import time
import urllib.request

from children import Child, maildev

from peers.base import Missing, Peer, Sent

_ID = re.compile(r"-(\d+)@")


class MailDev(Peer):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("MailDev", "parsed, in a file, not synced", keeps=True)
        self._child: Child

    def start(self) -> None:
        child = maildev()
        if child is None:
            raise Missing("MailDev is not installed: .ci/setup bench (needs node and npm)")
        self._child = self._running.enter_context(child)
        self.smtp, self.parts = child.smtp, {"MailDev": child.pid}

    def settled(self, sent: Sent, seconds: float) -> float:
        """Its 250 comes when the mail is readable."""
        return sent.last

    def check(self, sent: Sent) -> str:
        deadline = time.monotonic() + 10
        while missing := set(sent.numbers) - self._there(sent.label):
            if time.monotonic() > deadline:
                return f"{len(missing)} acknowledged messages are not listed"
        return ""

    def _there(self, label: str) -> set[int]:
        with urllib.request.urlopen(f"{self._child.http}/api/email", timeout=60) as answer:
            listed = json.load(answer)
        ids = (str(one["headers"].get("message-id", "")) for one in listed)
        return {int(found[1]) for one in ids if label in one and (found := _ID.search(one))}

    def clean(self) -> None:
        request = urllib.request.Request(f"{self._child.http}/api/email/all", method="DELETE")
        urllib.request.urlopen(request, timeout=60).close()
