"""Which node has a store's data: said by a label, on one node and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .docker import STACK, Docker, host, say

STATEFUL = re.compile(r"node\.labels\.mailfarm\.(postgres|prometheus|redis-queue-[0-9]+) ==")


def stateful(texts: Sequence[str], found: Mapping[str, str]) -> dict[str, str]:
    """The stores of these files that run here, and their labels."""
    names = dict.fromkeys(name for text in texts for name in STATEFUL.findall(text))
    return {name: f"mailfarm.{name}" for name in names if found.get(_replicas(name)) != "0"}


def _replicas(name: str) -> str:
    return {"postgres": "POSTGRES_REPLICAS", "prometheus": ""}.get(name, "REDIS_QUEUE_REPLICAS")


def holders(nodes: Sequence[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    return [node for node in nodes if (node["Spec"].get("Labels") or {}).get(label) == "true"]


def check_labels(docker: Docker, nodes: Sequence[dict[str, Any]], whose: Mapping[str, str]) -> Iterator[str]:
    """A store that is there already must not find itself on an empty volume."""
    for name, label in whose.items():
        having = holders(nodes, label)
        if len(having) > 1:
            yield (
                f"{name} could start on {' or '.join(map(host, having))}, and on all but one its volume is empty: "
                f"take the label from the others (docker node update --label-rm {label} NODE)"
            )
        elif not having and docker.run("service", "inspect", f"{STACK}_{name}").returncode == 0:
            yield (
                f"no node has the label {label}=true any more, and {name} was running: put it back on the node with "
                f"the volume{last_place(docker, name)} (docker node update --label-add {label}=true NODE)"
            )


def last_place(docker: Docker, name: str) -> str:
    """Where it ran, if the Swarm remembers."""
    said = docker.run("service", "ps", "--format", "{{.Node}}", f"{STACK}_{name}").stdout.split()
    return f", perhaps {said[0]}" if said else ""


def label_nodes(
    docker: Docker,
    nodes: Sequence[dict[str, Any]],
    ready: Sequence[dict[str, Any]],
    whose: Mapping[str, str],
    *,
    change: bool,
) -> None:
    """Data stays on its node: a store that has none yet gets one, each another while there are enough. A volume that
    this engine has is data, even if the Swarm is a new one."""
    load = {n["ID"]: sum(label.startswith("mailfarm.") for label in n["Spec"].get("Labels") or {}) for n in ready}
    here = docker.ask("info", "-f", "{{.Swarm.NodeID}}")
    for name, label in whose.items():
        if holders(nodes, label):
            continue
        node = min(ready, key=lambda each: (load[each["ID"]], host(each)))
        if docker.run("volume", "inspect", f"{STACK}_{name}").returncode == 0:
            node = next((each for each in ready if each["ID"] == here), node)
        load[node["ID"]] += 1
        if change:
            docker.ask("node", "update", "--label-add", f"{label}=true", node["ID"])
        say(f"  {name} {'has its data' if change else 'will have its data'} on node {host(node)} (label {label}=true)")


def check_shards(docker: Docker, texts: Sequence[str], found: Mapping[str, str]) -> Iterator[str]:
    """Mail waits in a shard: one that goes takes it along."""
    named = {name for text in texts for name in re.findall(r"(?m)^  (redis-queue-\d+):", text)}
    if found.get("MAILFARM_QUEUE_URL"):
        for name in sorted(named - {"redis-queue-1", "redis-queue-2"}):
            yield (
                f"an overlay has {name} and sets MAILFARM_QUEUE_URL, and so does farm.env or the environment: shards "
                "of the stack and a queue elsewhere exclude each other"
            )
    running = docker.ask("service", "ls", "--format", "{{.Name}}", "--filter", f"name={STACK}_redis-queue-").split()
    for name in sorted({each.removeprefix(f"{STACK}_") for each in running} - named):
        yield (
            f"the shard {name} runs and is in none of the files: what waits in it would be stranded. Deploy with the "
            "overlay that has it, and its URL left out for mx and submission; when mailfarm_queue_entries of that "
            f"shard is 0: docker service rm {STACK}_{name}, and deploy without the overlay"
        )
