"""What keeps stack/deploy and a second stack/restore away while a restore is at work: a config in the Swarm, so that it
is seen from every manager and outlives the program that made it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping

from .docker import STACK, Docker, Missing

NAME = f"{STACK}-restoring"
LABEL = f"{STACK}.replicas."
"""Before the name of a service that is stopped: how many replicas it is to have again."""
CUT_OFF = (
    "if it was cut off: stack/restore FILE --yes --force, which does it again from the beginning; or, to go on with "
    f"the database there is: docker config rm {NAME}, and then stack/deploy"
)


def check_marker(docker: Docker) -> None:
    """Raises Missing while a restore is at work."""
    found = inspect(docker)
    if found is not None:
        raise Missing(f"stack/restore is at work ({found.get('by', 'nobody knows where')}); {CUT_OFF}")


def replicas_of(docker: Docker) -> dict[str, int]:
    """What the restore that is or was at work has stopped, and how many of each there were."""
    labels = inspect(docker) or {}
    return {name.removeprefix(LABEL): int(many) for name, many in labels.items() if name.startswith(LABEL)}


def set_marker(docker: Docker, replicas: Mapping[str, int]) -> None:
    """Raises Missing if there is one already: only one of two that begin together can make it."""
    by = f"on {socket.gethostname()}, process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}"
    words = ["--label", f"by={by}", *(f"--label={LABEL}{name}={many}" for name, many in replicas.items())]
    done = docker.run("config", "create", *words, NAME, "-", given=by)
    if done.returncode:
        check_marker(docker)
        raise Missing(f"docker config create {NAME}: {done.stderr.strip()}")


def remove_marker(docker: Docker) -> None:
    """Raises Missing if it stays."""
    docker.ask("config", "rm", NAME)


def inspect(docker: Docker) -> dict[str, str] | None:
    """Its labels; None: there is none. Raises Missing if nobody can say."""
    if NAME not in docker.ask("config", "ls", "--format", "{{.Name}}", "--filter", f"name={NAME}").split():
        return None
    done = docker.run("config", "inspect", NAME)
    if done.returncode:  # it has gone meanwhile
        return None
    labels: dict[str, str] = json.loads(done.stdout)[0]["Spec"].get("Labels") or {}
    return labels
