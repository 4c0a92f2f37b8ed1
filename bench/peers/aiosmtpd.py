"""aiosmtpd: SMTP on asyncio, in Python as mailfarm is; it throws everything away."""

from __future__ import annotations

import sys

from children import ROOT, Child, free_port

from peers.base import Missing, Peer

_PACKAGES = ROOT / ".make" / "peers" / "python"


class Aiosmtpd(Peer):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("aiosmtpd", "thrown away")

    def start(self) -> None:
        if not (_PACKAGES / "aiosmtpd").exists():
            raise Missing("aiosmtpd is not installed: .ci/setup bench (needs pip and a registry)")
        self.smtp = free_port()
        command = [sys.executable, "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{self.smtp}", "-s", "52428800"]
        child = Child("aiosmtpd", [*command, "-c", "aiosmtpd.handlers.Sink"], {"PYTHONPATH": str(_PACKAGES)})
        self._running.enter_context(child)
        child.wait_for_port(self.smtp)
        self.parts = {"aiosmtpd": child.pid}
