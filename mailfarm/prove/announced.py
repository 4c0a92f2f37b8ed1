"""What Sentinel says of where the queue's servers are, turned into the addresses of a service's own wires to them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .wire_link import Direction

_PORT = re.compile(rb"(?<![0-9A-Za-z])\d{5}(?![0-9A-Za-z])")
_SPLIT = re.compile(rb"(?<![0-9A-Za-z])\d{1,5}$")
"""A reply ends with CR LF (RESP), so digits at the end of what has come are not the end of it."""


class Announced:
    """A Tap of a wire to Sentinel: in what comes back, a port that is a key of ``ports`` becomes its value. Both have
    five digits, so lengths stay as they were said."""

    def __init__(self, ports: Mapping[int, int]) -> None:
        self._ports = {b"%d" % there: b"%d" % here for there, here in ports.items()}
        if any(len(port) != 5 for pair in self._ports.items() for port in pair):
            raise ValueError(f"ports of other than five digits: {dict(ports)}")
        self._held = b""

    def passes(self, way: Direction, data: bytes) -> bytes:
        """As in Tap."""
        if way == "up":
            return data
        data = self._held + data
        split = _SPLIT.search(data)
        end = split.start() if split else len(data)
        self._held = data[end:]
        return _PORT.sub(lambda port: self._ports.get(port[0], port[0]), data[:end])
