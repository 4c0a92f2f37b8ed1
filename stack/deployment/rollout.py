"""`docker stack deploy`, of all services or of one.

It changes all services at the same moment, and with both shards of the queue away no mail is taken. So each store of a
stack that runs is first deployed by itself, from the same files, in which the other services are put where Docker does
not look; nothing happens to one that has not changed. What the whole deployment then says of it is word for word the
same, and rolls nothing.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from .docker import STACK, Docker, in_registry, say
from .marker import check_marker
from .settings import HERE
from .watch import Watch, wait

STORES = re.compile(r"postgres|redis-queue-[0-9]+|redis-cache")
PAUSE = 3.0
"""Seconds after one that was changed: mailfarm tries twice a second to connect again."""
_SERVICE = re.compile(r"^  ([a-z0-9][a-z0-9-]*):")
_FILE = re.compile(r"(?m)((?<![\w-])file:\s*[\"']?)(?![\s/$\"'])")


def one_deploy(docker: Docker, found: Mapping[str, str], files: Sequence[Path], *, prune: bool = True) -> int:
    """The exit code. Raises Missing."""
    check_marker(docker)  # a restore may have begun since
    never = not in_registry(found["MAILFARM_IMAGE"])
    words = ["stack", "deploy", "--resolve-image", "never" if never else "changed"]
    if prune:
        words.append("--prune")
    if not never:
        words.append("--with-registry-auth")
    if "--detach" in docker.ask("stack", "deploy", "--help"):  # later clients; we watch ourselves
        words.append("--detach=true")
    for path in files:
        words += ["-c", str(path)]
    done = docker.run(*words, STACK, env=found)
    for line in [*done.stdout.splitlines(), *done.stderr.splitlines()]:
        if done.returncode or line.startswith("Creating service") or not line.startswith(("Creating", "Updating")):
            say(f"  {line}")
    return 1 if done.returncode else 0


def one_by_one(watch: Watch, services: Mapping[str, object], found: Mapping[str, str], files: Sequence[Path]) -> int:
    """Each store that is there already, in the form the files give it now. The exit code; the first that will not run
    is the last that is tried. Raises Missing."""
    pause = False
    for name in stores_of([file.read_text("utf-8") for file in files]):
        if f"{STACK}_{name}" not in services:
            continue
        if pause:
            time.sleep(PAUSE)
        before = tasks(watch.docker, name)
        if code := deploy_alone(watch, name, found, files):
            return code
        pause = tasks(watch.docker, name) != before
    return 0


def deploy_alone(watch: Watch, name: str, found: Mapping[str, str], files: Sequence[Path]) -> int:
    """Deploy one service of the files and wait for it. The exit code. Raises Missing."""
    with ExitStack() as stack:
        paths = []
        for file in files:
            part = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".yml"))
            part.write(alone(file.read_text("utf-8"), name, files[0].parent))
            part.flush()
            paths.append(Path(part.name))
        limits = found.get("MAILFARM_LIMITS_FILE") or str(HERE / "limits.toml")
        code = one_deploy(watch.docker, {**found, "MAILFARM_LIMITS_FILE": limits}, paths, prune=False)
    return code or wait(watch, only=f"{STACK}_{name}")


def stores_of(texts: Sequence[str]) -> list[str]:
    """Their names: Postgres, the cache, the shards of the queue."""
    return sorted({name for text in texts for name, _ in blocks(text) if STORES.fullmatch(name)})


def blocks(text: str) -> list[tuple[str, str]]:
    """The services of one of the stack's files, in order, each with its lines."""
    _, services, _ = parts(text)
    starts = [(found[1], found.start()) for found in re.finditer(_SERVICE.pattern, services, re.M)]
    ends = [*(start for _, start in starts[1:]), len(services)]
    return [(name, services[start:end]) for (name, start), end in zip(starts, ends, strict=True)]


def parts(text: str) -> tuple[str, str, str]:
    """What is before the services, they, and what comes after them."""
    begin = re.search(r"(?m)^services:.*\n", text)
    if begin is None:
        return text, "", ""
    end = re.compile(r"(?m)^[a-z]").search(text, begin.end())
    stop = end.start() if end else len(text)
    return text[: begin.start()], text[begin.end() : stop], text[stop:]


def alone(text: str, name: str, folder: Path) -> str:
    """A file with one of its services. The others stay, in their order, since they may have what it refers to (by
    &anchors): under names that begin with x-, which Docker does not read. Files in it are those in ``folder``."""
    before, _, after = parts(text)
    made: list[str] = []
    section = ""
    for number, (each, lines) in enumerate(blocks(text)):
        wanted = "services" if each == name else section if section.startswith("x-rest") else f"x-rest-{number}"
        if wanted != section:
            section = wanted
            made.append(f"{section}:\n")
        made.append(lines)
    return _FILE.sub(rf"\g<1>{folder}/", before + "".join(made) + after)


def tasks(docker: Docker, name: str) -> set[str]:
    """The tasks of a store that run or are to."""
    words = ("service", "ps", "-q", "--no-trunc", "--filter", "desired-state=running", f"{STACK}_{name}")
    return set(docker.run(*words).stdout.split())
