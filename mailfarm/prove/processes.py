"""The target ``processes``: each service and each store a process of its own on this machine, on loopback.

::

    with Processes(folder, Options(shards=2)) as target:
        target.part("mx-1").kill(); target.part("mx-1").start(); target.healthy()

A service alone of its kind is called by its kind (``api``); of several each has a number (``mx-1``). Stores are
``postgres``, ``redis-cache`` and the queue's shards, ``redis-queue-1`` and so on. With ``sentinel`` a shard has a
replica, ``redis-queue-1-replica``, and a Sentinel, ``sentinel-1``; with two ``replicas`` of ``redis-queue`` it has the
replica alone.

Each service reaches each store through a wire of its own, ``wire("mx-1", "postgres")``. So it does where Sentinel says
where the queue's master is: what that says is changed on its way (``announced``). A wire between other parts is made
when it is asked for, and nobody uses it by himself.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .announced import Announced
from .certificate import write_certificate
from .child import clean_environ, get, guarded, innermost, until
from .servers import Postgres, Redis, Sentinel, free_port, server_folder
from .target import SERVICES, Options, Part, Target
from .tmpfs import Tmpfs
from .watcher import Watcher
from .wire import Wire, Wires

TOKEN = "a-token-of-mailfarm-prove-0123456789"
LIMITS = """\
[client]
connections_per_minute = 1000000
sessions = 10000
failed_auth = 1000000
failed_auth_of_a_user = 1000000
websockets = 1000
"""
_STOPPING = 60.0


class ServicePart(Part):
    """A mailfarm command that runs until it is told to stop: a service, or all of them (``dev``)."""

    def __init__(
        self, name: str, kind: str, command: Sequence[str], environ: Mapping[str, str], log: Path, status: str
    ) -> None:
        self.name, self.kind = name, kind
        self._command = list(command)
        self.environ = dict(environ)
        self.log = log
        self.status = status
        self._before: Sequence[str] = ()
        self._process: subprocess.Popen[bytes] | None = None

    def pid(self) -> int:
        """As in Part."""
        if self._process is None or self._process.poll() is not None:
            return 0
        return innermost(self._process, self._before) if self._before else self._process.pid

    def kill(self) -> None:
        """As in Part."""
        self._end(signal.SIGKILL, 20)

    def stop_clean(self) -> None:
        """As in Part."""
        self._end(signal.SIGTERM, _STOPPING)

    def _end(self, number: int, seconds: float) -> None:
        if self._process is None:
            return
        if pid := self.pid():
            os.kill(pid, number)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            if number != signal.SIGKILL:
                raise

    def pause(self) -> None:
        """As in Part."""
        os.kill(self.pid(), signal.SIGSTOP)

    def resume(self) -> None:
        """As in Part."""
        os.kill(self.pid(), signal.SIGCONT)

    def start(self, *, before: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> None:
        """As in Part."""
        self._before = tuple(before)
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                guarded(self._command, before),
                env=clean_environ() | self.environ | dict(environ or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours
            )

    def running(self) -> bool:
        """As in Part."""
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        """As in Part."""
        return tail(self.log)

    def serves(self) -> bool:
        """Whether it says so at its status address. Raises ChildProcessError if it has ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise ChildProcessError(f"{self.name} has ended with exit code {code}:\n{tail(self.log)}")
        return get(f"http://{self.status}/healthz")[0] == 200


class StorePart(Part):
    """A store: ``server`` is what ``servers`` makes of it."""

    def __init__(self, name: str, kind: str, server: Redis | Sentinel | Postgres, watcher: Watcher) -> None:
        self.name, self.kind, self.server = name, kind, server
        self._watcher = watcher

    def pid(self) -> int:
        """As in Part; of Postgres its first process."""
        return self.server.pid

    def kill(self) -> None:
        """As in Part; of Postgres every process."""
        self.server.kill()

    def stop_clean(self) -> None:
        """As in Part."""
        self.server.stop()

    def pause(self) -> None:
        """As in Part; of Postgres every process."""
        family = self._family()
        self._watcher.hold(family)
        for each in family:
            os.kill(each, signal.SIGSTOP)

    def resume(self) -> None:
        """As in Part."""
        family = self._family()
        for each in family:
            os.kill(each, signal.SIGCONT)
        self._watcher.release(family)

    def _family(self) -> list[int]:
        pid = self.pid()
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def start(self, *, before: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> None:
        """As in Part."""
        self.server.before, self.server.environ = tuple(before), dict(environ or {})
        self.server.start()

    def running(self) -> bool:
        """As in Part."""
        return self.server.pid != 0

    def said(self) -> str:
        """As in Part."""
        return tail(self.server.log)


class Processes(Target):
    """See above. ``folder`` takes logs; the stores' data are in a folder that their own users may enter."""

    name = "processes"

    def __init__(self, folder: Path, options: Options = Options()) -> None:  # noqa: B008 - it is frozen
        self.folder = folder
        self.options = options
        self.token = TOKEN
        self.parts: list[Part] = []
        self._data = server_folder()
        self.disks: dict[str, Tmpfs] = {}
        """By the name of the part whose folder it is."""
        self._wires: Wires | None = None
        self._pairs: dict[tuple[str, str], Wire] = {}
        self._watcher = Watcher()
        mx = [("127.0.0.1", free_port()) for _ in range(self._count("mx"))]
        self.smtp = mx
        self.submission = [("127.0.0.1", free_port()) for _ in range(self._count("submission"))]
        self._api = [f"127.0.0.1:{free_port()}" for _ in range(self._count("api"))]
        self._live = [f"127.0.0.1:{free_port()}" for _ in range(self._count("live"))]
        self.url, self.live = f"http://{self._api[0]}", f"http://{self._live[0]}"

    def _count(self, kind: str) -> int:
        return self.options.replicas.get(kind, 1)

    def up(self) -> None:
        """Start the stores, bring the schema up to date, start the services, and wait until all serve."""
        self._wires = Wires()
        postgres = Postgres(self._place("postgres"), *self.options.postgres_options)
        self._store("postgres", postgres, "postgres")
        queues = [self._queue(f"redis-queue-{number + 1}") for number in range(self.options.shards)]
        cache = Redis(self._place("redis-cache"), "--appendonly", "no")
        self._store("redis-cache", cache, "redis-cache")
        self._urls = {"DATABASE": postgres.new_database(), "CACHE": cache.url, "QUEUE": ",".join(queues)}
        self._prepare()
        for kind in (*SERVICES, *(["spool"] if self.options.spool else [])):
            for number in range(self._count(kind)):
                self._service(kind, number)
        for part in self.parts:
            if isinstance(part, ServicePart):
                part.start()
        self.healthy()

    def _store(self, name: str, server: Redis | Sentinel | Postgres, kind: str) -> None:
        part = StorePart(name, kind, server, self._watcher)
        self.parts.append(part)
        part.start()

    def _place(self, name: str) -> Path:
        place = self._data / name
        place.mkdir()
        place.chmod(0o755)
        if options := self.options.disks.get(name):
            disk = self.disks[name] = Tmpfs(place, options)
            disk.mount()
        return place

    def wire(self, a: str, b: str) -> Wire:
        """As in Target; ``b`` is a store. What it leads to stays on its port, also when it is started again."""
        store = self.part(b)
        if not isinstance(store, StorePart) or self._wires is None:
            return super().wire(a, b)
        if (a, b) not in self._pairs:
            self._pairs[a, b] = self._wires.wire(("127.0.0.1", store.server.port), f"{a} to {b}")
        return self._pairs[a, b]

    def _wired(self, name: str) -> dict[str, str]:
        """The stores' URLs for a service, by wires of its own."""
        found = dict(self._urls)
        stores = [part for part in self.parts if isinstance(part, StorePart)]
        for part in stores:
            direct, wire = f"127.0.0.1:{part.server.port}", self.wire(name, part.name)
            found = {key: url.replace(direct, wire.address) for key, url in found.items()}
        queues = [part for part in stores if part.kind == "redis-queue"]
        ports = {part.server.port: self.wire(name, part.name).port for part in queues}
        for sentinel in self.of("sentinel"):
            self.wire(name, sentinel.name).watch(lambda: Announced(ports))
        return {f"MAILFARM_{key}_URL": url for key, url in found.items()}

    def _queue(self, name: str) -> str:
        master = Redis(self._place(name), *self.options.redis_options)
        self._store(name, master, "redis-queue")
        if not self.options.sentinel and self._count("redis-queue") == 1:
            return master.url
        replica = Redis(self._place(f"{name}-replica"), *self.options.redis_options)
        self._store(f"{name}-replica", replica, "redis-queue")
        replica.follow(master)
        if not self.options.sentinel:
            return master.url
        label = name.replace("redis-queue", "sentinel")
        sentinel = Sentinel(self._place(label), master)
        self._store(label, sentinel, "sentinel")
        return sentinel.url()

    @property
    def program(self) -> list[str]:
        """What starts mailfarm."""
        return list(self.options.program or (sys.executable, "-m", "mailfarm"))

    def _prepare(self) -> None:
        certificate, key = write_certificate(self.folder)
        (self.folder / "limits.toml").write_text(LIMITS)
        self._settings = {
            **{f"MAILFARM_{key}_URL": url for key, url in self._urls.items()},
            "MAILFARM_CERTIFICATE": str(certificate),
            "MAILFARM_KEY": str(key),
            "MAILFARM_LIMITS": str(self.folder / "limits.toml"),
            "MAILFARM_API_AUTH": "token",
            "MAILFARM_API_FIRST_TOKEN": TOKEN,
            "MAILFARM_STORE_TIMEOUT": "2",
            "MAILFARM_LINGER": "0",
            **({"MAILFARM_SPOOL": str(self._place("spool"))} if self.options.spool else {}),
            **self.options.settings,
        }
        done = subprocess.run(
            [*self.program, "schema"],
            env=clean_environ() | self._settings,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise ChildProcessError(f"mailfarm schema: exit code {done.returncode}\n{done.stderr[-2000:]}")

    def _service(self, kind: str, number: int) -> None:
        name = kind if self._count(kind) == 1 else f"{kind}-{number + 1}"
        status = f"127.0.0.1:{free_port()}"
        listen = {"MAILFARM_STATUS_LISTEN": status}
        if kind == "mx":
            listen["MAILFARM_MX_LISTEN"] = _address(self.smtp[number])
        elif kind == "submission":
            listen["MAILFARM_SUBMISSION_CAPTURE"] = _address(self.submission[number])
            listen["MAILFARM_SUBMISSION_STARTTLS"] = f"127.0.0.1:{free_port()}"
            listen["MAILFARM_SUBMISSION_TLS"] = f"127.0.0.1:{free_port()}"
        elif kind == "api":
            listen["MAILFARM_API_LISTEN"] = self._api[number]
        elif kind == "live":
            listen["MAILFARM_LIVE_LISTEN"] = self._live[number]
        if name in self.options.disks and name not in self.disks:  # the spool's is its own
            listen["MAILFARM_DATA"] = str(self._place(name))
        environ = self._settings | self._wired(name) | listen
        self.parts.append(
            ServicePart(name, kind, [*self.program, kind, "--json"], environ, self.folder / f"{name}.log", status)
        )

    def healthy(self, seconds: float = 120) -> None:
        """As in Target."""
        until_healthy(self.parts, seconds)

    def down(self) -> None:
        """As in Target."""
        for part in reversed(self.parts):
            part.kill()
            if isinstance(part, StorePart) and part.server.log.exists():  # beside those of the services
                shutil.copyfile(part.server.log, self.folder / f"{part.name}.log")
        self._watcher.close()
        if self._wires is not None:
            self._wires.close()
        for disk in self.disks.values():
            disk.unmount()
        shutil.rmtree(self._data, ignore_errors=True)


def until_healthy(parts: Sequence[Part], seconds: float) -> None:
    """Wait until every part is there, and every service says that it serves. Raises TimeoutError."""
    waited_for: list[Part] = []

    def all_well() -> bool:
        waited_for[:] = [part for part in parts if not well(part)]
        return not waited_for

    try:
        until(all_well, seconds, 0.05)
    except TimeoutError:
        names = ", ".join(part.name for part in waited_for)
        raise TimeoutError(f"not healthy after {seconds:g} s: {names}") from None


def well(part: Part) -> bool:
    """Whether a part of this machine serves."""
    return part.serves() if isinstance(part, ServicePart) else part.running()


def tail(log: Path, characters: int = 3000) -> str:
    """The end of a log."""
    return log.read_text("utf-8", "replace")[-characters:] if log.exists() else ""


def _address(place: tuple[str, int]) -> str:
    return f"{place[0]}:{place[1]}"
