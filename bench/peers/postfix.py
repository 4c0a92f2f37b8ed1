"""Postfix's own queue: smtpd and cleanup, each message a synced file, held there so that nothing is delivered.

Debian's package is unpacked in ``.make/postfix`` and never installed; a configuration, queue and log of its own are in
a folder that is deleted at the end. Its master has to be started by root. It runs as two users that every Debian has
and nothing uses, for Postfix insists on users of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from children import ROOT, Child, free_port

from peers.base import Missing, Peer, Sent

_UNPACKED = ROOT / ".make" / "postfix"
_LIBRARIES = _UNPACKED / "usr" / "lib" / "postfix"
_OWNER, _GROUP = "news", "uucp"
_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = {libraries}/sbin
command_directory = {unpacked}/usr/sbin
shlib_directory = {libraries}
meta_directory = {folder}/etc
mail_owner = {owner}
setgid_group = {group}
default_privs = nobody
import_environment = LD_LIBRARY_PATH MAIL_CONFIG
export_environment = LD_LIBRARY_PATH MAIL_CONFIG
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = localhost
mydestination =
relay_domains = mailfarm.test
alias_maps =
mynetworks = 127.0.0.0/8
smtpd_peername_lookup = no
smtpd_client_restrictions = static:HOLD
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_recipient_limit = 2000
message_size_limit = 52428800
mailbox_size_limit = 0
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
"""
_MASTER = """\
127.0.0.1:{port} inet n - n - 200 smtpd
cleanup unix n - n - 0 cleanup
rewrite unix - - n - - trivial-rewrite
qmgr unix n - n 300 1 qmgr
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
proxymap unix - - n - - proxymap
error unix - - n - - error
"""
_OWNED = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "public")
_ID = re.compile(rb"Message-ID: <[^-]*-(\d+)@")


class Postfix(Peer):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("Postfix's queue", "in a file, synced", keeps=True)
        self._folder: Path

    def start(self) -> None:
        master = _LIBRARIES / "sbin" / "master"
        if not master.exists():
            raise Missing("no Postfix: .ci/setup bench fetches Debian's package postfix")
        if os.geteuid() != 0:
            raise Missing("Postfix's master starts as root only")
        self._folder = folder = Path(tempfile.mkdtemp(prefix="mailfarm-postfix-"))
        self._running.callback(shutil.rmtree, folder)
        self.smtp = free_port()
        _furnish(folder, self.smtp)
        environ = {"LD_LIBRARY_PATH": str(_LIBRARIES), "MAIL_CONFIG": f"{folder}/etc"}
        child = self._running.enter_context(Child("postfix", [str(master), "-c", f"{folder}/etc", "-d"], environ))
        child.wait_for_port(self.smtp)
        self.parts = {"Postfix": child.pid}

    def settled(self, sent: Sent, seconds: float) -> float:
        """Its 250 comes when the file is synced, which is when it can be read."""
        return sent.last

    def check(self, sent: Sent) -> str:
        files = (path for path in (self._folder / "queue" / "hold").rglob("*") if path.is_file())
        heads = (path.read_bytes()[:4000] for path in files)
        there = {int(found[1]) for one in heads if sent.label.encode() in one and (found := _ID.search(one))}
        missing = len(set(sent.numbers) - there)
        return f"{missing} acknowledged messages are not in the queue" if missing else ""

    def clean(self) -> None:
        for path in (self._folder / "queue" / "hold").rglob("*"):
            if path.is_file():
                path.unlink()


def _furnish(folder: Path, port: int) -> None:
    """Configuration and queue, as Postfix wants them owned."""
    folder.chmod(0o755)
    (folder / "etc").mkdir()
    words = {"folder": folder, "libraries": _LIBRARIES, "unpacked": _UNPACKED, "owner": _OWNER, "group": _GROUP}
    (folder / "etc" / "main.cf").write_text(_MAIN.format(**words))
    (folder / "etc" / "master.cf").write_text(_MASTER.format(port=port))
    (folder / "queue" / "pid").mkdir(parents=True)
    (folder / "data").mkdir()
    shutil.chown(folder / "data", _OWNER)
    for name in (*_OWNED, "maildrop", "saved", "trace"):
        path = folder / "queue" / name
        path.mkdir(mode=0o700)
        shutil.chown(path, _OWNER)
    for name, mode in (("public", 0o710), ("maildrop", 0o1730)):
        path = folder / "queue" / name
        shutil.chown(path, _OWNER, _GROUP)
        path.chmod(mode)
