"""``mailfarm help operating`` and the README, held against the stack's files and the code: what they name is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
OPERATING = (ROOT / "mailfarm" / "docs" / "operating.md").read_text("utf-8")
BOTH = pytest.mark.parametrize("text", [README, OPERATING], ids=["README", "operating"])


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "stack" / "mailfarm.yml").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading."""
    below = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in below.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_every_service_is_in_the_table_with_its_replicas(stack: dict[str, Any]) -> None:
    said = {name: row[1] for row in table(OPERATING, "What runs") for name in re.findall(r"`([a-z0-9-]+)`", row[0])}
    for name, service in stack["services"].items():
        deploy = service["deploy"]
        if deploy.get("mode") == "global":
            assert said.pop(name) == ("one on each node" if name == "spool" else "one on each manager")
        elif name == "schema":
            assert said.pop(name) == "once per deployment"
        else:
            many = re.search(r"\d+", str(deploy["replicas"]))
            assert many is not None
            assert said.pop(name).split()[0] == many[0], name
    assert said == {}


def test_the_numbers_are_those_of_the_stack(stack: dict[str, Any]) -> None:
    ports = {int(port["published"]) for port in stack["services"]["traefik"]["ports"]}
    assert ports == {int(each) for each in table(OPERATING, "What runs")[0][2].split(",")}
    mx = stack["services"]["mx"]
    sizes = {each["target"]: each["tmpfs"]["size"] for each in mx["volumes"] if "tmpfs" in each}
    for place, size in sizes.items():
        assert f"`{place}` ({size >> 20} MB)" in OPERATING
    assert mx["deploy"]["resources"]["limits"]["memory"] == "1G"
    assert "the container's limit of 1 GB" in OPERATING
    assert f"`MAILFARM_GRACE`, {mx['environment']['MAILFARM_GRACE']} s" in OPERATING
    assert mx["environment"]["MAILFARM_LINGER"] == "2"
    assert "accepting for two seconds (`MAILFARM_LINGER`)" in OPERATING
    assert f"`MAILFARM_EDGE_SUBNET`, {re.sub(r'.*:-|}', '', mx['environment']['MAILFARM_MX_PROXY_FROM'])})" in OPERATING
    postgres = re.search(r"^max_connections = (\d+)", (ROOT / "stack" / "postgresql.conf").read_text(), re.M)
    assert postgres is not None
    assert f"`max_connections` in `stack/postgresql.conf` is {postgres[1]}" in OPERATING


def test_networks_and_volumes_have_these_names(stack: dict[str, Any]) -> None:
    for network in stack["networks"].values():
        assert f"`{network['name']}`" in OPERATING
        assert network["attachable"] is False
    removed = set(OPERATING.rsplit("docker volume rm ", 1)[1].split("`", 1)[0].split())
    assert removed == {f"mailfarm_{name}" for name in stack["volumes"]}


def test_the_encrypted_networks_are_the_stack_s_in_all_else(stack: dict[str, Any]) -> None:
    theirs = yaml.safe_load((ROOT / "stack" / "encrypted.yml").read_text("utf-8"))["networks"]
    assert [each.pop("driver_opts") for each in theirs.values()] == [{"encrypted": "true"}] * 3
    assert theirs == stack["networks"]


def test_the_five_commands_are_the_same_in_both() -> None:
    five = re.search(r"<!-- five commands -->\n+```sh\n(.*?)```", README, re.S)
    assert five is not None
    assert five[1] in OPERATING
    assert len(five[1].splitlines()) == 5


@BOTH
def test_files_and_commands_exist(text: str) -> None:
    for name in re.findall(r"\b((?:stack|traefik)/[\w./-]*\w)", text):
        if not name.startswith("stack/private"):
            assert (ROOT / name).exists(), name
    for word, rest in re.findall(r"\b(stack/(?:build|prepare|deploy|try|backup|restore))\b([^\n`|&(;]*)", text):
        said = (ROOT / word).read_text("utf-8")
        for option in re.findall(r" (--[a-z-]+)", rest):
            assert f'"{option}"' in said or f"{option})" in said, (word, option)


@BOTH
def test_metrics_exist(text: str) -> None:
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "mailfarm").rglob("*.py"))
    for name in re.findall(r"`(mailfarm_[a-z_]+)[`{]", text):
        if name in ("mailfarm_edge", "mailfarm_data", "mailfarm_control", "mailfarm_postgres", "mailfarm_before"):
            continue
        if name.startswith("mailfarm_redis") or name == "mailfarm_spool":  # volumes
            continue
        short = name.removesuffix("_total")
        parts = short.split("_", 2)
        assert f'"{short}"' in code or re.search(rf'["_]{parts[2]}"', code), name
