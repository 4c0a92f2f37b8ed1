"""A Docker Swarm on one machine: real engines, a real swarm, clients outside it; no virtual machines and no registry.

::

    with Lab(folder, tell=print) as lab:            # three managers; ends with this process, whatever happens to it
        lab.docker(1, "node", "ls")                 # the CLI on node1
        lab.machines[2].kill(); lab.power_on(2)     # power loss, and back on the same disk
        lab.near.call(function)                     # from 203.0.113.7 and 2001:db8:a::7, outside the Swarm
        lab.far.call(function)                      # from 192.88.99.7 and 2001:db8:b::7

By hand: ``python tests/stack/lab.py up`` (until Ctrl-C), ``… docker 1 service ls``, ``… client curl …``, ``… down``.

The disks of the machines are hard-linked copies of the one that images were built on (``images.py``), so that no image
is saved and loaded. IPv6 clients are seen by their real addresses because docker_gwbridge is made with IPv6 before the
machine joins the swarm, on engines with ``--ip6tables``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from engine import Engine, LabError, missing
from leftovers import remove_cgroups
from wires import NODES4, NODES6, Client, Switch

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / ".make" / "lab.lock"
NEAR = [f"203.0.113.{host}/24" for host in range(7, 117)]
FAR = ["192.88.99.7/24"]


class Lab:
    """A swarm of ``nodes`` machines, the first ``managers`` of them managers, in ``folder``; none: there
    is no swarm yet. ``hosts`` are names by which node1 is known on the machines."""

    def __init__(
        self,
        folder: Path = ROOT / ".make" / "lab",
        *,
        nodes: int = 3,
        managers: int = 3,
        disk: Path | None = None,
        hosts: Sequence[str] = (),
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder = folder
        self.name = f"mailfarm-{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}"
        self.nodes, self.managers = nodes, managers
        self.disk = disk
        self.hosts = hosts
        self.tell = tell
        self.switch = Switch(self.name)
        self.machines: dict[int, Engine] = {}
        self.near = self.far = Client("", [])

    # --- up and down ------------------------------------------------------------------------------------------------
    def up(self) -> None:
        """Remove what an earlier run left, and make the swarm. Raises LabError."""
        if why := missing():
            raise LabError(why)
        began = time.monotonic()
        self.down()
        self.folder.mkdir(parents=True)
        self.switch.up()
        self.near = self._client("near", NEAR, "2001:db8:a::7/64")
        self.far = self._client("far", FAR, "2001:db8:b::7/64")
        for number in range(1, self.nodes + 1):
            self._install(number)
            self._boot(number)
        for number in self.machines:
            self._settle(number)
        if self.managers:
            self._join()
        self.tell(f"{self.nodes} machines, {self.managers} of them managers, in {time.monotonic() - began:.1f} s")

    def _join(self) -> None:
        self.docker(1, "swarm", "init", "--advertise-addr", address(1))
        tokens = {role: self.docker(1, "swarm", "join-token", "-q", role) for role in ("manager", "worker")}
        for number in range(2, self.nodes + 1):
            token = tokens["manager" if number <= self.managers else "worker"]
            words = ("--token", token, "--advertise-addr", address(number), f"{address(1)}:2377")
            self.docker(number, "swarm", "join", *words)

    def down(self) -> None:
        """Take everything away, also what a run that was killed left. Idempotent."""
        for machine in self.machines.values():
            machine.kill()
        self.machines = {}
        self._kill_strangers()
        self.switch.down()
        remove_cgroups(self.name)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _kill_strangers(self) -> None:
        """What still runs in a network of this name was started by an earlier run: machines are found by it."""
        for _ in range(50):
            pids = [pid for path in Path("/run/netns").glob(f"{self.name}-*") for pid in _processes_in(path.name)]
            if not pids:
                return
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            time.sleep(0.1)
        raise LabError(f"processes of an earlier lab do not end: {pids}")

    def _client(self, name: str, v4: Sequence[str], v6: str) -> Client:
        addresses = [*v4, v6]
        return Client(self.switch.plug(name, addresses), [each.partition("/")[0] for each in addresses])

    def _install(self, number: int) -> None:
        """The disk of a new machine, with all images on it."""
        folder = self.folder / str(number)
        folder.mkdir()
        names = "".join(f"{address(1)} {name}\n" for name in self.hosts)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 node{number}\n{names}")
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        if self.disk:
            # Layers are never written to, so hard links will do; all else an engine locks, and makes for itself.
            (folder / "disk").mkdir()
            subprocess.run(["cp", "-al", str(self.disk / "overlay2"), str(folder / "disk")], check=True)
            subprocess.run(["cp", "-a", str(self.disk / "image"), str(folder / "disk")], check=True)

    def _boot(self, number: int) -> None:
        name = f"node{number}"
        network = self.switch.plug(str(number), [f"{address(number)}/24", f"{NODES6}:{number}/64"])
        machine = Engine(self.folder / str(number), name, network=network, cgroup=self.name)
        self.machines[number] = machine
        machine.start()

    def _settle(self, number: int) -> None:
        machine = self.machines[number]
        machine.until_ready()
        if machine.run("docker", "network", "inspect", "docker_gwbridge", check=False).returncode:
            machine.docker(
                *("network", "create", "--ipv6", "--subnet", "172.18.0.0/16", "--subnet", f"fd18:{number}::/64"),
                *("-o", "com.docker.network.bridge.name=docker_gwbridge"),
                *("-o", "com.docker.network.bridge.enable_icc=false"),
                *("-o", "com.docker.network.bridge.enable_ip_masquerade=true", "docker_gwbridge"),
            )

    # --- what may happen to it --------------------------------------------------------------------------------------
    def kill(self, number: int) -> None:
        """Power loss of one machine."""
        self.machines[number].kill()
        self.switch.unplug(str(number))

    def power_on(self, number: int) -> None:
        """Start a machine that was killed, on its disk. The main thread's."""
        self._boot(number)
        self._settle(number)

    def tails(self) -> str:
        """The ends of the engines' logs."""
        return "\n".join(f"{machine.name}:\n{machine.tail(25)}" for machine in self.machines.values())

    def cable(self, number: int, there: bool) -> None:
        """Pull a machine's network cable, or put it back."""
        self.switch.cable(str(number), there)

    def docker(self, number: int, *words: str, timeout: float = 120, given: str | bytes | None = None) -> str:
        """The docker CLI on a machine."""
        return self.machines[number].docker(*words, timeout=timeout, given=given)

    def everywhere(self, *words: str, given: str | bytes | None = None) -> None:
        """The same command of the docker CLI on each machine."""
        for number in self.machines:
            self.docker(number, *words, given=given)

    def __enter__(self) -> Lab:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def address(number: int) -> str:
    """The IPv4 address of a machine."""
    return f"{NODES4}.{number}"


def address6(number: int) -> str:
    """The IPv6 address of a machine."""
    return f"{NODES6}:{number}"


def _processes_in(network: str) -> list[int]:
    done = subprocess.run(["ip", "netns", "pids", network], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


@contextmanager
def turn(path: Path, tell: Callable[[str], None], seconds: float = 1800) -> Iterator[None]:
    """One lab at a time: wait for another run's to end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        deadline, told = time.monotonic() + seconds, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    tell("another lab is up: waiting for its end")
                    told = True
                if time.monotonic() > deadline:
                    raise LabError("another lab does not end") from None
                time.sleep(0.5)
        yield


def main(words: Sequence[str]) -> int:
    """By hand, from a terminal."""
    from command import run

    return run(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
