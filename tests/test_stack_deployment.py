"""The parts of stack/deploy that need no engine: one service of the files by itself, and a certificate's key."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

STACK = Path(__file__).resolve().parent.parent / "stack"
FILES = [STACK / name for name in ("mailfarm.yml", "shards.yml", "monitoring.yml")]


def test_all_stores_are_found(deployment: Any) -> None:
    texts = [file.read_text("utf-8") for file in FILES]
    assert deployment.rollout.stores_of(texts) == [
        "postgres", "redis-cache", "redis-queue-1", "redis-queue-2", "redis-queue-3",
    ]  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_a_service_by_itself_is_word_for_word_the_same(deployment: Any, file: Path) -> None:
    """Else the whole deployment after it would roll it once more."""
    text = file.read_text("utf-8")
    whole = yaml.safe_load(text)
    for name in [*whole["services"], "none"]:
        part = yaml.safe_load(deployment.rollout.alone(text, name, STACK))
        expected = {name: whole["services"][name]} if name != "none" else None
        assert part.get("services") == expected
        for section in ("networks", "volumes", "secrets"):
            assert part.get(section) == whole.get(section)
        for config, said in whole.get("configs", {}).items():
            path = said["file"] if said["file"].startswith("$") else f"{STACK}/{said['file']}"
            assert part["configs"][config] == {**said, "file": path}


def test_a_key_of_another_certificate_is_not_deployed(deployment: Any, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        command = [STACK / "prepare", "mail.example.org"]
        subprocess.run(command, env={"PATH": "/usr/bin:/bin", "MAILFARM_PRIVATE": str(folder)}, check=True)
    found = {"MAILFARM_PRIVATE": str(ours), "MAILFARM_HOSTNAME": "mail.example.org"}
    assert list(deployment.checks.check_certificate(found)) == []
    shutil.copy(theirs / "tls.key", ours / "tls.key")
    (wrong,) = deployment.checks.check_certificate(found)
    assert "tls.key is not the key of" in wrong


def test_an_image_with_a_path_is_in_a_registry(deployment: Any) -> None:
    for image in ("registry.example.org/mailfarm:1", "someone/mailfarm:1", "localhost:5000/mailfarm:1"):
        assert deployment.docker.in_registry(image)
    assert not deployment.docker.in_registry("mailfarm:1")


def test_nothing_may_use_more_cpus_than_the_smallest_node_has(deployment: Any, capsys: Any) -> None:
    def node(name: str, cpus: float) -> dict[str, Any]:
        return {"Description": {"Hostname": name, "Resources": {"NanoCPUs": int(cpus * 1e9)}}}

    found = {"MAILFARM_CPUS": "1.5"}
    deployment.checks.fit_cpus([node("large", 8), node("small", 2)], found)
    assert found == {"MAILFARM_CPUS": "1.5", "MAILFARM_POSTGRES_CPUS": "2"}
    assert "MAILFARM_POSTGRES_CPUS is 2, for node small" in capsys.readouterr().out
    with pytest.raises(deployment.docker.Missing, match="MAILFARM_CPUS: 'many'"):
        deployment.checks.fit_cpus([], {"MAILFARM_CPUS": "many"})


def test_as_many_cpus_as_the_files_say(deployment: Any) -> None:
    texts = "".join(file.read_text("utf-8") for file in FILES)
    for name, many in deployment.checks.CPUS.items():
        assert f"${{{name}:-{many:g}}}" in texts
