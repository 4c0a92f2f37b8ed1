"""The services of a deployed stack, seen from a manager: their replicas, and how updates of them go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine import LabError
from lab import Lab

_FETCH = "import sys,urllib.request as u;sys.stdout.write(u.urlopen(sys.argv[1],timeout=5).read().decode())"
_STATUS = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class Replica:
    """One running task: on which machine, in which container (its full id), with which image."""

    service: str
    machine: int
    container: str
    task: str
    image: str
    state: str


@dataclass(frozen=True, slots=True)
class Updated:
    """How an update ended: Swarm's state of it (completed, rollback_completed, paused …), and after how long."""

    state: str
    seconds: float


ELECTING = 60.0
"""Seconds; Docker's managers wait ten to twenty before each attempt."""


class Services:
    """What `docker` says and does about the services of the stack ``name``."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name

    @property
    def manager(self) -> int:
        """A machine that has power."""
        return next(number for number, machine in self.lab.machines.items() if machine.up)

    def docker(self, *words: str, timeout: float = 120) -> str:
        """The docker CLI on a manager; again while the managers elect a leader, as an operator would."""
        deadline = time.monotonic() + ELECTING
        while True:
            try:
                return self.lab.docker(self.manager, *words, timeout=timeout)
            except LabError as error:
                electing = "does not have a leader" in str(error)
                if words[1:2] in (("ps",), ("ls",), ("inspect",)):  # what may be asked twice
                    electing = electing or "DeadlineExceeded" in str(error)
                if not electing or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def full(self, word: str) -> str:
        """The service's name in the Swarm."""
        return f"{self.name}_{word}"

    def words(self) -> list[str]:
        """All services of the stack."""
        names = self.docker("stack", "services", "--format", "{{.Name}}", self.name)
        return sorted(name.removeprefix(f"{self.name}_") for name in names.split())

    def replicas(self, word: str) -> list[Replica]:
        """The tasks that are to run and do, on machines that have power; a task only runs once it is healthy."""
        only = ("--no-trunc", "--filter", "desired-state=running")
        tasks = self.docker("service", "ps", "-q", *only, self.full(word)).split()
        if not tasks:
            return []
        machines = self._machines()
        found = []
        for task in json.loads(self.docker("inspect", "--type", "task", *tasks)):
            number = machines.get(task.get("NodeID", ""), 0)
            status = task["Status"]
            if status["State"] == "running" and number in self.lab.machines and self.lab.machines[number].up:
                found.append(
                    Replica(
                        word,
                        number,
                        status["ContainerStatus"]["ContainerID"],
                        task["ID"],
                        task["Spec"]["ContainerSpec"]["Image"],
                        status["State"],
                    )
                )
        return found

    def _machines(self) -> dict[str, int]:
        lines = self.docker("node", "ls", "--format", "{{.ID}} {{.Hostname}}").splitlines()
        return {id: int(host.removeprefix("node")) for id, host in (line.split() for line in lines)}

    def run(self, replica: Replica, *command: str, given: str | None = None, timeout: float = 60) -> str:
        """A command in a replica's container; what it printed."""
        words = ("exec", *(["-i"] if given is not None else []), replica.container, *command)
        return self.lab.docker(replica.machine, *words, given=given, timeout=timeout)

    def signal(self, replica: Replica, name: str) -> None:
        """Send a signal to a replica's first process, as ``docker kill`` does."""
        self.lab.docker(replica.machine, "kill", "--signal", name, replica.container)

    def metrics(self, replica: Replica) -> dict[str, float]:
        """Its metrics, by name with labels."""
        text = self.run(replica, "python3", "-c", _FETCH, f"{_STATUS}/metrics")
        pairs = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def logs(self, word: str, lines: int = 40) -> str:
        """The newest lines of each container of a service that is still there, also of those that have ended. Asked of
        each engine: `docker service logs` leaves out a machine whose power was gone for a while."""
        ours = ("--filter", f"label=com.docker.swarm.service.name={self.full(word)}")
        said = []
        for machine in self.lab.machines.values():
            if machine.up:
                for container in machine.docker("ps", "-aq", "--no-trunc", *ours).split():
                    done = machine.run("docker", "logs", "--tail", str(lines), container, check=False, timeout=30)
                    said.append(done.stdout + done.stderr)
        return "\n".join(said)

    # --- changes ----------------------------------------------------------------------------------------------------
    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> float:
        """Wait; how long it took. Raises LabError that says what was waited for, and the state of the services."""
        began = time.monotonic()
        while True:
            try:
                if condition():
                    return time.monotonic() - began
            except LabError:
                pass  # a manager that is electing a leader
            if time.monotonic() - began > seconds:
                raise LabError(f"{what}: not within {seconds:.0f} s\n{self.picture()}")
            time.sleep(0.2)

    def picture(self) -> str:
        """The services and their unhappy tasks, for a message."""
        try:
            lines = self.docker("service", "ls", "--format", "{{.Name}} {{.Replicas}} {{.Image}}")
            tasks = self.docker(
                *("stack", "ps", self.name, "--no-trunc", "--format"),
                "{{.Name}} on {{.Node}}: {{.DesiredState}}, {{.CurrentState}} {{.Error}}",
            )
        except LabError as error:
            return str(error)
        return lines + "\n" + "\n".join(line for line in tasks.splitlines() if ": Running, Running" not in line)[:3000]

    def converged(self) -> bool:
        """Whether each service has the replicas it is to have, and no update is under way. ``schema`` ends when it is
        done."""
        lines = self.docker("service", "ls", "--format", "{{.Name}} {{.Replicas}}").splitlines()
        pairs = (line.split()[1].partition("/") for line in lines if not line.startswith(f"{self.full('schema')} "))
        return bool(lines) and all(have == want for have, _, want in pairs) and not self._updating()

    def _updating(self) -> bool:
        names = self.docker("service", "ls", "-q").split()
        form = "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}"
        states = self.docker("service", "inspect", "--format", form, *names).split()
        return any(state in ("updating", "rollback_started") for state in states)

    def update(self, word: str, *options: str, seconds: float = 240) -> Updated:
        """Begin an update and wait for its end, whichever it is."""
        before = self._update_of(word)
        began = time.monotonic()
        self.docker("service", "update", "--detach", "--no-resolve-image", *options, self.full(word))

        def ended() -> bool:
            now = self._update_of(word)
            return now != before and now[0] not in ("", "updating", "rollback_started")

        self.until(ended, seconds, f"the update of {word}")
        return Updated(self._update_of(word)[0], round(time.monotonic() - began, 1))

    def _update_of(self, word: str) -> tuple[str, str]:
        (form,) = json.loads(self.docker("service", "inspect", self.full(word)))
        status = form.get("UpdateStatus") or {}
        return status.get("State", ""), status.get("StartedAt", "")

    def scale(self, word: str, count: int, seconds: float = 120) -> float:
        """Have so many replicas; how long until they run."""
        began = time.monotonic()
        self.docker("service", "scale", "--detach", f"{self.full(word)}={count}")
        self.until(
            lambda: len(self.replicas(word)) == count and self.converged(), seconds, f"{count} replicas of {word}"
        )
        return round(time.monotonic() - began, 1)
