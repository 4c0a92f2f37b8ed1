"""Until all services run: what they do, told when it changes, and what to do when one will not."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from .docker import NAMESPACE, STACK, Docker, Missing, say

FAILURES_TO_GIVE_UP = 5
PATIENCE = 45.0
"""Seconds before they count."""


class Watch:
    """What the services do, told when it changes."""

    def __init__(self, docker: Docker, timeout: float) -> None:
        self.docker, self.timeout = docker, timeout
        self.only = self.without = ""
        self.told: dict[str, str] = {}
        self.began = self.changed = time.monotonic()

    def look(self) -> tuple[bool, str, str]:
        """Whether all runs; else the service that will not, and why. Raises Missing: look again."""
        services = [
            service
            for service in self.docker.objects("service", "--filter", f"label={NAMESPACE}")
            if self.only in ("", service["Spec"]["Name"]) and service["Spec"]["Name"] != self.without
        ]
        rows = self.docker.ask("service", "ls", "--filter", f"label={NAMESPACE}", "--format", "{{.ID}} {{.Replicas}}")
        wanted = {line.split()[0]: int(line.split()[1].partition("/")[2]) for line in rows.splitlines()}
        words = [each["Spec"]["Name"] for each in services]
        if not services:
            return False, "", ""
        ids = self.docker.ask("service", "ps", "-q", "--no-trunc", *words).split()
        tasks = json.loads(self.docker.ask("inspect", "--type", "task", *ids)) if ids else []
        done, failed, why = bool(services), "", ""
        for service in sorted(services, key=lambda each: str(each["Spec"]["Name"])):
            mine = [task for task in tasks if task["ServiceID"] == service["ID"]]
            runs, text, trouble = self._one(
                service, mine, wanted.get(next((key for key in wanted if service["ID"].startswith(key)), ""), 0)
            )
            name = service["Spec"]["Name"].removeprefix(f"{STACK}_")
            if self.told.get(name) != text:
                self.told[name] = text
                self.changed = time.monotonic()
                say(f"  {time.monotonic() - self.began:5.1f} s  {name:<14} {text}")
            done = done and runs
            if trouble and not failed:
                failed, why = service["Spec"]["Name"], trouble
        return done, failed, why

    def _one(self, service: dict[str, Any], tasks: list[dict[str, Any]], wanted: int) -> tuple[bool, str, str]:
        spec = service["Spec"]["TaskTemplate"]
        new = [task for task in tasks if same(task["Spec"], spec)]
        state = (service.get("UpdateStatus") or {}).get("State", "")
        message = (service.get("UpdateStatus") or {}).get("Message", "")
        if state.startswith(("rollback", "paused")):
            return False, state.replace("_", " "), f"the update was stopped: {message}"
        errors = [task for task in new if task["Status"]["State"] in ("failed", "rejected")]
        # The first start is a crowd: what needs another may fail until that one is up.
        hopeless = len(errors) >= FAILURES_TO_GIVE_UP and time.monotonic() - self.began > PATIENCE
        trouble = last_error(errors) if hopeless else ""
        if (spec.get("RestartPolicy") or {}).get("Condition") == "on-failure":  # it ends when it is done
            if state == "updating":
                return False, "updating", ""
            if any(task["Status"]["State"] == "complete" for task in new):
                return True, "done", ""
            return False, "running" if not errors else f"failed {len(errors)} times", trouble
        running = sum(t["Status"]["State"] == "running" and t["DesiredState"] == "running" for t in new)
        text = f"{running}/{wanted} running"
        if not wanted and "Global" in service["Spec"]["Mode"]:
            text += ": no node is one it may run on"
        if state == "updating":
            text += ", updating"
        if errors and running < wanted:
            text += f"; {last_error(errors)}"
        elif running < wanted:
            pending = {t["Status"]["State"]: t["Status"].get("Err", "") for t in new if t["DesiredState"] == "running"}
            text += "".join(f"; {error}" for name, error in pending.items() if name == "pending" and error)
        stale = any(t["DesiredState"] == "running" and t not in new for t in tasks)
        # More than wanted is what Swarm 20.10 sometimes leaves when a replica dies in the middle of its update; it does
        # no harm, and the next update ends it.
        return running >= wanted and not stale and state != "updating", text, trouble


def same(task: dict[str, Any], service: dict[str, Any]) -> bool:
    """Whether a task is of the service's present form."""
    return bool(plain({**task, "Runtime": None}) == plain({**service, "Runtime": None}))


def plain(spec: Any) -> Any:
    """Without what is empty: tasks and services differ in whether they say so."""
    if not isinstance(spec, dict):
        return spec
    kept = {name: plain(value) for name, value in spec.items()}
    return {name: value for name, value in kept.items() if value not in ({}, [], None, 0, "")}


def last_error(tasks: Sequence[dict[str, Any]]) -> str:
    task = max(tasks, key=lambda each: str(each["Status"]["Timestamp"]))
    return str(task["Status"].get("Err") or task["Status"].get("Message", ""))


def wait(watch: Watch, *, only: str = "", without: str = "") -> int:
    """Until all that is watched runs: 0. When it will not, or nothing more changes, says why: 1."""
    watch.only, watch.without = only, without
    watch.changed = time.monotonic()
    failed = why = ""
    while time.monotonic() - watch.changed < watch.timeout:
        try:
            done, failed, why = watch.look()
        except Missing as error:  # a task has gone meanwhile, or the Swarm is choosing a leader
            done, failed, why = False, "", str(error)
        if done:
            return 0
        if failed:
            break
        time.sleep(1)
    explain(watch, failed, why or f"nothing has changed for {watch.timeout:.0f} s")
    return 1


def explain(watch: Watch, failed: str, why: str) -> None:
    """Which service, its last error, the end of its log, and what to do next."""
    docker = watch.docker
    slow = [name for name, text in watch.told.items() if not runs(text)]
    names = [failed] if failed else [f"{STACK}_{name}" for name in slow]
    say()
    say(f"Not all services run: {', '.join(names) or 'none is there'} ({why})")
    for name in names[:3]:
        say(f"\n{name}, its last tasks:")
        tasks = docker.run("service", "ps", "--no-trunc", "--format", "{{.Node}}\t{{.CurrentState}}\t{{.Error}}", name)
        for line in tasks.stdout.splitlines()[:4]:
            say(f"    {line}")
        blamed = re.search(r"task ([a-z0-9]{25})", why) if name == failed else None
        end = ended(docker, blamed[1]) if blamed else ""
        if end:
            say(f"The one that was to replace another {end}")
        lines = log_of(docker, blamed[1] if blamed and end else name)
        say(f"{'Its' if end else name + ', its'} log ends:" if lines else "Nothing was logged.")
        for line in lines:
            say(f"    {line[:300]}")
    if names:
        say(f"\nMore of it: docker service logs --tail 100 {names[0]}; docker service ps --no-trunc {names[0]}")
    if any("No such image" in text for text in watch.told.values()) or "No such image" in why:
        say("A node has no such image: push it to a registry (stack/build --push), or docker load it on every node.")
    if "rollback" in why or any("rollback" in text for text in watch.told.values()):
        say("The services run as before. Mend what the log says, and run stack/deploy again.")
    else:
        say("Mend what the log says and run stack/deploy again; it changes only what is not as it should be.")


def ended(docker: Docker, task: str) -> str:
    """How a task ended; empty if nobody knows any more."""
    done = docker.run("inspect", "--type", "task", task)
    if done.returncode:  # the Swarm keeps so few (docker swarm update --task-history-limit)
        return ""
    status = json.loads(done.stdout)[0]["Status"]
    code = (status.get("ContainerStatus") or {}).get("ExitCode")
    return f"ended with {status.get('Err') or status['State']}, exit code {code}."


def log_of(docker: Docker, name: str) -> list[str]:
    """The last lines of a service or a task."""
    words = [docker.program, "service", "logs", "--raw", "--tail", "12", name]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=15, check=False)
    except subprocess.TimeoutExpired:  # a node that is away
        return []
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-12:]


def runs(text: str) -> bool:
    running, slash, wanted = text.split(" ", 1)[0].partition("/")
    return text == "done" or (bool(slash) and int(running) >= int(wanted) and "updating" not in text)
