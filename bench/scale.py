"""Two listeners and two workers on four cores, beside one of each on two: the same stores, a generator each."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import cores
from children import tree_cpu
from field import Field
from measuring import Wrong, generate
from peers.base import Sent
from running import Service
from stand import process_of
from ways import SCENARIOS

SECONDS = 4.0


class Pair:
    """A second listener and a second worker, for as long as the context lasts."""

    def __init__(self, field: Field) -> None:
        self._field = field

    def __enter__(self) -> Pair:
        self._mx = self._field.house.listen(True)
        self._inbound: Service | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()
        self._mx.stop()

    def rest(self) -> None:
        """Only the first worker files."""
        if self._inbound is not None:
            self._inbound.stop()
            self._inbound = None

    def work(self) -> None:
        """So does the second."""
        (self._inbound,) = self._field.house.cluster.start("inbound")

    def measure(self, two: list[int], four: list[int]) -> dict[str, Any]:
        """Send to both on ``four`` cores; everything is on ``two`` again afterwards."""
        stand: Any = self._field.stand
        first = self._field.peers["cluster"]
        assert self._inbound is not None
        processes = [*first.parts.values(), self._mx.process.pid, self._inbound.process.pid]
        with ExitStack() as stack:
            for process in {os.getpid(), *processes, *map(process_of, (stand.queue, stand.cache, stand.postgres))}:
                cores.pin(four, process)
                stack.callback(cores.pin, two, process)
            return self._sent(first.smtp, self._mx.port("mx"), processes)

    def _sent(self, first: int, second: int, processes: list[int]) -> dict[str, Any]:
        house = self._field.house
        words = [*SCENARIOS[0].words(), *self._field.peers["cluster"].extra, "--seconds", str(SECONDS)]
        ports = [(port, os.urandom(3).hex()) for port in (first, second)]
        told = house.hearing.count
        cpu = sum(map(tree_cpu, processes))
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(generate, port, words, label, SECONDS + 90) for port, label in ports]
            answers = [one.result() for one in both]
        count = sum(form["messages"] for form, _ in answers)
        if not house.hearing.wait(told + count, 120):
            raise Wrong("two listeners acknowledged more than was announced in time")
        used = sum(map(tree_cpu, processes)) - cpu
        for _, sent in answers:
            _check(house.missing(sent), sent)
        began = min(form["began"] for form, _ in answers)
        return {
            "accepted_per_second": count / max(form["ended"] - began for form, _ in answers),
            "readable_per_second": count / (house.hearing.last - began),
            "cpu_us_in_all": used / max(count, 1) * 1e6,
            "errors_total": sum(form["errors_total"] for form, _ in answers),
            "messages": count,
            "at": time.time(),
        }


def _check(problem: str, sent: Sent) -> None:
    if problem:
        raise Wrong(f"two listeners: {problem}")
