"""Nodes of a lab are turned off and on by another process: what ``mailfarm prove stack`` is told to do it with.

::

    with Switch(lab, folder / "power") as switch:
        command = ["mailfarm", "prove", "stack", "--power-off", switch.command("off"), ...]
        switch.serve(lambda: process.poll() is None)      # the main thread: a machine ends with the one that began it

Or by hand, as that command does: ``python tests/stack/power.py SOCKET off node2``.
"""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab import Lab

_PATIENCE = 120.0


class Switch:
    """Listens at ``path`` for who turns nodes of ``lab`` off and on."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self._lab = lab
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX)

    def command(self, which: str) -> str:
        """A command line that turns a node off or on; the node's name is to follow."""
        return shlex.join([sys.executable, str(Path(__file__).resolve()), str(self._path), which])

    def serve(self, go_on: Callable[[], bool]) -> None:
        """Do as asked while ``go_on``."""
        self._listener.settimeout(0.2)
        while go_on():
            try:
                talk, _ = self._listener.accept()
            except TimeoutError:
                continue
            with talk:
                talk.settimeout(_PATIENCE)
                which, node = talk.recv(100).decode().split()
                number = int(node.removeprefix("node"))
                if which == "off":
                    self._lab.kill(number)
                else:
                    self._lab.power_on(number)
                talk.sendall(b"done")

    def __enter__(self) -> Switch:
        self._listener.bind(str(self._path))
        self._listener.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)


def main(path: str, which: str, node: str) -> int:
    """Ask, and wait until it is done."""
    with socket.socket(socket.AF_UNIX) as talk:
        talk.settimeout(_PATIENCE)
        talk.connect(path)
        talk.sendall(f"{which} {node}".encode())
        return 0 if talk.recv(10) == b"done" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
