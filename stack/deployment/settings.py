"""What stack/deploy is told: the variables of the stack's files, among them the hash of each config and secret."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from .docker import Missing

HERE = Path(__file__).resolve().parent.parent
PROJECT = HERE.parent
CONFIGS = {
    "traefik": PROJECT / "traefik" / "traefik.yml",
    "traefik_dynamic": PROJECT / "traefik" / "dynamic.yml",
    "swarm_api": HERE / "swarm_api.py",
    "redis_start": HERE / "redis-start",
    "redis_queue": HERE / "redis-queue.conf",
    "redis_cache": HERE / "redis-cache.conf",
    "postgresql": HERE / "postgresql.conf",
    "postgres_init": HERE / "postgres-init.sql",
    "limits": HERE / "limits.toml",
    "prometheus": HERE / "monitoring" / "prometheus.yml",
    "prometheus_rules": HERE / "monitoring" / "rules.yml",
}
SECRETS = ("database_password", "queue_password", "cache_password", "first_token", "tls.crt", "tls.key")


def read_env(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, text in enumerate(path.read_text("utf-8").splitlines() if path.exists() else [], 1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.replace("_", "a").isalnum():
            raise Missing(f"{path}, line {number}: write NAME=value")
        if value[:1] in ("'", '"'):
            value = "".join(shlex.split(value))
        found[name] = value
    return found


def short_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def settings() -> dict[str, str]:
    """All variables of the stack's files, or Missing."""
    private = Path(os.environ.get("MAILFARM_PRIVATE") or HERE / "private").resolve()
    ours = {name: value for name, value in os.environ.items() if name.startswith("MAILFARM_")}
    found = {**read_env(PROJECT / ".make/stack/image.env"), **read_env(private / "farm.env"), **ours}
    found["MAILFARM_PRIVATE"] = str(private)
    wrong: list[str] = []
    if not found.get("MAILFARM_IMAGE"):
        wrong.append("there is no image of mailfarm yet: run stack/build, or set MAILFARM_IMAGE")
    for name in ("MAILFARM_HOSTNAME", "MAILFARM_DOMAINS", "MAILFARM_API_HOSTS"):
        if not found.get(name):
            wrong.append(f"{name} is not set: run stack/prepare, or write it into {private}/farm.env")
    files = dict(CONFIGS)
    if limits := found.get("MAILFARM_LIMITS_FILE"):
        files["limits"] = Path(limits).resolve()
        found["MAILFARM_LIMITS_FILE"] = str(files["limits"])
    files |= {name.replace(".", "_"): private / name for name in SECRETS}
    for name, path in files.items():
        try:
            found[f"HASH_{name}"] = short_hash(path)
        except OSError as error:
            hint = "; run stack/prepare" if path.parent == private else ""
            wrong.append(f"cannot read {path}: {error.strerror}{hint}")
        else:
            if path.stat().st_size == 0:
                wrong.append(f"{path} is empty")
    for url, replicas in (
        ("MAILFARM_DATABASE_URL", "POSTGRES_REPLICAS"),
        ("MAILFARM_QUEUE_URL", "REDIS_QUEUE_REPLICAS"),
        ("MAILFARM_CACHE_URL", "REDIS_CACHE_REPLICAS"),
    ):
        found[replicas] = "0" if found.get(url) else "1"
    if wrong:
        raise Missing("\n".join(wrong))
    return found


def files_of(found: Mapping[str, str], more: Sequence[str]) -> list[Path]:
    """The stack's file and its overlays."""
    names = [*found.get("MAILFARM_OVERLAYS", "").replace(",", " ").split(), *more]
    if any(found.get(name) for name in ("MAILFARM_DATABASE_URL", "MAILFARM_QUEUE_URL", "MAILFARM_CACHE_URL")):
        names.insert(0, "stack/external.yml")
    paths = [HERE / "mailfarm.yml"]
    for name in names:
        path = next((each for each in (Path(name), PROJECT / name, HERE / name) if each.is_file()), None)
        if path is None:
            raise Missing(f"there is no overlay {name}")
        paths.append(path.resolve())
    return paths
