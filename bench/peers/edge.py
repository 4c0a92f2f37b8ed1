"""mailfarm's SMTP edge alone, with a queue that keeps nothing: what smtp-sink does, in Python."""

from __future__ import annotations

from children import edge

from peers.base import Peer


class MailfarmEdge(Peer):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("mailfarm edge", "thrown away")

    def start(self) -> None:
        child = self._running.enter_context(edge())
        self.smtp, self.parts = child.smtp, {"edge": child.pid}
