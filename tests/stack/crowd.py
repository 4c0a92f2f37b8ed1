"""Very many connections that do nothing, held from a client's addresses."""

from __future__ import annotations

import resource
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from swarm_deployment import MX, Deployment

_AT_ONCE = 200


@contextmanager
def idle_connections(stack: Deployment, count: int, seconds: float = 120) -> Iterator[int]:
    """Hold ``count`` greeted SMTP connections, shared out over machines and addresses; how many were greeted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count + 1000, hard)), hard))
    sources = stack.lab.near.v4[:100]
    held: list[socket.socket] = []
    waiting = 0
    deadline = time.monotonic() + seconds
    selector = selectors.DefaultSelector()
    greeted = 0
    try:
        while (len(held) < count or waiting) and time.monotonic() < deadline:
            while len(held) < count and waiting < _AT_ONCE:
                each = socket.socket()
                each.setblocking(False)
                each.bind((sources[len(held) % len(sources)], 0))
                each.connect_ex((stack.addresses[len(held) % len(stack.addresses)], MX))
                selector.register(each, selectors.EVENT_READ)
                held.append(each)
                waiting += 1
            for key, _ in selector.select(1):
                talk = key.fileobj
                assert isinstance(talk, socket.socket)
                selector.unregister(talk)
                waiting -= 1
                try:
                    greeted += talk.recv(512).startswith(b"220")
                except OSError:
                    continue
        yield greeted
    finally:
        selector.close()
        for each in held:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
