"""The target ``dev``: one process with everything in it, on SQLite, that keeps its mail in a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from .processes import LIMITS, TOKEN, ServicePart, until_healthy
from .servers import free_port
from .target import Options, Part, Target
from .tmpfs import Tmpfs


class Dev(Target):
    """``mailfarm dev --data``. Of the options it knows ``settings``, ``program``, and a disk for ``dev``."""

    name = "dev"

    def __init__(self, folder: Path, options: Options = Options()) -> None:  # noqa: B008 - it is frozen
        self.folder = folder
        self.token = TOKEN
        self.smtp = [("127.0.0.1", free_port())]
        self.submission = [("127.0.0.1", free_port())]
        self.url = self.live = f"http://127.0.0.1:{free_port()}"
        (folder / "limits.toml").write_text(LIMITS)
        environ = {
            "MAILFARM_API_LISTEN": self.url.removeprefix("http://"),
            "MAILFARM_MX_LISTEN": f"127.0.0.1:{self.smtp[0][1]}",
            "MAILFARM_SUBMISSION_CAPTURE": f"127.0.0.1:{self.submission[0][1]}",
            "MAILFARM_SUBMISSION_STARTTLS": f"127.0.0.1:{free_port()}",
            "MAILFARM_SUBMISSION_TLS": f"127.0.0.1:{free_port()}",
            "MAILFARM_API_AUTH": "token",
            "MAILFARM_API_FIRST_TOKEN": TOKEN,
            "MAILFARM_LIMITS": str(folder / "limits.toml"),
            "MAILFARM_LINGER": "0",
            **options.settings,
        }
        self.disks = {name: Tmpfs(folder / "data", disk) for name, disk in options.disks.items() if name == "dev"}
        program = options.program or (sys.executable, "-m", "mailfarm")
        command = [*program, "dev", "--json", "--data", str(folder / "data")]
        self.parts: list[Part] = [
            ServicePart("dev", "dev", command, environ, folder / "dev.log", environ["MAILFARM_API_LISTEN"])
        ]

    def up(self) -> None:
        """As in Target."""
        for disk in self.disks.values():
            disk.place.mkdir()
            disk.mount()
        self.parts[0].start()
        self.healthy()

    def healthy(self, seconds: float = 120) -> None:
        """As in Target."""
        until_healthy(self.parts, seconds)

    def down(self) -> None:
        """As in Target."""
        self.parts[0].kill()
        for disk in self.disks.values():
            disk.unmount()
