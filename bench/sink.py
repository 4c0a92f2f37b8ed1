"""Servers to measure against: Postfix's smtp-sink, and a trivial sink of our own. Both throw away what they get.

``smtp-sink`` is the yardstick: C, no storage, one process. It is looked for in ``PATH``, in ``/usr/sbin`` and in
``.make/postfix`` (where ``make bench`` unpacks Debian's package). The trivial sink knows just enough to answer the
generator and is there to find the generator's own ceiling where no smtp-sink can be had.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_REPLIES = (
    (b"MAIL", b"250 2.1.0 Ok\r\n"),
    (b"RCPT", b"250 2.1.5 Ok\r\n"),
    (b"DATA", b"354 End data with <CR><LF>.<CR><LF>\r\n"),
    (b"EHLO", b"250-sink\r\n250 PIPELINING\r\n"),
    (b"QUIT", b"221 2.0.0 Bye\r\n"),
)


def find_smtp_sink() -> tuple[Path, dict[str, str]] | None:
    """The program and the environment it needs, or None."""
    found = shutil.which("smtp-sink") or shutil.which("smtp-sink", path="/usr/sbin")
    if found:
        return Path(found), {}
    unpacked = _ROOT / ".make" / "postfix"
    program = unpacked / "usr" / "sbin" / "smtp-sink"
    if not program.exists():
        return None
    return program, {"LD_LIBRARY_PATH": str(unpacked / "usr" / "lib" / "postfix")}


def smtp_sink_command(program: Path, port: int) -> list[str]:
    """How to run it on a loopback port; as root it insists on becoming someone else."""
    as_whom = ["-u", "nobody"] if os.geteuid() == 0 else []
    return [str(program), *as_whom, "-m", "2000", f"127.0.0.1:{port}", "1000"]


class TrivialSink:
    """Our own sink, in a process of its own, for as long as the context lasts. Enters as the port."""

    def __enter__(self) -> int:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE)
        assert self._process.stdout
        return int(self._process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _serve(listener: socket.socket) -> None:
    print(listener.getsockname()[1], flush=True)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    peers: dict[int, socket.socket] = {}
    content: dict[int, bytes] = {}  # the last octets of content under way
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                peer, _address = listener.accept()
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peers[peer.fileno()] = peer
                poll.register(peer.fileno(), select.EPOLLIN)
                peer.send(b"220 sink ESMTP\r\n")
                continue
            peer = peers[fd]
            try:
                data = peer.recv(65536)
            except OSError:
                data = b""
            if not data:
                poll.unregister(fd)
                peers.pop(fd).close()
                content.pop(fd, None)
                continue
            if fd in content:
                tail = content[fd] + data[-5:] if len(data) < 5 else data[-5:]
                if tail.endswith(b"\r\n.\r\n"):
                    del content[fd]
                    peer.send(b"250 2.0.0 Ok\r\n")
                else:
                    content[fd] = tail[-5:]
                continue
            answer = b"".join([_answer(line) for line in re.split(rb"\r\n", data) if line])
            if answer.endswith(b"<CR><LF>.<CR><LF>\r\n"):
                content[fd] = b""
            peer.send(answer)


def _answer(line: bytes) -> bytes:
    verb = line[:4]
    for known, reply in _REPLIES:
        if verb == known:
            return reply
    return b"500 5.5.1 What?\r\n"


if __name__ == "__main__":
    _serve(socket.create_server(("127.0.0.1", 0), backlog=1000))
