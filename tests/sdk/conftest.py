"""A real ``mailfarm dev`` for all tests of a module, and each of the three clients in turn."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
from running import Running
from scenarios import CLIENTS


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A server that keeps nothing."""
    with Running() as process:
        yield process


@pytest.fixture(params=CLIENTS)
def put(request: pytest.FixtureRequest) -> Callable[..., Awaitable[None]]:
    """``await put(url, scenario)``, once for each client."""
    return CLIENTS[request.param]


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port where nobody listens."""
    with socket.socket() as held:  # bound, so that nobody else gets it; not listening, so that it refuses
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
