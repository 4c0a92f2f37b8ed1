"""A ``mailfarm dev`` that lives exactly as long as a test session, however the session ends.

Several processes of one session (pytest-xdist's workers) share one server, and none of them is left to end it: a
session can be killed. So a small process, the keeper, stands between::

    owner     makes a folder and holds the lock on its file "alive" until the session ends or the owner dies
    anyone    asks for the server: the first, under the lock "start", runs `python -m mailfarm.sdk.keeper FOLDER`
    keeper    starts `mailfarm dev --ephemeral --json` on free ports, writes where it listens to "server.json", then
              waits for the lock on "alive"; when it has that the owner is gone: it ends the server, which is its
              child, removes the folder, and lets go of its lock on "keeper", for which the owner may wait

The operating system gives back the locks of a process that died, so that nothing is ever left running. POSIX only.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

READY: Final = 60.0
END: Final = 15.0
FREE: Final = "127.0.0.1:0"
PORTS: Final = (
    "MAILFARM_API_LISTEN",
    "MAILFARM_SUBMISSION_CAPTURE",
    "MAILFARM_SUBMISSION_STARTTLS",
    "MAILFARM_SUBMISSION_TLS",
    "MAILFARM_MX_LISTEN",
)


class CannotStart(Exception):
    """The server did not start; the text says what it said."""


class Owner:
    """The owner's side: a folder, and the lock that keeps the server alive."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mailfarm-"))
        self._alive = (self.folder / "alive").open("wb")
        _lock(self._alive)

    def end(self) -> None:
        """Let the server end, and wait until it has."""
        keeper = (self.folder / "keeper").open("wb") if (self.folder / "server.json").exists() else None
        self._alive.close()
        if keeper is not None:
            _lock(keeper)  # the keeper gives up waiting for the server after END seconds, so this ends too
            keeper.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def server(folder: Path) -> dict[str, Any]:
    """Where the server of this folder listens, as `mailfarm dev --json` says it; started if it was not yet.

    Raises CannotStart.
    """
    with (folder / "start").open("wb") as start:
        _lock(start)
        found = folder / "server.json"
        if not found.exists():
            # -P: the modules of the project under test must not stand before the standard library's
            done = subprocess.run(
                [sys.executable, "-P", "-m", "mailfarm.sdk.keeper", str(folder)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if done.returncode or not found.exists():
                said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
                raise CannotStart(said or "mailfarm.sdk.keeper said nothing")
        where: dict[str, Any] = json.loads(found.read_bytes())
        return where


def main(folder: Path) -> int:
    """Fork the keeper, and return once its server listens (0) or has failed to (1, what it said on standard output)."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        code = 1
        try:
            os.setsid()  # Ctrl-C is the owner's; we learn from its lock when it has ended
            code = _keep(folder, write)
        finally:
            os._exit(code)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read()
    sys.stdout.write(said.decode("utf-8", "replace"))
    return 0 if (folder / "server.json").exists() else 1


def _keep(folder: Path, tell: int) -> int:
    signal.signal(signal.SIGTERM, _end)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    log = (folder / "log").open("ab")
    with (folder / "keeper").open("ab") as keeper, (folder / "alive").open("r+b") as alive:
        _lock(keeper)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mailfarm", "dev", "--ephemeral", "--json"],
            env={k: v for k, v in os.environ.items() if not k.startswith("MAILFARM_")} | dict.fromkeys(PORTS, FREE),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            assert process.stdout is not None
            line = _first_line(process.stdout)
            try:
                json.loads(line)
            except ValueError:
                said = line + (folder / "log").read_bytes()[-4000:]
                os.write(tell, said or f"mailfarm dev said nothing within {READY:g} s".encode())
                return 1
            (folder / "server.json.new").write_bytes(line)
            (folder / "server.json.new").replace(folder / "server.json")
            os.close(tell)
            threading.Thread(target=shutil.copyfileobj, args=(process.stdout, log), daemon=True).start()
            _lock(alive)
        finally:
            process.terminate()
            try:
                process.wait(END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _first_line(pipe: IO[bytes]) -> bytes:
    """The first line, empty if it does not come in time or at all."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return pipe.readline() if selector.select(READY) else b""


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(1)


def _lock(file: IO[bytes]) -> None:
    """Wait for the lock on a file; closing the file, or dying, gives it back."""
    import fcntl  # late: where there is none, only this cannot be done

    fcntl.flock(file, fcntl.LOCK_EX)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
