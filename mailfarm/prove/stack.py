"""The target ``stack``: one that is deployed on a Docker Swarm, as it is. We start nothing there and end nothing but
what a fault breaks; the Swarm mends it.

Parts are the places of its services' replicas, on every node whose engine we reach: ``mx-1``, ``mx-2``,
``traefik-node3``; a service with one is called by its name, ``postgres``. A part is its place and not its container:
killed, it is there again when the Swarm has started another.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from .docker import Container, DockerError, Node, Service, Swarm
from .follower import resolved
from .target import Part, Target

PYTHON = "/opt/mailfarm/bin/python"
"""In mailfarm's image."""
MX, SUBMISSION = 25, 587
RATE = 8.0
"""Messages a second from one address: each may be a connection, and 600 a minute are let in (stack/limits.toml)."""
_ACCEPTED = re.compile(r'^mailfarm_\w+_messages_total\{[^}]*outcome="accepted"[^}]*\} (\S+)', re.M)
_FETCH = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/metrics', timeout=5).read().decode())"
_UNREACHABLE = Path(__file__).with_name("unreachable.py")
_POWER = 300.0
"""Seconds a command may take that turns a node off or on."""


class Task(Part):
    """The place of one replica in its service."""

    def __init__(self, stack: Stack, service: Service, slot: str) -> None:
        alone = service.wanted == 1 and not service.everywhere
        self.name = service.name if alone else f"{service.name}-{slot}"
        self.kind = "redis-queue" if service.name.startswith("redis-queue-") else service.name
        self.service, self.slot = service.name, slot
        self._stack = stack
        self._frozen: Container | None = None

    def container(self) -> Container:
        """What runs in this place now. Raises DockerError if nothing does."""
        for each in self._stack.swarm.containers(self._stack.stack, self.service):
            if each.slot == self.slot:
                return each
        raise DockerError(f"{self.name} does not run on a node we reach")

    def pid(self) -> int:
        """0: it runs elsewhere."""
        return 0

    def kill(self) -> None:
        """As in Part: SIGKILL for the whole container."""
        self._end("KILL", 30)

    def stop_clean(self) -> None:
        """As in Part. The Swarm starts another all the same."""
        self._end("TERM", 90)

    def _end(self, signal: str, seconds: float) -> None:
        container = self.container()
        self._stack.on(container, "kill", "--signal", signal, container.id)

        def gone() -> bool:
            return container not in self._stack.swarm.containers(self._stack.stack, self.service)

        self._stack.until(gone, seconds, f"the end of {self.name}")

    def pause(self) -> None:
        """As in Part. Docker asks nothing of a container that is paused, so the Swarm takes it for healthy."""
        container = self.container()
        self._stack.on(container, "pause", container.id)
        self._frozen = container

    def resume(self) -> None:
        """As in Part; nothing happens if it has been replaced meanwhile."""
        container, self._frozen = self._frozen, None
        if container is not None:
            with suppress(DockerError):
                self._stack.on(container, "unpause", container.id)

    def start(self, *, before: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> None:
        """Wait until the Swarm has started another. ``before`` and ``environ`` cannot be had here: ValueError."""
        if before or environ:
            raise ValueError("what a stack's service is started with is not ours to change")
        self._stack.until(self.running, 120, f"another {self.name}")

    def running(self) -> bool:
        """Whether there is a container in this place."""
        with suppress(DockerError):
            return bool(self.container())
        return False

    def said(self) -> str:
        """The end of what its containers said lately, those that have ended too, on every node we reach."""
        said = []
        ours = ("--filter", f"label=com.docker.swarm.service.name={self._stack.stack}_{self.service}")
        for engine in self._stack.swarm.engines.values():
            with suppress(DockerError):
                for container in engine.run("ps", "-aq", "--no-trunc", *ours).split():
                    said.append(engine.run("logs", "--tail", "20", container, both=True))
        return "\n".join(said)


class Stack(Target):
    """The stack ``stack`` of ``swarm``. ``addresses`` are the load balancer's: mail goes to all of them in turn, to
    port 25, and the host of ``url`` is one of them. ``sources`` are ours to send from. ``power_off`` and ``power_on``
    are commands that take a node's name as their last word: without them no node loses power."""

    name = "stack"
    submission_security = "starttls"

    def __init__(
        self,
        folder: Path,
        swarm: Swarm,
        *,
        url: str,
        token: str,
        cafile: str,
        addresses: Sequence[str],
        sources: Sequence[str] = (),
        stack: str = "mailfarm",
        power_off: Sequence[str] = (),
        power_on: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.swarm, self.stack = swarm, stack
        self.url = self.live = url
        self.token, self.cafile = token, cafile
        self.addresses, self.sources = list(addresses), list(sources)
        self.smtp = [(address, MX) for address in addresses]
        self.submission = [(address, SUBMISSION) for address in addresses]
        self.rate = RATE * max(1, min(len(sources), 2))
        self._named = ExitStack()
        self._power = {"off": tuple(power_off), "on": tuple(power_on)}

    @property
    def parts(self) -> Sequence[Part]:  # type: ignore[override]  # they come and go
        """The places of every service that are filled now."""
        return self.tasks()

    def tasks(self, *services: str) -> list[Task]:
        """The same, of these services only."""
        by_name = {service.name: service for service in self.services()}
        places = {(each.service, each.slot) for each in self.swarm.containers(self.stack)}
        known = [place for place in sorted(places) if place[0] in by_name and place[0] in (services or by_name)]
        return [Task(self, by_name[service], slot) for service, slot in known]

    def services(self) -> list[Service]:
        """The services that go on; not those that end when they are done."""
        return [service for service in self.swarm.services(self.stack) if not service.once]

    def on(self, container: Container, *words: str, given: str = "", seconds: float = 60) -> str:
        """A docker command on the node of a container. Raises DockerError."""
        return self.swarm.engines[container.node].run(*words, given=given, seconds=seconds)

    # --- how it is ---------------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Nothing is set up; it must be well already. Raises DockerError, TimeoutError."""
        self._named.enter_context(resolved(urlsplit(self.url).hostname or "", self.addresses))
        self.healthy()

    def down(self) -> None:
        """Nothing of ours is there but the name."""
        self._named.close()

    def healthy(self, seconds: float = 240) -> None:
        """As in Target: each node is there and each service has the replicas it is to have."""
        wrong: list[str] = []

        def well() -> bool:
            wrong[:] = [f"node {node.name}" for node in self.swarm.nodes() if not node.ready]
            wrong.extend(
                f"{service.name} {service.running}/{service.wanted}{' (updating)' if service.updating else ''}"
                for service in self.services()
                if service.running != service.wanted or service.updating
            )
            return not wrong

        try:
            self.until(well, seconds, "the stack")
        except TimeoutError:
            raise TimeoutError(f"not healthy after {seconds:g} s: {', '.join(wrong) or 'no answer'}") from None

    def until(self, condition: Callable[[], bool], seconds: float, what: str) -> float:
        """Wait; how many seconds it took. What Docker refuses meanwhile (managers that choose a leader) is passed over.
        Raises TimeoutError."""
        began = time.monotonic()
        while True:
            with suppress(DockerError):
                if condition():
                    return time.monotonic() - began
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"{what}: not within {seconds:g} s")
            time.sleep(0.2)

    def accepted(self) -> float:
        """How many messages the listeners that run now have taken since each began. Raises DockerError."""
        found = 0.0
        for task in self.tasks("mx", "submission"):
            container = task.container()
            text = self.on(container, "exec", container.id, PYTHON, "-c", _FETCH)
            found += sum(float(value) for value in _ACCEPTED.findall(text))
        return found

    # --- what may happen to it ---------------------------------------------------------------------------------------

    def update(self, service: str, seconds: float = 300) -> float:
        """A rolling update to what it is already: every task is replaced; how many seconds it took. Raises
        TimeoutError, and DockerError if it was rolled back."""
        before = self._service(service).update
        began = time.monotonic()
        self.swarm.ask("service", "update", "--detach", "--force", "--no-resolve-image", f"{self.stack}_{service}")

        def ended() -> bool:
            now = self._service(service)
            return now.update != before and not now.updating

        self.until(ended, seconds, f"the update of {service}")
        if (state := self._service(service).update[0]) != "completed":
            raise DockerError(f"the update of {service} ended as {state}")
        return time.monotonic() - began

    def scale(self, service: str, count: int, seconds: float = 180) -> None:
        """Have so many replicas."""
        self.swarm.ask("service", "scale", "--detach", f"{self.stack}_{service}={count}")

        def there() -> bool:
            now = self._service(service)
            return now.running == now.wanted == count and len(self.swarm.containers(self.stack, service)) <= count

        self.until(there, seconds, f"{count} replicas of {service}")

    def _service(self, name: str) -> Service:
        for each in self.services():
            if each.name == name:
                return each
        raise DockerError(f"there is no service {name} in the stack {self.stack}")

    @contextmanager
    def parted(self, one: Task, other: Task) -> Iterator[None]:
        """Nothing that one sends reaches the other, in either direction, until the end of the ``with``. Raises
        DockerError."""
        ours, theirs = one.container(), other.container()
        here, there = self.swarm.addresses(ours), self.swarm.addresses(theirs)
        shared = here.keys() & there.keys()
        if not shared:
            raise DockerError(f"{one.name} and {other.name} are not in the same network")
        sides = [(ours, there[name]) for name in shared] + [(theirs, here[name]) for name in shared]
        try:
            for container, address in sides:
                self._neighbour(container, "cut", address)
            yield
        finally:
            for container, address in sides:
                with suppress(DockerError):  # one that was replaced took its network with it
                    self._neighbour(container, "join", address)

    def _neighbour(self, container: Container, verb: str, address: str) -> None:
        """Run ``unreachable.py`` beside a container, in its network: Docker's own door to it, on any node."""
        place = ("--network", f"container:{container.id}", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN")
        program = ("--user", "0:0", "--entrypoint", PYTHON, self.image, "-", verb, address)
        self.on(container, "run", "--rm", "-i", *place, *program, given=_UNREACHABLE.read_text("utf-8"))

    @property
    def image(self) -> str:
        """Mailfarm's own."""
        return self._service("mx").image

    @contextmanager
    def drained(self, node: Node) -> Iterator[None]:
        """A node without tasks, as when somebody works on it."""
        self.swarm.ask("node", "update", "--availability", "drain", node.id)
        try:
            yield
        finally:
            self.until(lambda: self._active(node), 60, f"{node.name} active again")

    def _active(self, node: Node) -> bool:
        self.swarm.ask("node", "update", "--availability", "active", node.id)
        return True

    def has_power_switch(self) -> bool:
        """Whether we were told how to turn a node off and on."""
        return all(self._power.values())

    @contextmanager
    def dark(self, node: Node) -> Iterator[None]:
        """A node without power. Raises DockerError if the command for it fails."""
        self._switch("off", node.name)
        try:
            yield
        finally:
            self._switch("on", node.name)

    def _switch(self, which: str, node: str) -> None:
        command = [*self._power[which], node]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_POWER, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DockerError(f"--power-{which}: {error}") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-300:]
            raise DockerError(f"--power-{which} {node}: exit code {done.returncode}: {said}")
