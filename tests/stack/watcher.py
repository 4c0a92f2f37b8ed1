"""A watcher (``watching.py``) as a test uses it: started before the trouble, asked afterwards whether it saw all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from wires import Client

_PROGRAM = Path(__file__).with_name("watching.py")


class Watcher:
    """Watches ``mailbox`` by its id from change number ``after`` on; ``client`` None is from here."""

    def __init__(
        self,
        client: Client | None,
        how: str,
        url: str,
        mailbox: str,
        *,
        token: str = "",
        addresses: Sequence[str] = ("127.0.0.1",),
        cafile: str = "",
        after: int = 0,
        patience: float = 30,
    ) -> None:
        self.how = how
        self.saw: dict[str, Any] = {}
        plan = {
            "how": how,
            "url": url,
            "mailbox": mailbox,
            "token": token,
            "addresses": list(addresses),
            "cafile": cafile,
            "after": after,
            "patience": patience,
        }
        command = [sys.executable, str(_PROGRAM)]
        command = client.command(*command) if client else command
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._tell(json.dumps(plan))
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        if first != "watching\n":
            self.close()
            raise ChildProcessError(f"the watcher ({how}) does not watch: {first!r}")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def finish(self, messages: int) -> dict[str, Any]:
        """Wait until it has seen so many, or ``patience`` seconds have passed; what it saw."""
        self._tell(str(messages))
        said, _ = self._process.communicate(timeout=120)
        self.saw = json.loads(said)
        return self.saw

    def close(self) -> None:
        """End it, if it was not asked."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
