"""Postfix's smtp-sink: C, one process, throws everything away. The ceiling."""

from __future__ import annotations

from children import smtp_sink

from peers.base import Missing, Peer


class SmtpSink(Peer):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("smtp-sink", "thrown away")

    def start(self) -> None:
        child = smtp_sink()
        if child is None:
            raise Missing("no smtp-sink: .ci/setup bench fetches Debian's package postfix")
        self._running.enter_context(child)
        self.smtp, self.parts = child.smtp, {"smtp-sink": child.pid}
