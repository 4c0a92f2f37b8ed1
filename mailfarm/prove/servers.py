"""Redis, Sentinel and Postgres of one's own: real servers on loopback ports of their own, ended by process id.

::

    with Redis(folder) as redis: ...          # redis.port, redis.url; .kill(), .start() again on the same data
    with Sentinel(folder, redis) as sentinel: ...   # sentinel.url(); replica.follow(redis) before
    with Postgres(folder) as postgres: ...    # postgres.new_database() -> a URL; .kill(), .restart(), .start()
"""

from __future__ import annotations

import errno
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg2

from .child import guarded, innermost, runs

_STARTING = 30.0


_HELD: deque[int] = deque()
_MOST_HELD = 500
"""Ports that are kept for us, the latest ones: an open file each."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now, and that no other process is given by this function while ours
    runs. It is below those that the kernel gives to outgoing connections (ip(7), ip_local_port_range), so that none of
    them takes it before its server is up, or while it is down."""
    while True:
        port = random.SystemRandom().randrange(10240, 32768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if _hold(port):
                return port


def _hold(port: int) -> bool:
    """Take the name of the port, which one process can have: that of a socket in the abstract namespace (unix(7)), gone
    with its process. Where there is none, whoever comes first has the port."""
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0mailfarm-port-{port}")
    except OSError as error:
        name.close()
        return error.errno != errno.EADDRINUSE
    _HELD.append(name.detach())
    if len(_HELD) > _MOST_HELD:
        os.close(_HELD.popleft())
    return True


def postgres_program(name: str) -> Path | None:
    """A program of the newest PostgreSQL server on this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    path = found[-1] if found else shutil.which(name)
    return Path(path) if path else None


def missing() -> list[str]:
    """What this machine lacks to run them: a package, or a user, by name."""
    lacks = [name for name in ("redis-server", "redis-cli") if shutil.which(name) is None]
    lacks += [f"PostgreSQL's {name}" for name in ("initdb", "postgres") if postgres_program(name) is None]
    if os.geteuid() == 0 and "postgres" not in (entry.pw_name for entry in pwd.getpwall()):
        lacks.append("a user postgres, for PostgreSQL does not run as root")
    return lacks


class _Server:
    """A child process: started at once by ``start``, ended by SIGTERM (``stop``) or SIGKILL (``kill``).

    ``before`` is a command in front of the server, a tracer for example, and ``environ`` is added to its environment,
    from the next start on."""

    process: subprocess.Popen[bytes] | None = None
    user: str | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.before: Sequence[str] = ()
        self.environ: Mapping[str, str] = {}

    @property
    def log(self) -> Path:
        """What it says on its standard output and error."""
        return self.folder / f"{type(self).__name__.lower()}.log"

    @property
    def pid(self) -> int:
        """The process id of the server itself; 0 while it does not run."""
        if self.process is None or self.process.poll() is not None:
            return 0
        return innermost(self.process, self.before) if self.before else self.process.pid

    def _run(self, command: Sequence[str]) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                guarded(command, self.before),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self.user,
                env=os.environ | self.environ,
                start_new_session=True,  # Ctrl-C is ours
            )

    def _until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _STARTING
        while not ready():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text("utf-8", "replace")[-2000:]
                raise ChildProcessError(f"{type(self).__name__} did not start:\n{said}")
            time.sleep(0.01)

    def start(self) -> None:
        raise NotImplementedError

    def signal(self, number: int) -> None:
        """Send a signal to the server, for example SIGSTOP and SIGCONT."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """A clean end."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            if pid := self.pid:
                os.kill(pid, number)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Redis(_Server):
    """A redis-server with an append-only file synced before each answer. ``options`` are appended to its command line,
    as in ``Redis(folder, "--maxmemory", "50mb")``; given last, they win."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.options = options

    @property
    def url(self) -> str:
        """``redis://127.0.0.1:port``."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start on the data there is, and return when it answers PING."""
        command = f"redis-server --bind 127.0.0.1 --port {self.port} --dir {self.folder} --save '' --appendonly yes"
        command += " --appendfsync always --maxmemory-policy noeviction"
        command += " --rdbcompression no --auto-aof-rewrite-min-size 1gb"  # as in stack/redis-queue.conf
        self._run([*(word.strip("'") for word in command.split()), *self.options])
        self._until(lambda: _answers_ping(self.port))

    def ask(self, *words: str) -> str:
        """What redis-cli prints for a command."""
        return _asked(self.port, words)

    def follow(self, master: Redis, port: int = 0) -> None:
        """Become a replica of ``master``, reached at its own or another port of this machine, and return when it has
        everything and is told more."""
        self.ask("replicaof", "127.0.0.1", str(port or master.port))
        self._until(lambda: master.ask("wait", "1", "100") != "0" and "master_link_status:up" in self.ask("info"))


class Sentinel(_Server):
    """A redis-sentinel that watches ``master`` under the name ``farm`` and fails over after half a second.

    ``url(*others)`` is what mailfarm is given; ``others`` are more sentinels."""

    def __init__(self, folder: Path, master: Redis, quorum: int = 1) -> None:
        super().__init__(folder)
        self._config = folder / f"sentinel-{self.port}.conf"
        self._config.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {folder}\n"
            f"sentinel monitor farm 127.0.0.1 {master.port} {quorum}\n"
            "sentinel down-after-milliseconds farm 500\nsentinel failover-timeout farm 3000\n"
        )

    def url(self, *others: str) -> str:
        """``redis+sentinel://127.0.0.1:port/farm``."""
        return f"redis+sentinel://{';'.join([*others, f'127.0.0.1:{self.port}'])}/farm"

    def start(self) -> None:
        """Start, and return when it answers PING."""
        self._run(["redis-sentinel", str(self._config)])
        self._until(lambda: _answers_ping(self.port))

    def ask(self, *words: str) -> str:
        """What redis-cli prints for a command."""
        return _asked(self.port, words)


class Postgres(_Server):
    """A PostgreSQL cluster, synced, with the superuser ``mailfarm`` (trusted on loopback)."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.options = options
        self.data = folder / "data"
        self._names = 0
        if os.geteuid() == 0:  # it refuses to run as root
            self.user = "postgres"
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)

    def start(self) -> None:
        """Make the cluster if there is none, start it, and return when it takes connections."""
        initdb, server = postgres_program("initdb"), postgres_program("postgres")
        if initdb is None or server is None:
            raise FileNotFoundError("there is no PostgreSQL server on this machine: install the package postgresql")
        if not self.data.exists():
            command = [
                str(initdb),
                "-D",
                str(self.data),
                "-U",
                "mailfarm",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-N",
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=self.user, cwd=self.folder)
        self._run(
            [
                *(str(server), "-D", str(self.data), "-p", str(self.port), "-k", ""),
                *("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200", *self.options),
            ]
        )
        self._until(self._answers)

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.dsn("postgres"), connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """A fast shutdown: transactions under way are rolled back."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Every process of the server at once, as when a machine dies, and wait until all are gone."""
        if self.process is None or self.process.poll() is not None:
            return
        parent = self.pid
        with open(f"/proc/{parent}/task/{parent}/children") as file:
            children = [int(word) for word in file.read().split()]
        self._end(signal.SIGKILL)
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + 10
        while any(runs(child) for child in children) and time.monotonic() < deadline:
            time.sleep(0.01)

    def restart(self) -> None:
        """Stop and start on the same data and port."""
        self.stop()
        self.start()

    def dsn(self, database: str) -> str:
        """A libpq connection URL."""
        return f"postgresql://mailfarm@127.0.0.1:{self.port}/{database}"

    def new_database(self, template: str = "template0") -> str:
        """Make a database of one's own; its URL."""
        self._names += 1
        name = f"mailfarm{self._names}"
        connection = psycopg2.connect(self.dsn("postgres"))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"create database {name} template {template}")
        finally:
            connection.close()
        return self.dsn(name)


def _asked(port: int, words: Sequence[str]) -> str:
    command = ["redis-cli", "-p", str(port), *words]
    for last in (False, True):  # who changes its role hangs up once
        done = subprocess.run(command, capture_output=True, text=True, check=last, timeout=_STARTING)
        if done.returncode == 0:
            break
    return done.stdout.strip()


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False


def server_folder() -> Path:
    """A folder that a server's own user may enter (pytest's are for the one who runs the tests)."""
    folder = Path(tempfile.mkdtemp(prefix="mailfarm-server-"))
    folder.chmod(0o755)
    return folder
