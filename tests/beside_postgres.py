"""What stack/backup and stack/restore run beside Postgres: the functions of stack/deployment/postgres.bash."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from servers import postgres_program

SCRIPT = Path(__file__).resolve().parent.parent / "stack" / "deployment" / "postgres.bash"


def beside(port: int | None, database: str, folder: Path, secret: str, *words: str, code: int = 0) -> str:
    """Run a function, which must end with ``code``; what it said. ``secret`` is the password's file in ``folder``."""
    program = postgres_program("pg_dump")
    assert program is not None
    environ = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "LANG": "C.UTF-8",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": "mailfarm",
        "DATABASE": database,
        "HERE": str(folder),
        "PASSWORD_FILE": str(folder / secret),
    }
    command = ["bash", "-c", SCRIPT.read_text("utf-8"), "bash", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout
