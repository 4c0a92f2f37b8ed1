"""The engines of a Docker Swarm, through the ``docker`` command: whatever it reaches (a socket, ssh, TLS) we reach.

::

    swarm = Swarm(Engine(), {"node2": Engine(("-H", "ssh://root@node2"))})
    swarm.nodes(); swarm.services("mailfarm"); swarm.containers("mailfarm")

The first engine is a manager's. Others are named by their node; a docker context with the name of a node is taken as
its engine too. What is asked of the Swarm goes to a manager that answers, whichever of them is away.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

_PATIENCE = 60.0
_NAMESPACE = "com.docker.stack.namespace"
_SERVICE = "com.docker.swarm.service.name"
_TASK = "com.docker.swarm.task.name"


class DockerError(OSError):
    """Docker refused, or did not answer: what was asked, and what it said."""


class Engine:
    """One engine. ``where`` are the words of the docker command that lead to it: ``("-H", "ssh://root@node2")``,
    ``("--context", "node2")``, or none for the one that DOCKER_HOST and DOCKER_CONTEXT lead to."""

    def __init__(self, where: Sequence[str] = ()) -> None:
        self.where = tuple(where)
        self._program = os.environ.get("DOCKER", "docker")

    def run(self, *words: str, given: str = "", seconds: float = _PATIENCE, both: bool = False) -> str:
        """Run ``docker WORDS``; what it printed (with ``both`` also to standard error), without blanks at its ends.
        Raises DockerError."""
        command = [self._program, *self.where, *words]
        asked = f"docker {' '.join(words[:4])}"
        try:
            done = subprocess.run(
                command, input=given.encode(), capture_output=True, timeout=seconds, check=False, start_new_session=True
            )
        except FileNotFoundError:
            raise DockerError(f"there is no program {self._program!r}; install Docker's command line") from None
        except subprocess.TimeoutExpired:
            raise DockerError(f"{asked}: no answer within {seconds:g} s") from None
        if done.returncode:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
            raise DockerError(f"{asked}: {said[-600:]}")
        return (done.stdout + (done.stderr if both else b"")).decode("utf-8", "replace").strip()

    def answers(self, seconds: float = 5) -> bool:
        """Whether the engine is there."""
        try:
            return bool(self.run("version", "--format", "{{.Server.Version}}", seconds=seconds))
        except DockerError:
            return False


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the Swarm. ``manager`` is empty for a worker, else Leader, Reachable or Unreachable."""

    id: str
    name: str
    ready: bool
    active: bool
    manager: str


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the stack: how many tasks it has and is to have. ``once`` ends when it is done; ``everywhere`` has
    one task a node."""

    name: str
    image: str
    running: int
    wanted: int
    once: bool
    everywhere: bool
    updating: bool
    update: tuple[str, str]
    """Swarm's word for how the last update went, and when it began; both empty before the first."""


@dataclass(frozen=True, slots=True)
class Container:
    """A running container. ``slot`` is the number of its replica, or its node where the service has one a node."""

    id: str
    service: str
    slot: str
    node: str


class Swarm:
    """The Swarm ``own`` manages. ``others`` are further engines, by the name of their node."""

    def __init__(self, own: Engine, others: Mapping[str, Engine]) -> None:
        self.home = own.run("info", "--format", "{{.Name}}", seconds=20)
        """The node of the engine that was named first."""
        self.engines: dict[str, Engine] = {self.home: own}
        nodes = [node.name for node in self.nodes()]
        if unknown := sorted(set(others) - set(nodes)):
            raise DockerError(f"no node of this Swarm is called {unknown[0]}; there are {', '.join(sorted(nodes))}")
        contexts = own_contexts(own)
        for name in nodes:
            if name in others:
                self.engines[name] = others[name]
            elif name not in self.engines and name in contexts:
                self.engines[name] = Engine(("--context", name))
        known = self.engines
        self.unreached = sorted(name for name in nodes if name not in known or not known[name].answers(20))
        """Nodes whose engine we have no way to: nothing can be done to a container there."""
        for name in self.unreached:
            self.engines.pop(name, None)

    def ask(self, *words: str, seconds: float = _PATIENCE) -> str:
        """What a manager says. Raises DockerError with what the last of them said."""
        error = DockerError("no engine is there")
        for engine in tuple(self.engines.values()):
            try:
                return engine.run(*words, seconds=seconds)
            except DockerError as refused:
                error = refused
        raise error

    def nodes(self) -> list[Node]:
        """The machines."""
        form = "{{.ID}}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}"
        rows = [line.split("\t") for line in self.ask("node", "ls", "--format", form).splitlines()]
        return [Node(id, name, status == "Ready", which == "Active", role) for id, name, status, which, role in rows]

    def services(self, stack: str) -> list[Service]:
        """The services of a stack, by name without the stack's."""
        ours = ("--filter", f"label={_NAMESPACE}={stack}")
        rows = self.ask("service", "ls", *ours, "--format", "{{.Name}} {{.Replicas}}").splitlines()
        if not rows:
            return []
        counts = {name: count.split("/") for name, count in (line.split()[:2] for line in rows)}
        found = []
        for form in json.loads(self.ask("service", "inspect", *counts)):
            spec = form["Spec"]
            running = counts[spec["Name"]]
            update = form.get("UpdateStatus") or {}
            state = update.get("State", "")
            task = spec["TaskTemplate"]
            found.append(
                Service(
                    spec["Name"].removeprefix(f"{stack}_"),
                    task["ContainerSpec"]["Image"],
                    int(running[0]),
                    int(running[1]),
                    task.get("RestartPolicy", {}).get("Condition", "any") != "any",
                    "Global" in spec["Mode"],
                    state in ("updating", "rollback_started"),
                    (state, update.get("StartedAt", "")),
                )
            )
        return sorted(found, key=lambda service: service.name)

    def containers(self, stack: str, service: str = "") -> list[Container]:
        """The running containers of a stack, or of one service of it, on all nodes that are reached and have power."""
        label = f"{_SERVICE}={stack}_{service}" if service else f"{_NAMESPACE}={stack}"
        form = f'{{{{.ID}}}}\t{{{{.Label "{_SERVICE}"}}}}\t{{{{.Label "{_TASK}"}}}}'
        words = ("ps", "--no-trunc", "--filter", f"label={label}", "--format", form)

        def of(name: str) -> list[Container]:
            try:
                lines = self.engines[name].run(*words, seconds=15).splitlines()
            except DockerError:  # without power
                return []
            return [_container(line, stack, name) for line in lines]

        with ThreadPoolExecutor(len(self.engines)) as pool:
            found = [each for several in pool.map(of, list(self.engines)) for each in several]
        return sorted(found, key=lambda each: (each.service, each.slot))

    def addresses(self, container: Container) -> dict[str, str]:
        """A container's IPv4 address in each of its networks. Raises DockerError."""
        (form,) = json.loads(self.engines[container.node].run("inspect", container.id))
        networks = form["NetworkSettings"]["Networks"]
        return {name: each["IPAddress"] for name, each in networks.items() if each.get("IPAddress")}


def _container(line: str, stack: str, node: str) -> Container:
    id, service, task = line.split("\t")
    slot = task.removeprefix(f"{service}.").partition(".")[0]
    return Container(id, service.removeprefix(f"{stack}_"), slot if slot.isdigit() else node, node)


def own_contexts(engine: Engine) -> set[str]:
    """The names of the docker contexts there are."""
    try:
        return set(engine.run("context", "ls", "--format", "{{.Name}}", seconds=20).split())
    except DockerError:  # an older client
        return set()
