"""mailfarm's SMTP edge alone: its sessions on its sockets, with a service that says yes and a queue that keeps nothing.

    bench/edge.py [--tls CERTIFICATE KEY]

What is left is the price of speaking SMTP; compare with ``smtp-sink``, which does the same in C. Prints its port, and
with ``--tls`` also one for implicit TLS; the first then offers STARTTLS.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred

from mailfarm.config import Address
from mailfarm.mail.envelope import Envelope
from mailfarm.mail.reply import Reply
from mailfarm.net import lean_poll
from mailfarm.net.content import SpillContent
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import SMTPFactory
from mailfarm.net.smtp_session import Answer, Connection
from mailfarm.net.tls import KeyPair, ServerTls
from mailfarm.smtp.config import ServerConfig
from mailfarm.smtp.requests import Auth, Discarded, Hello, Mail, Rcpt, Refused

_FREE = Address("127.0.0.1", 0)
_GREETING = Reply(220, "", "localhost ESMTP")
_SENDER = Reply(250, "2.1.0", "Ok")
_RECIPIENT = Reply(250, "2.1.5", "Ok")
_GO = Reply(354, "", "Go ahead")
_DONE = Reply(250, "2.0.0", "Thrown away")
_NO = Reply(503, "5.5.1", "No")


class Yes:
    """A session's decisions: all of them yes."""

    def __init__(self, connection: Connection) -> None:
        pass

    def connected(self) -> Answer:
        return _GREETING

    def hello(self, request: Hello) -> Answer:
        return _SENDER

    def authenticate(self, request: Auth) -> Answer:
        return _NO

    def mail(self, request: Mail) -> Answer:
        return _SENDER

    def rcpt(self, request: Rcpt) -> Answer:
        return _RECIPIENT

    def data(self, envelope: Envelope) -> Answer:
        return _GO

    def content(self, envelope: Envelope, content: SpillContent) -> Answer:
        return _DONE

    def discarded(self, request: Discarded) -> None:
        pass

    def refused(self, request: Refused) -> None:
        pass

    def lost(self) -> None:
        pass


def main() -> None:
    """Listen on a free loopback port until SIGTERM."""
    lean_poll.install()
    from twisted.internet import reactor as _reactor  # importing it installs it

    reactor: Any = _reactor
    metrics = SMTPMetrics(CollectorRegistry(), "mx")
    tls = ServerTls(KeyPair(*map(Path, sys.argv[2:4]))) if sys.argv[1:2] == ["--tls"] else None
    config = ServerConfig("localhost", starttls=tls is not None)
    ports = {"capture": Listener(_FREE, SMTPFactory(config, Yes, reactor, metrics, tls=tls), setting="none")}
    if tls is not None:
        implicit = SMTPFactory(ServerConfig("localhost"), Yes, reactor, metrics, tls=tls, implicit_tls=True)
        ports["tls"] = Listener(_FREE, implicit, setting="none")

    async def start() -> None:
        for listener in ports.values():
            await listener.start()
        print(json.dumps({"smtp": {name: str(listener.address) for name, listener in ports.items()}}), flush=True)

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(start()))
    reactor.run()


if __name__ == "__main__":
    main()
