"""TLS for servers over Twisted's, in fewer steps.

Twisted's own gathers writes until the next pass of the reactor, for protocols that write in many pieces; a session here
writes once, so that costs a timer and a pass each time. And it asks OpenSSL for more until an exception says that there
is none, twice for whatever comes in. Records say their length (RFC 8446 §5.1), so they are counted as they go by: so
many whole ones are there to be read, and OpenSSL has something to say of its own only if one of them held nothing for
the protocol above.
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

_HEADER: Final = 5  # type, version, two octets of length
_RECORD: Final = 16 * 1024  # octets of plain text in a record at most
_LONGEST: Final = _RECORD + 2048  # of anything, with what TLS 1.2 allows for encryption (RFC 5246 §6.2.3)


class FastTls(TLSMemoryBIOProtocol):
    """One connection's TLS. It does not say that it provides what the transport below does: nobody asks here."""

    _head = b""
    """The beginning of a record's header, until the rest of it comes."""
    _rest = 0
    """Octets of the record under way that are still to come."""

    def makeConnection(self, transport: Any) -> None:
        self._tlsConnection = self.factory._creatorCallable(self)
        self._appSendBuffer: list[bytes] = []
        self.transport = transport
        self.connected = 1
        self.factory.registerProtocol(self)
        if self._connectWrapped:
            above: Any = self.wrappedProtocol  # zope's interfaces are not types to mypy
            above.makeConnection(self)
        self._checkHandshakeStatus()

    def dataReceived(self, data: bytes) -> None:
        whole = self._count(data)
        if not self._handshakeDone or self._appSendBuffer:
            super().dataReceived(data)
            return
        connection = self._tlsConnection
        connection.bio_write(data)
        receive = connection.recv
        above: Any = self.wrappedProtocol
        while whole and not self._lostTLSConnection:
            whole -= 1
            try:
                plain = receive(_RECORD)
            except WantReadError:
                break
            except ZeroReturnError:
                self._shutdownTLS()
                self._tlsShutdownFinished(None)
                return
            except Error:
                self._tlsShutdownFinished(Failure())
                return
            if not self._aborted:
                above.dataReceived(plain)
        else:
            return
        self._flushReceiveBIO()  # a record without content: new keys, for one, that want an answer

    def _count(self, data: bytes) -> int:
        """How many records end in what has come."""
        at, end = self._rest, len(data)
        if not self._head and at > end:
            self._rest -= end
            return 0
        whole = 0
        if self._rest:
            whole = 1
        elif self._head:
            data = self._head + data
            end = len(data)
        while end - at >= _HEADER:
            size = data[at + 3] << 8 | data[at + 4]
            # what cannot be a record is an error to OpenSSL at once, without the rest of it
            at += _HEADER + (size if size <= _LONGEST else 0)
            whole += 1
        if at > end:
            whole -= 1
            self._head = b""
            self._rest = at - end
        else:
            self._head = data[at:]
            self._rest = 0
        return whole


class FastTlsFactory(TLSMemoryBIOFactory):
    """``FastTls`` above ``wrappedFactory``'s protocols."""

    protocol = FastTls
