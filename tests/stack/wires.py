"""The lab's network: a switch in a namespace of its own, a cable from it to each machine and to each client.

Nothing of it is in the host's network, so the host's addresses, packet filter and Docker are neither used nor touched.
Addresses are those for documentation (RFC 5737, RFC 3849), 192.88.99.0/24 (RFC 7526, retired) and no one's.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
NODES4, NODES6 = "198.51.100", "2001:db8:1:"
"""Machine k has 198.51.100.k and 2001:db8:1::k."""
_NETWORKS = (
    "198.51.100.0/24",
    "203.0.113.0/24",
    "192.88.99.0/24",
    "2001:db8:1::/64",
    "2001:db8:a::/64",
    "2001:db8:b::/64",
)
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*words: str, check: bool = True) -> str:
    """Run ``ip``; what it printed."""
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True).stdout


class Switch:
    """One broadcast domain. ``prefix`` begins the names of all its network namespaces."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.hub = f"{prefix}-hub"

    def up(self) -> None:
        """Make the switch."""
        ip("netns", "add", self.hub)
        ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        ip("-n", self.hub, "link", "set", "br0", "up")

    def plug(self, name: str, addresses: Sequence[str]) -> str:
        """A new network namespace with a cable to the switch and these addresses; its name. There is no route to
        anywhere but the lab."""
        network = f"{self.prefix}-{name}"
        ip("netns", "add", network)
        ip("link", "add", "eth0", "netns", network, "type", "veth", "peer", "name", f"to-{name}", "netns", self.hub)
        ip("-n", self.hub, "link", "set", f"to-{name}", "master", "br0", "up")
        ip("-n", network, "link", "set", "lo", "up")
        for address in addresses:
            ip("-n", network, "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        ip("-n", network, "link", "set", "eth0", "up")
        for other in _NETWORKS:
            ip("-n", network, "route", "replace", other, "dev", "eth0", check=False)
        return network

    def unplug(self, name: str) -> None:
        """Take the machine's network away, as its power loss does."""
        ip("-n", self.hub, "link", "del", f"to-{name}", check=False)
        ip("netns", "del", f"{self.prefix}-{name}", check=False)

    def cable(self, name: str, there: bool) -> None:
        """Pull the cable of one machine, or put it back."""
        ip("-n", self.hub, "link", "set", f"to-{name}", "up" if there else "down")

    def down(self) -> None:
        """Remove all of it, and what an earlier switch of this prefix left."""
        for name in sorted(path.name for path in Path("/run/netns").glob(f"{self.prefix}-*")):
            ip("netns", "del", name, check=False)


class Client:
    """Someone outside the Swarm, in a network namespace: the addresses seen there must be these."""

    def __init__(self, network: str, addresses: Sequence[str]) -> None:
        self.network = network
        self.v4 = [address for address in addresses if ":" not in address]
        self.v6 = [address for address in addresses if ":" in address]

    def command(self, *words: str) -> list[str]:
        """A command line that runs ``words`` there."""
        return ["nsenter", f"--net=/run/netns/{self.network}", *words]

    def call(self, function: Callable[..., T], *given: Any, **named: Any) -> T:
        """Run ``function`` there, in a thread of its own, and return what it returns. Its sockets stay there."""
        return self.begin(function, *given, **named).result()

    def begin(self, function: Callable[..., T], *given: Any, **named: Any) -> Future[T]:
        """The same, without waiting for its end. Threads it starts are there as well."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                self.enter()
                future.set_result(function(*given, **named))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True, name=self.network).start()
        return future

    def enter(self) -> None:
        """Move the calling thread there, for good."""
        _enter(f"/run/netns/{self.network}")

    @contextmanager
    def there(self) -> Iterator[None]:
        """Be there until the end of the ``with``: this thread, and what it starts."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.enter()
            yield
        finally:
            _enter(f"/proc/self/fd/{before}")
            os.close(before)


def _enter(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(handle)
