"""A port that takes SMTP: PROXY header, then TLS, then SMTP, as far as each is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError

from mailfarm.config import Address
from mailfarm.errors import ConfigurationError

from .fast_tcp import FastEndpoint
from .fast_tls import FastTlsFactory
from .proxy import ProxyFactory
from .smtp_server import SMTPFactory


class Listener:
    """One address and the sessions that come in on it. ``setting`` names the variable that moves it elsewhere."""

    def __init__(
        self,
        address: Address,
        factory: SMTPFactory,
        *,
        setting: str,
        proxy_from: Iterable[IPv4Network | IPv6Network] = (),
        proxy_v1: bool = False,
    ) -> None:
        self.asked = address
        self.factory = factory
        self.setting = setting
        self._port: Any = None
        self._proxy: ProxyFactory | None = None
        self._outermost: Any = factory
        if factory.implicit_tls:
            if factory.tls is None:
                raise ConfigurationError([f"{setting}: implicit TLS needs a certificate"])
            tls: Any = factory.tls
            inner: Any = factory
            self._outermost = FastTlsFactory(tls, False, inner, factory.reactor)
        networks = tuple(proxy_from)
        if networks:
            self._proxy = ProxyFactory(self._outermost, networks, factory.reactor, v1=proxy_v1)
            self._outermost = self._proxy

    @property
    def address(self) -> Address:
        """Where it listens: the port that was found when 0 was asked for."""
        if self._port is None:
            return self.asked
        here = self._port.getHost()
        return Address(here.host, here.port)

    async def start(self) -> None:
        """Listen. Raises ConfigurationError: the port is in use, or may not be taken."""
        host = "127.0.0.1" if self.asked.host == "localhost" else self.asked.host
        try:
            self._port = await FastEndpoint(self.factory.reactor, host, self.asked.port).listen(self._outermost)
        except CannotListenError as error:
            why = getattr(error.socketError, "strerror", None) or str(error.socketError)
            raise ConfigurationError(
                [f"cannot listen on {self.asked}: {why}. Stop what holds it, or set {self.setting} to another address"]
            ) from None

    async def stop_listening(self) -> None:
        """Close the port; sessions go on."""
        port, self._port = self._port, None
        if port is not None:
            self.asked = Address(port.getHost().host, port.getHost().port)
            await maybeDeferred(port.stopListening)
        if self._proxy is not None:
            self._proxy.abort_waiting()

    async def stop(self, grace: float) -> None:
        """Close the port, then let sessions finish for at most ``grace`` seconds."""
        await self.stop_listening()
        await self.factory.drain(grace)
