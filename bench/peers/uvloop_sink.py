"""A sink that speaks SMTP over TLS on asyncio and uvloop: it knows just enough to answer, and throws everything away.

    python bench/peers/uvloop_sink.py CERTIFICATE KEY

The yardstick for TLS: the least that Python's usual way to it can cost. Prints its port for implicit TLS and whether
uvloop is there.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

_REPLIES = {
    b"EHLO": b"250-sink\r\n250 PIPELINING\r\n",
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RCPT": b"250 2.1.5 Ok\r\n",
    b"DATA": b"354 End data with <CR><LF>.<CR><LF>\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}


class Sink(asyncio.Protocol):
    """One session."""

    transport: Any

    def __init__(self) -> None:
        self.buffer = b""
        self.content = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data if self.buffer else data
        self.buffer = b""
        replies = []
        while data:
            end = data.find(b"\r\n.\r\n" if self.content else b"\r\n")
            if end < 0:
                self.buffer = data[-4:] if self.content else data
                break
            if self.content:
                data = data[end + 5 :]
                self.content = False
                replies.append(b"250 2.0.0 Ok\r\n")
                continue
            verb = data[:4]
            data = data[end + 2 :]
            self.content = verb == b"DATA"
            replies.append(_REPLIES.get(verb, b"500 5.5.1 What?\r\n"))
        if replies:
            self.transport.write(b"".join(replies))
            if replies[-1].startswith(b"221"):
                self.transport.close()


async def _serve(swift: bool, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.load_cert_chain(certificate, key)
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, ssl=context, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"tls": f"127.0.0.1:{port}", "uvloop": swift}), flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until SIGTERM."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(False, *sys.argv[1:3]))
    else:
        uvloop.run(_serve(True, *sys.argv[1:3]))


if __name__ == "__main__":
    main()
