"""What can be known before anything is deployed, all of it at once."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from .docker import STACK, Docker, Missing, host, in_registry, say
from .labels import check_labels, check_shards, label_nodes, stateful
from .marker import check_marker

PORTS = (25, 80, 443, 465, 587, 2525)
IMAGES = {  # as in mailfarm.yml
    "MAILFARM_TRAEFIK_IMAGE": "traefik:v3.7.15",
    "MAILFARM_REDIS_IMAGE": "redis:7.2-bookworm",
    "MAILFARM_POSTGRES_IMAGE": "postgres:15-bookworm",
}
SUBNET = "10.87.0.0/23"
CPUS = {"MAILFARM_CPUS": 2.0, "MAILFARM_POSTGRES_CPUS": 4.0}
"""How many CPUs a service may use, as in mailfarm.yml: each of most services, and PostgreSQL."""


def check(docker: Docker, found: dict[str, str], files: Sequence[Path], *, change: bool) -> None:
    """Everything that can be known before. Raises Missing with all of it."""
    version = docker.ask("version", "-f", "{{.Server.Version}}")
    numbers = [int(part) if part.isdigit() else 0 for part in version.split("+")[0].split("-")[0].split(".")[:2]]
    if numbers < [20, 10]:
        raise Missing(f"the engine is Docker {version}; 20.10 or newer is needed")
    swarm = json.loads(docker.ask("info", "-f", "{{json .Swarm}}"))
    if swarm["LocalNodeState"] != "active":
        raise Missing("this engine is in no Swarm: docker swarm init, and docker swarm join on the other nodes")
    if not swarm["ControlAvailable"]:
        raise Missing("this engine is a worker: run this on a manager, or point DOCKER_HOST at one")
    check_marker(docker)
    nodes = docker.objects("node")
    ready = [n for n in nodes if n["Status"]["State"] == "ready" and n["Spec"]["Availability"] == "active"]
    for node in nodes:
        if node not in ready:
            say(f"  note: node {host(node)} is {node['Status']['State']} and {node['Spec']['Availability']}")
    fit_cpus(ready, found)
    texts = [file.read_text("utf-8") for file in files]
    whose = stateful(texts, found)
    wrong = [
        *check_labels(docker, nodes, whose),
        *check_shards(docker, texts, found),
        *check_subnet(docker, found),
        *check_ports(docker),
        *check_images(docker, found, len(nodes)),
        *check_certificate(found),
        *check_files(docker, found, files),
    ]
    if wrong:
        raise Missing("\n".join(wrong))
    label_nodes(docker, nodes, ready, whose, change=change)
    say(f"  Docker {version}, {len(ready)} of {len(nodes)} nodes ready, {swarm['Managers']} managers")


def fit_cpus(ready: Sequence[dict[str, Any]], found: dict[str, str]) -> None:
    """An engine starts nothing that may use more CPUs than it has, so the smallest node says how many."""
    fewest = min(((n["Description"]["Resources"]["NanoCPUs"] / 1e9, host(n)) for n in ready), default=None)
    for name, many in CPUS.items():
        try:
            many = float(found.get(name) or many)
        except ValueError:
            raise Missing(f"{name}: {found[name]!r} is no number of CPUs; write 2 or 0.5") from None
        if fewest and many > fewest[0]:
            found[name] = f"{fewest[0]:g}"
            say(f"  note: {name} is {fewest[0]:g}, for node {fewest[1]} has no more than that")


def check_subnet(docker: Docker, found: Mapping[str, str]) -> Iterator[str]:
    text = found.get("MAILFARM_EDGE_SUBNET") or SUBNET
    try:
        wanted = ip_network(text)
    except ValueError as error:
        yield f"MAILFARM_EDGE_SUBNET: {error}"
        return
    for network in docker.objects("network", "--filter", "driver=overlay"):
        for config in network["IPAM"]["Config"] or []:
            theirs = ip_network(config["Subnet"])
            if network["Name"] == "mailfarm_edge":
                if theirs != wanted:
                    yield (
                        f"the network mailfarm_edge is {theirs} and MAILFARM_EDGE_SUBNET says {wanted}; a network does "
                        "not change while it is used: stack/deploy --rm first"
                    )
            elif theirs.version == wanted.version and theirs.overlaps(wanted):
                yield f"{wanted} overlaps {theirs} of network {network['Name']}: choose another MAILFARM_EDGE_SUBNET"


def check_ports(docker: Docker) -> Iterator[str]:
    running = docker.objects("service")
    ours = [s for s in running if s["Spec"]["Labels"].get("com.docker.stack.namespace") == STACK]
    for service in running:
        if service in ours:
            continue
        for port in (service["Spec"].get("EndpointSpec") or {}).get("Ports") or []:
            if port.get("PublishedPort") in PORTS:
                yield f"the service {service['Spec']['Name']} has port {port['PublishedPort']} already"
    # Only if the engine is on this machine, and nothing of ours holds them yet.
    if not ours and docker.ask("info", "-f", "{{.Name}}") == socket.gethostname() and not os.environ.get("DOCKER_HOST"):
        for port in PORTS:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("", port))
                except PermissionError:
                    return
                except OSError:
                    yield f"something on this machine has port {port} already (ss -ltnp 'sport = :{port}')"


def check_images(docker: Docker, found: Mapping[str, str], nodes: int) -> Iterator[str]:
    ours = found["MAILFARM_IMAGE"]
    for image in [ours, *(found.get(name) or default for name, default in IMAGES.items())]:
        if docker.run("image", "inspect", image).returncode == 0:
            continue
        local = image.startswith("mailfarm")
        if local:
            yield f"this engine has no image {image}: run stack/build (with --bare where no registry is reached)"
            continue
        say(f"  pulling {image}")
        pulled = docker.run("pull", "-q", image)
        if pulled.returncode:
            yield f"cannot pull {image}: {pulled.stderr.strip()}"
    if nodes > 1 and not in_registry(ours):
        say(f"  note: {ours} is in no registry: every node needs it (stack/build --push, or --save and docker load)")


def check_certificate(found: Mapping[str, str]) -> Iterator[str]:
    certificate, key = (Path(found["MAILFARM_PRIVATE"]) / name for name in ("tls.crt", "tls.key"))
    if shutil.which("openssl") is None:
        return
    command = ["openssl", "x509", "-in", str(certificate), "-noout"]
    if subprocess.run([*command, "-checkend", "0"], capture_output=True, check=False).returncode:
        yield f"{certificate} has expired or is no certificate: stack/prepare with --certificate and --key"
        return
    theirs = subprocess.run([*command, "-pubkey"], capture_output=True, check=False).stdout
    ours = subprocess.run(["openssl", "pkey", "-in", str(key), "-pubout"], capture_output=True, check=False).stdout
    if not ours or theirs != ours:
        yield f"{key} is not the key of {certificate}: stack/prepare with --certificate and --key, both of them"
        return
    if subprocess.run([*command, "-checkend", str(14 * 86400)], capture_output=True, check=False).returncode:
        say(f"  note: {certificate} expires within two weeks")
    name = found["MAILFARM_HOSTNAME"]
    said = subprocess.run([*command, "-checkhost", name], capture_output=True, text=True, check=False)
    if "does match" not in said.stdout:
        say(f"  note: the certificate is not for {name}; clients that check it will refuse")


def check_files(docker: Docker, found: Mapping[str, str], files: Sequence[Path]) -> Iterator[str]:
    """Clients from 23 on can read the files without deploying them."""
    options = [word for path in files for word in ("-c", str(path))]
    done = docker.run("stack", "config", *options, env=found)
    if done.returncode and "'docker stack'" not in done.stderr and "unknown" not in done.stderr.splitlines()[0]:
        yield f"docker stack config: {done.stderr.strip()}"
