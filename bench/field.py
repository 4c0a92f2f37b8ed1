"""The servers side by side: started once, all on the same two cores, ended together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Self

import cores
import report
from peers.aiosmtpd import Aiosmtpd
from peers.base import Missing, Peer
from peers.cluster import House, MailfarmCluster, MailfarmMx, drain
from peers.dev import MailfarmDev
from peers.edge import MailfarmEdge
from peers.maildev import MailDev
from peers.postfix import Postfix
from peers.queue_design import QueueDesign
from peers.smtp_sink import SmtpSink
from running import Service
from servers import Redis
from stand import Stand

PEERS = ("sink", "edge", "mx", "mx-off", "cluster", "cluster-off", "queue", "dev", "maildev", "aiosmtpd", "postfix")
_OF_THE_HOUSE = {"mx", "mx-off", "cluster", "cluster-off"}
_DRAINING = 30.0


class Field:
    """Starts those of ``PEERS`` that are wanted. ``peers`` are those that run, ``missing`` says why others do not.
    ``aside`` are the cores for who only watches."""

    house: House
    inbound: Service
    apart: Redis
    """The queue of mx by itself."""

    def __init__(self, wanted: Iterable[str], aside: list[int]) -> None:
        self._wanted = [key for key in PEERS if key in set(wanted)]
        self.aside = aside
        self.peers: dict[str, Peer] = {}
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            wanted = set(self._wanted)
            self.stand = stack.enter_context(Stand()) if wanted & (_OF_THE_HOUSE | {"queue"}) else None
            if self.stand and wanted & _OF_THE_HOUSE:
                self.house = stack.enter_context(House(self.stand, self.aside))
                (self.inbound,) = self.house.cluster.start("inbound")
                # it grows to the end of the run, and a rewrite of its file would fall into somebody's measurement
                self.apart = self.stand.redis(stack, "--auto-aof-rewrite-percentage", "0")
            for key in self._wanted:
                peer = self._make(key)
                try:
                    self.peers[key] = stack.enter_context(peer)
                except Missing as why:
                    self.missing[peer.name] = str(why)
                    report.tell(f"left out: {peer.name}: {why}")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make(self, key: str) -> Peer:
        stand: Any = self.stand
        makers: dict[str, Callable[[], Peer]] = {
            "sink": SmtpSink,
            "edge": MailfarmEdge,
            "mx": lambda: MailfarmMx(self.house, self.apart, True),
            "mx-off": lambda: MailfarmMx(self.house, self.apart, False),
            "cluster": lambda: MailfarmCluster(self.house, self.inbound, True),
            "cluster-off": lambda: MailfarmCluster(self.house, self.inbound, False),
            "queue": lambda: QueueDesign(stand, self.aside),
            "dev": MailfarmDev,
            "maildev": MailDev,
            "aiosmtpd": Aiosmtpd,
            "postfix": Postfix,
        }
        return makers[key]()

    def drained(self, cores_to_use: list[int]) -> str:
        """File what mx by itself has taken, on all cores; say what of it cannot be read, or nothing."""
        left = [sent for peer in self.peers.values() if isinstance(peer, MailfarmMx) for sent in peer.unfinished()]
        if not left:
            return ""
        report.tell(f"filing what mx took by itself: {sum(len(sent.numbers) for sent in left):,} messages")
        here = cores.allowed()
        cores.pin(cores_to_use)
        try:
            return drain(self.house, self.apart, left, _DRAINING)
        finally:
            cores.pin(here)
