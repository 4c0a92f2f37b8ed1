"""One connection of the load generator: a socket that never blocks, TLS if asked for, and the dialog on top."""

from __future__ import annotations

import errno
import socket
import ssl

from smtp_dialog import Dialog

_READ = 65536


class Connection:
    """``pending`` is what the kernel has not taken yet; the rest are the generator's notes about the running message.

    Methods raise OSError (``ssl.SSLError`` is one) when the connection is no good any more.
    """

    __slots__ = (
        "begun",
        "busy",
        "dialog",
        "dot_at",
        "due",
        "handshaking",
        "idle",
        "mail_size",
        "moved",
        "number",
        "pending",
        "sock",
        "tls",
        "tls_in",
        "tls_out",
        "watching",
    )

    def __init__(self, dialog: Dialog, sock: socket.socket, pending: bytes) -> None:
        self.dialog = dialog
        self.sock = sock
        self.pending = pending
        self.tls: ssl.SSLObject | None = None
        self.tls_in = self.tls_out = ssl.MemoryBIO()
        self.busy = self.idle = self.handshaking = False
        self.watching = 0
        self.begun = self.due = self.dot_at = self.moved = 0.0
        self.mail_size = self.number = 0

    def receive(self) -> bytes | None:
        """What has come, as plain text; None at the end of the connection; empty if there is nothing for the dialog."""
        try:
            data = self.sock.recv(_READ)
        except BlockingIOError:
            return b""
        if not data:
            return None
        return data if self.tls is None else self._decrypt(data)

    def flush(self) -> None:
        """Hand to the kernel what the dialog has to say and what is left from before."""
        data = self.dialog.output()
        if self.tls is not None:
            if data:
                self.tls.write(data)
            data = self.tls_out.read()
        if self.pending:
            data = self.pending + data if data else self.pending
            self.pending = b""
        if not data:
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # not yet connected
                raise
            sent = 0
        if sent < len(data):
            self.pending = data[sent:]

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Begin the handshake; what it sends goes out with ``flush``."""
        self.tls_in, self.tls_out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.tls_in, self.tls_out, server_side=False)
        self.handshaking = True
        self._handshake(self.tls)

    def _handshake(self, tls: ssl.SSLObject) -> None:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            self.handshaking = False
            if self.dialog.secure:
                self.dialog.secured()
        self.pending += self.tls_out.read()

    def _decrypt(self, data: bytes) -> bytes:
        tls = self.tls
        assert tls is not None
        self.tls_in.write(data)
        if self.handshaking:
            self._handshake(tls)
            if self.handshaking:
                return b""
        plain = []
        try:
            while piece := tls.read(_READ):
                plain.append(piece)
        except ssl.SSLWantReadError:
            pass
        return b"".join(plain)
