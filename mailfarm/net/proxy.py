"""The PROXY protocol below SMTP and TLS: who the client is, said by the proxy in front of us.

haproxy's proxy-protocol.txt, version 2, and version 1 if a setting allows it; the proxy-protocol package decodes.

Only listed peers may speak it, and they must: one that begins with anything else is closed, and so is one that takes
longer than ``timeout``. Everyone else is a client that reached us directly, for whom a header is a protocol error:
to SMTP it is garbage, and so is a second header of a listed peer. The header is read once; what follows it, in the
same segment or later, belongs to the protocol above.

    endpoint.listen(ProxyFactory(SMTPFactory(...), trusted=networks, reactor=reactor))
    endpoint.listen(ProxyFactory(TLSMemoryBIOFactory(tls, False, SMTPFactory(...)), ...))   # PROXY, TLS, SMTP

Version 2: 12 octets of signature, version and command, family and protocol, two octets of length, then so many octets
of addresses and type-length-values. LOCAL (the proxy's own health check), AF_UNSPEC and AF_UNIX keep the socket's own
address (§2.2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from socket import inet_ntoa
from typing import Any, Final

from crc32c import crc32c
from proxyprotocol import ProxyProtocolChecksumError
from proxyprotocol.result import ProxyResult, ProxyResultIPv4, ProxyResultIPv6
from proxyprotocol.v1 import ProxyProtocolV1
from proxyprotocol.v2 import ProxyProtocolV2
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V1: Final = b"PROXY "
_V1_LONGEST: Final = 107  # §2.1, with CR LF
_FIXED: Final = 16
_TCP4: Final = b"\x21\x11\x00\x0c"  # version 2, PROXY; TCP over IPv4; addresses and nothing else: what proxies say
_TCP4_ADDRESSES: Final = struct.Struct("!4s4xH2x")
_USUAL: Final = _FIXED + 12
_ADDRESSES: Final = {0: 0, 1: 12, 2: 36, 3: 216}  # octets of addresses by family, §2.2
_PP2_TYPE_CRC32C: Final = 0x03

_v1, _v2 = ProxyProtocolV1(), ProxyProtocolV2()


class BadHeader(ValueError):
    """What a listed peer sent is no PROXY header we take."""


@dataclass(frozen=True, slots=True)
class Header:
    """A decoded header: its ``length`` in octets, and the client's address and port; None: the socket's own hold."""

    length: int
    source: tuple[str, int] | None


def decode(data: bytes | bytearray, longest: int = 1024, v1: bool = False) -> Header | None:
    """The header at the start of ``data``, or None if more must come. Raises BadHeader.

    ``longest`` bounds what may follow the first 16 octets of version 2.
    """
    try:
        if data.startswith(SIGNATURE[: len(data)]):
            return _decode_v2(data, longest)
        if v1 and data.startswith(V1[: len(data)]):
            return _decode_v1(data)
    except (ValueError, struct.error, LookupError) as error:  # the package lets struct.error escape
        raise BadHeader(str(error) or type(error).__name__) from None
    raise BadHeader("it does not begin with a PROXY signature")


def _decode_v2(data: bytes | bytearray, longest: int) -> Header | None:
    if len(data) < _FIXED:
        return None
    if len(data) >= _USUAL and data[12:_FIXED] == _TCP4:
        source, port = _TCP4_ADDRESSES.unpack_from(data, _FIXED)
        return Header(_USUAL, (inet_ntoa(source), port))
    fixed = bytes(data[:_FIXED])
    header = _v2.unpack_header(fixed)
    if header.data_len > longest:
        raise BadHeader(f"it says {header.data_len} octets follow; at most {longest} are taken")
    length = _FIXED + header.data_len
    if len(data) < length:
        return None
    if header.command is None:
        raise BadHeader(f"command {fixed[12] & 15} is unknown")
    if header.command == "local":
        return Header(length, None)  # §2.2: whatever the family, and what follows is skipped
    family, protocol = fixed[13] >> 4, fixed[13] & 15
    if family not in _ADDRESSES or protocol > 2:
        raise BadHeader(f"family {family} with protocol {protocol} is reserved")
    if family and protocol == 2:
        raise BadHeader("it speaks of datagrams")
    rest = bytes(data[_FIXED:length])  # exactly: the package takes what comes behind for type-length-values
    checked = _check(fixed, rest, _ADDRESSES[family])
    try:
        result = _v2.unpack_data(header, fixed, rest)
    except ProxyProtocolChecksumError as error:
        # The package sorts the values before it sums them up; haproxy sends the checksum first, so it would never fit.
        if not checked:
            raise
        result = error.result
    return _header(length, result)


def _check(fixed: bytes, rest: bytes, addresses: int) -> bool:
    """Walk the type-length-values and verify the checksum (§2.2.3). Whether there was one; raises BadHeader."""
    at = addresses
    found: int | None = None
    while at < len(rest):
        if at + 3 > len(rest):
            raise BadHeader("a type-length-value is cut short")
        kind, size = struct.unpack_from("!BH", rest, at)
        at += 3
        if at + size > len(rest):
            raise BadHeader("a type-length-value is longer than the header")
        if kind == _PP2_TYPE_CRC32C:
            if size != 4 or found is not None:
                raise BadHeader("its checksum is not one of four octets")
            found = at
        at += size
    if found is None:
        return False
    told = int.from_bytes(rest[found : found + 4], "big")
    if crc32c(fixed + rest[:found] + bytes(4) + rest[found + 4 :]) != told:
        raise BadHeader("its CRC32C does not fit")
    return True


def _decode_v1(data: bytes | bytearray) -> Header | None:
    end = data.find(b"\r\n", 0, _V1_LONGEST)
    if end < 0:
        if len(data) >= _V1_LONGEST:
            raise BadHeader(f"a version 1 header has at most {_V1_LONGEST} octets")
        return None
    return _header(end + 2, _v1.unpack_line(bytes(data[: end + 2])))


def _header(length: int, result: ProxyResult) -> Header:
    if isinstance(result, (ProxyResultIPv4, ProxyResultIPv6)):
        return Header(length, _address(*result.source))
    return Header(length, None)


def _address(ip: Any, port: int) -> tuple[str, int]:
    return str(getattr(ip, "ipv4_mapped", None) or ip), port


class ProxyFactory(ServerFactory):
    """Reads the header of listed peers and then hands the connection to ``wrapped``.

    ``timeout`` is in seconds and counts from the connection; ``longest`` is in octets.
    """

    noisy = False

    def __init__(
        self,
        wrapped: ServerFactory,
        trusted: Iterable[IPv4Network | IPv6Network],
        reactor: Any,
        *,
        timeout: float = 5.0,
        longest: int = 1024,
        v1: bool = False,
    ) -> None:
        self.wrapped = wrapped
        self.trusted = tuple(trusted)
        self.reactor = reactor
        self.timeout = timeout
        self.longest = longest
        self.v1 = v1
        self.waiting: set[ProxyProtocol] = set()
        self._trusts = lru_cache(maxsize=256)(self._is_trusted)

    def doStart(self) -> None:
        super().doStart()
        self.wrapped.doStart()

    def doStop(self) -> None:
        self.wrapped.doStop()
        super().doStop()

    def buildProtocol(self, addr: Any) -> Any:
        return ProxyProtocol(self) if self._trusts(addr.host) else self.wrapped.buildProtocol(addr)

    def _is_trusted(self, host: str) -> bool:
        ip = ip_address(host.partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in network for network in self.trusted)

    def abort_waiting(self) -> None:
        """Close the connections that have not said their header yet (when draining)."""
        for protocol in tuple(self.waiting):
            protocol.transport.abortConnection()


class ProxyProtocol(Protocol):
    """Waits for the header, then steps out of the way: later octets do not pass through here."""

    log = Logger()
    transport: Any

    def __init__(self, factory: ProxyFactory) -> None:
        self.factory: ProxyFactory = factory
        self._data = bytearray()
        self._timer: Any = None

    def connectionMade(self) -> None:
        self.factory.waiting.add(self)
        self._timer = self.factory.reactor.callLater(self.factory.timeout, self._too_late)

    def _too_late(self) -> None:
        self._timer = None
        self._refuse(f"no header within {self.factory.timeout:g} s")

    def _refuse(self, why: str) -> None:
        self.log.warn(
            "PROXY header of {peer} refused: {why}; the connection is closed",
            peer=self.transport.getPeer().host,
            why=why,
        )
        self._done()
        self.transport.abortConnection()

    def _done(self) -> None:
        self.factory.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        try:
            header = decode(self._data, self.factory.longest, self.factory.v1)
        except BadHeader as error:
            self._refuse(str(error))
            return
        if header is None:
            return
        self._done()
        transport: Any = self.transport
        if header.source is not None:
            # What tcp.Server's getPeer is made of; a TLS layer above asks that too.
            transport.client = header.source
            family = IPv6Address if ":" in header.source[0] else IPv4Address
            if transport._addressType is not family:  # an attribute more is half a KiB more, for each connection
                transport._addressType = family
        rest = bytes(self._data[header.length :])
        inner = self.factory.wrapped.buildProtocol(transport.getPeer())
        if inner is None:
            transport.abortConnection()
            return
        transport.protocol = inner
        inner.makeConnection(transport)
        if rest and not transport.disconnecting:
            transport.protocol.dataReceived(rest)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # without Twisted's default
        self._done()
