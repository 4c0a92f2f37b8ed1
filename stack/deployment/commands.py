"""To deploy and to take away."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .docker import NAMESPACE, STACK, Docker, host, say
from .marker import check_marker
from .rollout import deploy_alone, one_by_one, one_deploy
from .watch import Watch, wait

LATER = """\
version: "3.9"
services:
  traefik: {deploy: {placement: {constraints: [node.labels.mailfarm.traefik-later == true]}}}
"""


def deploy(docker: Docker, found: dict[str, str], files: Sequence[Path], timeout: float) -> int:
    """Stores one after the other, the schema before the services that need it, and Traefik after what it leads to. The
    exit code. Raises Missing: it was begun, and Docker did not answer."""
    services = {each["Spec"]["Name"]: each for each in docker.objects("service", "--filter", f"label={NAMESPACE}")}
    watch = Watch(docker, timeout)
    if code := one_by_one(watch, services, found, files):
        return code
    if f"{STACK}_schema" in services and changed(services[f"{STACK}_schema"], found):
        say(f"  the schema, by {found['MAILFARM_IMAGE']}, while the old services run on")
        if code := deploy_alone(watch, "schema", found, files):
            return code
    if f"{STACK}_traefik" not in services:
        # It would ask for a Swarm API that is not there yet, and say so in its log.
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as later:
            later.write(LATER)
            later.flush()
            if code := one_deploy(docker, found, [*files, Path(later.name)]):
                return code
        if code := wait(watch, without=f"{STACK}_traefik"):
            return code
    if code := one_deploy(docker, found, files) or wait(watch):
        return code
    say(f"All services run, after {time.monotonic() - watch.began:.0f} s.")
    forget_old(docker)
    answers(docker, found)
    return 0


def changed(service: Mapping[str, Any], found: Mapping[str, str]) -> bool:
    """Whether a service has another image than it should."""
    image = service["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].partition("@")[0]
    return bool(image != found["MAILFARM_IMAGE"])


def answers(docker: Docker, found: Mapping[str, str]) -> None:
    """What the nodes with Traefik say on their ports, if this machine reaches them."""
    tasks = docker.ask(
        "service", "ps", "-q", "--no-trunc", "--filter", "desired-state=running", f"{STACK}_traefik"
    ).split()
    if not tasks:
        say("  Traefik runs on no node (MAILFARM_TRAEFIK_ON), so no port of the farm is open.")
        return
    nodes = {task["NodeID"] for task in json.loads(docker.ask("inspect", "--type", "task", *tasks))}
    deadline = time.monotonic() + 20
    for node in docker.objects("node"):
        if node["ID"] not in nodes:
            continue
        address = node["Status"]["Addr"].strip("[]")
        if address in ("0.0.0.0", "127.0.0.1"):
            address = "127.0.0.1"
        said = banner(address)
        while not said.startswith("220") and time.monotonic() < deadline:
            time.sleep(0.5)
            said = banner(address)
        silent = "does not answer this machine (a firewall?)"
        say(f"  {host(node)}: {address} port 25 {'says ' + said if said else silent}")
    name = found["MAILFARM_HOSTNAME"]
    private = Path(found["MAILFARM_PRIVATE"])
    say(f"\nThe web inbox: https://{name}/    its first token: {private}/first_token")
    if (private / "ca.crt").exists():
        say(f"Clients that check the certificate need {private}/ca.crt.")
    say(f"{name} must lead to these nodes. To send a mail through each port and read it again: stack/try")


def banner(address: str) -> str:
    """What port 25 says first, and a polite end."""
    try:
        with socket.create_connection((address, 25), timeout=2) as connection:
            connection.settimeout(3)
            said = connection.recv(512)
            connection.sendall(b"QUIT\r\n")
            while connection.recv(512):
                pass
            return said.decode("ascii", "replace").strip()
    except OSError:
        return ""


def forget_old(docker: Docker) -> None:
    """Configs and secrets that no service has, nor would have after a rollback."""
    used: set[str] = set()
    for service in docker.objects("service"):
        for spec in (service["Spec"], service.get("PreviousSpec") or {}):
            container = (spec.get("TaskTemplate") or {}).get("ContainerSpec") or {}
            used |= {each["ConfigID"] for each in container.get("Configs") or []}
            used |= {each["SecretID"] for each in container.get("Secrets") or []}
    for kind in ("config", "secret"):
        for each in docker.ask(kind, "ls", "-q", "--filter", f"label={NAMESPACE}").split():
            if each not in used:
                docker.run(kind, "rm", each)


def remove(docker: Docker) -> int:
    """Take the stack away, and wait until it is gone. Raises Missing while a restore is at work."""
    check_marker(docker)
    done = docker.run("stack", "rm", STACK)
    say((done.stdout + done.stderr).strip())
    deadline = time.monotonic() + 120
    while docker.ask("network", "ls", "-q", "--filter", f"label={NAMESPACE}") or docker.ask(
        "service", "ls", "-q", "--filter", f"label={NAMESPACE}"
    ):
        if time.monotonic() > deadline:
            say("Some of it does not go: docker stack ps mailfarm; docker network inspect mailfarm_edge")
            return 1
        time.sleep(0.5)
    say("The stack is gone. Its volumes with all mail are still on the nodes: docker volume ls --filter name=mailfarm_")
    return done.returncode
