"""What ``mailfarm prove stack`` is told wrongly is said in a line, before anything is asked of a Swarm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailfarm.prove import command

RIGHT = {"MAILFARM_URL": "https://mail.example.org", "MAILFARM_TOKEN": "a-token-that-nobody-knows-0123456789"}


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MAILFARM_", "DOCKER"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER", "/nowhere/docker")


@pytest.mark.parametrize(
    ("changed", "words", "said"),
    [
        ({"MAILFARM_URL": ""}, [], "set MAILFARM_URL"),
        ({"MAILFARM_URL": "mail.example.org"}, [], "MAILFARM_URL: "),
        ({"MAILFARM_TOKEN": ""}, [], "set MAILFARM_TOKEN_FILE"),
        ({"MAILFARM_TOKEN_FILE": "/nowhere/token"}, [], "/nowhere/token"),
        ({"MAILFARM_CA": "/nowhere/ca.crt"}, [], "MAILFARM_CA: cannot read /nowhere/ca.crt"),
        ({}, ["--power-off", "ipmi off"], "--power-off and --power-on belong together"),
        ({}, ["--engine", "node2"], "write NODE=HOST"),
        ({}, [], "there is no program '/nowhere/docker'"),
        ({}, ["--faults", "swarm-flood"], "no fault and no family is called swarm-flood"),
    ],
)
def test_a_mistake_is_said_in_a_line(
    changed: dict[str, str],
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {**RIGHT, **changed}.items():
        monkeypatch.setenv(name, value)
    assert command.main(["stack", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_an_engine_that_is_no_manager_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program in the place of docker says what an engine says that is in no Swarm."""
    docker = tmp_path / "docker"
    refusal = "Error response from daemon: This node is not a swarm manager."
    docker.write_text(f'#!/bin/sh\n[ "$1" = info ] && echo node1 && exit\necho "{refusal}" >&2\nexit 1\n')
    docker.chmod(0o755)
    for name, value in {**RIGHT, "DOCKER": str(docker)}.items():
        monkeypatch.setenv(name, value)
    assert command.main(["stack", "--yes"]) == 2
    told = capsys.readouterr().err
    assert "This node is not a swarm manager" in told
    assert "DOCKER_HOST" in told
