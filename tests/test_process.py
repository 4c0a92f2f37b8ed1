"""The process of a service: what it takes from the system at its start."""

from __future__ import annotations

import gc
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import FREE_PORTS, clean_environ, until
from servers import free_port

from mailfarm import config, process
from mailfarm.process import connections

HARD = 4096


@contextmanager
def limited(log: Path, *words: str, settings: Mapping[str, str]) -> Iterator[int]:
    """A ``mailfarm`` command whose engine lets it open 256 files, and 4,096 if it asks; its process id."""
    bash = f'ulimit -Sn 256 && ulimit -Hn {HARD} && exec "$0" -m mailfarm "$@"'
    with open(log, "wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", bash, sys.executable, *words],
            env=clean_environ() | dict(settings),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file,
        )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(("most", "warned"), [("1000", False), ("10000", True)])
def test_it_opens_as_many_files_as_it_may_and_says_when_they_are_too_few(
    tmp_path: Path, most: str, warned: bool
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    settings = {
        "MAILFARM_DATABASE_URL": f"postgresql://mailfarm@{nobody}/mailfarm",
        "MAILFARM_QUEUE_URL": f"redis://{nobody}",
        "MAILFARM_CACHE_URL": f"redis://{nobody}",
        "MAILFARM_MX_LISTEN": "127.0.0.1:0",
        "MAILFARM_MX_STARTTLS": "no",
        "MAILFARM_MX_MAX_CONNECTIONS": most,
        "MAILFARM_STATUS_LISTEN": "off",
    }
    log = tmp_path / "log"
    with limited(log, "mx", settings=settings) as pid:
        until(lambda: "waiting" in log.read_text("utf-8"), 60)
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (HARD, HARD)
    said = [line for line in log.read_text("utf-8").splitlines() if "ulimit -n" in line]
    assert len(said) == warned
    assert all("10000 connections" in line and f"{HARD} files" in line for line in said)


def test_the_connections_that_settings_allow() -> None:
    values = {"MAILFARM_SUBMISSION_MAX_CONNECTIONS": "7", "MAILFARM_SUBMISSION_TLS": "off"}
    values |= {"MAILFARM_LIVE_MAX_CONNECTIONS": "500", "MAILFARM_MX_MAX_CONNECTIONS": "30"}
    settings = config.load(values, lambda path: "")
    assert connections(settings, ("submission", "mx")) == 2 * 7 + 30
    assert connections(settings, ("live",)) == 500
    assert connections(settings, ("inbound", "sweep")) == 0


def test_what_thousands_of_connections_made_is_looked_at_in_small_lots() -> None:
    before, lots = gc.get_threshold(), []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 1:
            lots.append(len(gc.get_objects(0)) + len(gc.get_objects(1)))

    process._collect_less()
    gc.callbacks.append(count)
    try:
        kept: list[list[int]] = [[] for _ in range(400_000)]
    finally:
        gc.callbacks.remove(count)
        gc.set_threshold(*before)
        gc.unfreeze()
    assert len(kept) == 400_000
    assert lots
    assert max(lots) < 100_000


FAILS_TO_START = """
import os, signal, sys
from twisted.internet import reactor
from twisted.internet.task import deferLater
from mailfarm.assembly import Farm
from mailfarm.cli import main
from mailfarm.errors import ConfigurationError

reactor.addSystemEventTrigger("before", "shutdown", deferLater, reactor, 0.1)

async def told_meanwhile(farm):
    os.kill(os.getpid(), signal.SIGTERM)
    while not farm.status.stopping:
        await deferLater(reactor, 0)
    raise ConfigurationError(["the reason"])

async def told_afterwards(farm):
    reactor.addSystemEventTrigger("before", "shutdown", os.kill, os.getpid(), signal.SIGTERM)
    raise ConfigurationError(["the reason"])

Farm.start = locals()[sys.argv.pop(1)]
sys.exit(main())
"""


@pytest.mark.parametrize("when", ["told_meanwhile", "told_afterwards"])
def test_a_start_that_fails_while_it_is_told_to_stop_says_why_and_no_more(when: str) -> None:
    command = [sys.executable, "-c", FAILS_TO_START, when, "dev", "--ephemeral", "--json"]
    ended = subprocess.run(
        command, env=clean_environ() | FREE_PORTS, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == "mailfarm dev: the reason"
    assert ended.returncode == 1
