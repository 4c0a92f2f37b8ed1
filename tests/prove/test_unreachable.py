"""A network that is cut without a word: what runs in a container's network for it, tried in two network namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mailfarm.prove

PROGRAM = Path(mailfarm.prove.__file__).with_name("unreachable.py")
HERE, THERE = "192.0.2.1", "192.0.2.2"
ECHO = f"""
import socket
with socket.create_server(("{THERE}", 2500)) as server:
    print("listening", flush=True)
    talk, _ = server.accept()
    while piece := talk.recv(100):
        talk.sendall(piece)
"""
TALK = f"""
import socket, sys
talk = socket.create_connection(("{THERE}", 2500), 5)
talk.settimeout(0.5)
for line in sys.stdin:
    talk.sendall(b"x")
    try:
        print("answer" if talk.recv(100) else "end", flush=True)
    except TimeoutError:
        print("silence", flush=True)
"""


def within(namespace: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


@pytest.fixture
def wire() -> Iterator[tuple[str, str]]:
    """Two network namespaces and a cable between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2, for network namespaces")
    ends = [(f"prove-{os.getpid()}-{number}", address) for number, address in enumerate((HERE, THERE))]
    try:
        for name, _ in ends:
            subprocess.run(["ip", "netns", "add", name], check=True)
        (one, _), (other, _) = ends
        peer = ("type", "veth", "peer", "name", "eth0", "netns", other)
        subprocess.run(["ip", "link", "add", "eth0", "netns", one, *peer], check=True)
        for name, address in ends:
            subprocess.run(["ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0"], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "eth0", "up"], check=True)
        yield one, other
    finally:
        for name, _ in ends:
            subprocess.run(["ip", "netns", "del", name], check=False)


def test_an_open_connection_falls_silent_and_goes_on_when_it_is_joined(wire: tuple[str, str]) -> None:
    one, other = wire

    def do(verb: str) -> None:
        subprocess.run(within(one, sys.executable, str(PROGRAM), verb, THERE), check=True)

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(within(other, sys.executable, "-c", ECHO), **pipes) as echo:
        assert echo.stdout.readline() == "listening\n"
        with subprocess.Popen(within(one, sys.executable, "-c", TALK), **pipes) as talk:

            def said() -> str:
                talk.stdin.write("\n")
                talk.stdin.flush()
                return str(talk.stdout.readline()).strip()

            assert said() == "answer"
            do("cut")
            assert said() == "silence"
            do("join")
            answers = [said() for _ in range(20)]  # what was sent into the cut comes again, TCP sees to that
            assert "answer" in answers
            talk.stdin.close()


def test_no_way_to_an_address_is_an_error(wire: tuple[str, str]) -> None:
    one, _ = wire
    done = subprocess.run(
        within(one, sys.executable, str(PROGRAM), "cut", "198.51.100.1"), capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "unreachable" in done.stderr.lower()
