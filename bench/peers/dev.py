"""``mailfarm dev``: everything in one process, SQLite, synced before 250; readable over its API."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from typing import Any

from children import Child, Farm

from peers.base import INBOX, Peer, Sent

_ID = re.compile(r"-(\d+)@")


class MailfarmDev(Peer):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("mailfarm dev", "in SQLite, synced", keeps=True)
        self._child: Child
        self._before = 0

    def start(self) -> None:
        self._child = child = self._running.enter_context(Farm())
        self.smtp, self.parts = child.smtp, {"mailfarm dev": child.pid}
        (inbox,) = self._get(f"/v1/mailboxes?address={INBOX}")["mailboxes"]
        self._path = f"/v1/mailboxes/{inbox['id']}"

    def ready(self) -> None:
        self._before = self._count()

    def settled(self, sent: Sent, seconds: float) -> float:
        deadline = time.monotonic() + seconds
        while self._count() < self._before + len(sent.numbers):
            if time.monotonic() > deadline:
                raise SystemExit("mailfarm dev acknowledged more than became readable in time")
            time.sleep(0.01)
        return time.monotonic()

    def check(self, sent: Sent) -> str:
        there: set[int] = set()
        before = ""
        while before is not None and len(there) < len(sent.numbers):
            page = self._get(f"{self._path}/messages?order=desc&limit=1000{before}")
            ids = [str(one["message_id"]) for one in page["messages"]]
            there |= {int(found[1]) for one in ids if sent.label in one and (found := _ID.search(one))}
            if page["next"] is None:
                break
            before = f"&before={page['next']}"
        missing = len(set(sent.numbers) - there)
        return f"{missing} acknowledged messages are not listed" if missing else ""

    def _count(self) -> int:
        return int(self._get(self._path)["messages"])

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self._child.http + path, timeout=30) as answer:
            form: dict[str, Any] = json.load(answer)
            return form
