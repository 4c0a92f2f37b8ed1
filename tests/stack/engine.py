"""A Docker engine of one's own: a dockerd in namespaces, at the standard paths there, apart from any other on the host.

::

    engine = Engine(folder, "node1", network="mailfarm-1")
    engine.start(); engine.until_ready()
    engine.docker("info")                 # the CLI inside the machine, at its own /var/run/docker.sock
    engine.kill()                         # as when the power goes; the disk stays for the next start

Everything of a machine ends with the process that started it (PR_SET_PDEATHSIG and ``unshare --kill-child``), also when
that one is killed. Needs root, Debian's docker.io, iptables, iproute2 and util-linux.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("dockerd", "docker", "containerd", "runc", "iptables", "ip6tables", "ip", "nsenter", "unshare")
_SCRIPT = Path(__file__).with_name("machine.sh")
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


class LabError(Exception):
    """The lab does not do what it is told."""


def missing() -> str:
    """Why there can be no lab on this machine; empty if there can."""
    if os.geteuid() != 0:
        return "a Swarm of one's own needs root, for namespaces with a dockerd in each: sudo make stack-test"
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if absent:
        return f"not on this machine: {', '.join(absent)} (apt-get install docker.io iptables iproute2 util-linux)"
    return ""


class Engine:
    """One machine. ``network`` is the name of its network namespace; without one it has the host's, and then it touches
    no address, bridge or packet filter there."""

    def __init__(
        self, folder: Path, name: str, *, network: str = "", cgroup: str = "mailfarm-lab", options: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.name = name
        self.network = network
        self.cgroup = cgroup
        self.options = tuple(options)
        self.process: subprocess.Popen[bytes] | None = None
        self.init = 0

    @property
    def disk(self) -> Path:
        """What is /var/lib/docker on the machine."""
        return self.folder / "disk"

    @property
    def log(self) -> Path:
        """The engine's log."""
        return self.folder / "log" / "dockerd.log"

    def start(self) -> None:
        """Power on. Returns at once. To be called by the main thread: the machine ends with the thread that did."""
        for name in ("disk", "run", "log", "home"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for old in (self.folder / "run").iterdir():  # /run is empty after a start
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        into = ["nsenter", f"--net=/run/netns/{self.network}"] if self.network else []
        command = [
            *into,
            *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--propagation", "private"),
            *("bash", str(_SCRIPT), str(self.folder), self.name),
            *("-H", "unix:///run/docker.sock", f"--cgroup-parent=/{self.cgroup}/{self.name}"),
            *("--exec-opt", "native.cgroupdriver=cgroupfs", "--log-opt", "max-size=5m", "--shutdown-timeout=5"),
            *(["--experimental", "--ip6tables"] if self.network else ["--bridge=none", "--iptables=false"]),
            *([] if self.network else ["--ip-forward=false", "--ip-masq=false"]),
            *self.options,
        ]
        with open(self.folder / "log" / "machine.log", "ab") as log:
            self.process = subprocess.Popen(
                command,
                env={"PATH": PATH, "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def until_ready(self, seconds: float = 60) -> None:
        """Return when the engine answers."""
        deadline = time.monotonic() + seconds
        while True:
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"{self.name} did not come up:\n{self.tail()}")
            if not self.init:
                self.init = _only_child(self.process.pid)
            if self.init and (self.folder / "run" / "docker.sock").exists():
                (self.folder / "init").write_text(str(self.init))
                with suppress(subprocess.TimeoutExpired):
                    if self.run("docker", "version", check=False, timeout=5).returncode == 0:
                        return
            time.sleep(0.05)

    def tail(self, lines: int = 8) -> str:
        """The end of its logs."""
        text = ""
        for path in (self.folder / "log" / "machine.log", self.log):
            if path.exists():
                text += "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:]) + "\n"
        return text

    @property
    def up(self) -> bool:
        """Whether the machine has power."""
        if self.process is not None and self.process.poll() is not None:
            return False
        return self.init != 0

    def inside(self, *command: str, folder: Path | str = "/") -> list[str]:
        """A command line that runs ``command`` on the machine, in ``folder``."""
        if not self.up:
            raise LabError(f"{self.name} is down")
        return ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", f"--wdns={folder}", "--", *command]

    def environment(self, **more: str) -> dict[str, str]:
        """What commands on the machine have in their environment."""
        return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": str(self.folder / "home"), "DOCKER_BUILDKIT": "1", **more}

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout: float = 120,
        given: str | bytes | None = None,
        folder: Path | str = "/",
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine, to its end. Raises LabError if it fails and ``check``."""
        done = subprocess.run(
            self.inside(*command, folder=folder),
            env=self.environment(**environment),
            input=given.encode() if isinstance(given, str) else given or b"",
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        result = subprocess.CompletedProcess(
            command, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )
        if check and result.returncode:
            said = (result.stderr + result.stdout).strip()
            raise LabError(f"{self.name}: {' '.join(command)} ended with {result.returncode}:\n{said[-3000:]}")
        return result

    def follow(
        self, *command: str, tell: Callable[[str], None], folder: Path | str = "/", **environment: str
    ) -> tuple[int, str]:
        """Run a long command there and tell each line it prints; its exit code and all it printed."""
        with subprocess.Popen(
            self.inside(*command, folder=folder),
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as running:
            assert running.stdout is not None
            said = []
            for line in running.stdout:
                said.append(line.rstrip())
                tell(f"  {line.rstrip()[:160]}")
        return running.returncode, "\n".join(said)

    def docker(self, *words: str, timeout: float = 120, given: str | bytes | None = None) -> str:
        """The docker CLI there; what it printed, without blanks at its ends."""
        return self.run("docker", *words, timeout=timeout, given=given).stdout.strip()

    def stop(self) -> None:
        """An orderly end of the engine, so that its disk is whole, and then of the machine."""
        if self.up:
            daemon = (self.folder / "run" / "daemon").read_text().strip()
            self.run("kill", "-TERM", daemon, check=False)
            deadline = time.monotonic() + 20
            while self.run("kill", "-0", daemon, check=False).returncode == 0 and time.monotonic() < deadline:
                time.sleep(0.05)
        self.kill()

    def kill(self) -> None:
        """Power loss: every process of the machine at once."""
        process, self.process = self.process, None
        if process is None:
            return
        for pid in (self.init or _only_child(process.pid), process.pid):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.init = 0
        process.wait(30)


def machine_of(folder: Path) -> Engine:
    """A machine that another process has started, to run commands on it."""
    engine = Engine(folder, f"node{folder.name}")
    with suppress(FileNotFoundError):
        init = int((folder / "init").read_text())
        if str(folder).encode() in Path(f"/proc/{init}/cmdline").read_bytes():
            engine.init = init
    return engine


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _only_child(pid: int) -> int:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(children[0]) if children else 0
