"""Who the client is, from outside and from inside: nobody can say so but Traefik; and what one client may take up."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from swarm_deployment import MX, Deployment, send
from table import Table

from mailfarm.prove.websocket import WebSocket
from mailfarm.sdk import Inbox

pytestmark = pytest.mark.stack

CLAIMED = "192.0.2.66"
V1 = f"PROXY TCP4 {CLAIMED} 198.51.100.1 4242 25\r\n".encode()
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"
    + socket.inet_aton(CLAIMED)
    + socket.inet_aton("198.51.100.1")
    + (4242).to_bytes(2)
    + (25).to_bytes(2)
)
TALK = """
import socket, sys
host, port, header = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
for address in sorted({info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}):
    with socket.create_connection((address, port), 5) as talk:
        talk.settimeout(5)
        talk.sendall(header + b"NOOP\\r\\n")
        said = b""
        try:
            while said.count(b"\\n") < 2 and (piece := talk.recv(4096)):
                said += piece
        except OSError:
            said += b"(nothing more)"
        print(said.decode("latin-1").replace("\\r\\n", " | "))
"""
"""Sends a header at once, as a proxy would, and a command: a server that believes it greets and answers the command."""


def assert_refused(said: str) -> None:
    """The greeting, and then the header is a command that is none."""
    greeting, answer, *_ = said.split(" | ")
    assert greeting.startswith("220 "), said
    assert answer.startswith("5"), said


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_proxy_header_from_a_client_is_refused(stack: Deployment, header: bytes) -> None:
    for server in stack.addresses:
        command = [sys.executable, "-c", TALK, server, str(MX), header.hex()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        assert_refused(done.stdout)


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_proxy_header_from_a_container_on_another_network_is_refused(stack: Deployment, header: bytes) -> None:
    """The worker shares the data network with mx; PROXY headers are believed from the edge network alone."""
    worker = stack.replicas("inbound")[0]
    said = stack.run(worker, "python3", "-c", TALK, "mx", "1125", header.hex()).splitlines()
    assert len(said) == 2, said
    for talk in said:
        assert_refused(talk)


def test_replicas_share_the_load(stack: Deployment, table: Table) -> None:
    def sessions() -> dict[str, float]:
        return {each.container: sessions_of(stack.metrics(each)) for each in stack.replicas("mx")}

    before = sessions()
    for number in range(60):
        with stack.smtp(MX, number % 3 + 1):
            pass
    shares = [after - before[container] for container, after in sessions().items()]
    stack.tell(table.fact("60 connects over three machines, for each of two replicas", " and ".join(map(str, shares))))
    assert len(shares) == 2
    assert min(shares) >= 15


def sessions_of(metrics: dict[str, float]) -> float:
    return sum(value for name, value in metrics.items() if re.match(r"mailfarm_mx_sessions_total\b", name))


def test_limits_count_a_client_across_replicas_and_machines(stack: Deployment, table: Table) -> None:
    """600 connections a minute is for the client, not for each replica: two would let 1,200 through."""
    greedy, other = stack.lab.near.v4[105], stack.lab.near.v4[106]
    numbers, began = count(), time.monotonic()

    def connect(_: int) -> str:
        return banner(stack.addresses[next(numbers) % 3], greedy)

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(connect, range(900)))
    took = time.monotonic() - began
    let_in = sum(text.startswith("220") for text in said)
    refused = [text for text in said if text.startswith("421")]
    stack.tell(table.fact(f"900 connects of one client in {took:.1f} s (600 a minute allowed)", f"{let_in} let in"))
    assert let_in + len(refused) == len(said), [text for text in said if not text.startswith(("220", "421"))][:5]
    assert 595 <= let_in <= 605 + 10 * took
    assert all(re.match(r"421 4\.7\.0 .*\d+ s\b", text) for text in refused), refused[:3]
    assert banner(stack.addresses[0], other).startswith("220")
    assert stack.lab.far.call(banner, stack.addresses[0]).startswith("220")


def banner(server: str, source: str = "") -> str:
    """The first line a server says."""
    try:
        with socket.create_connection((server, MX), 15, source_address=(source, 0) if source else None) as talk:
            return talk.recv(512).decode("latin-1").strip()
    except OSError as error:
        return f"{type(error).__name__} {error}"


def test_watchers_on_two_nodes_see_mail_accepted_on_a_third(stack: Deployment) -> None:
    with stack.farm() as farm:
        inbox = farm.create_mailbox()
        asyncio.run(watch_on_all(stack, inbox))


async def watch_on_all(stack: Deployment, inbox: Inbox) -> None:
    def open_on() -> dict[int, float]:
        found = {}
        for replica in stack.replicas("live"):
            metrics = stack.metrics(replica)
            found[replica.machine] = metrics.get("mailfarm_live_connections", 0.0)
        return found

    headers = {"Authorization": f"Bearer {stack.token}"}
    before = await asyncio.to_thread(open_on)
    sockets = []
    for number in range(8):
        server = (stack.addresses[number % 3], 443)
        each = await WebSocket.open(f"{stack.url}/v1/events", headers, str(stack.authority), server)
        assert (await each.hear())["type"] == "hello"
        each.say({"op": "subscribe", "mailbox": inbox.id})
        assert (await each.hear())["type"] == "subscribed"
        sockets.append(each)
    after = await asyncio.to_thread(open_on)
    more = {machine: after[machine] - before[machine] for machine in after}
    assert len(more) == 2
    assert min(more.values()) >= 1, more
    (third,) = set(stack.lab.machines) - set(more)
    with stack.smtp(MX, third) as smtp:
        await asyncio.to_thread(send, smtp, inbox.address, b"Subject: for all\r\n\r\nx\r\n")
    for each in sockets:
        heard = await asyncio.wait_for(each.hear(), 20)
        assert (heard["type"], heard["message"]["subject"]) == ("filed", "for all")
        each.close()
    stack.tell(f"8 WebSockets on machines {sorted(more)} heard of a mail that came in at machine {third}")


def test_a_client_cannot_say_who_it_is_over_http(stack: Deployment) -> None:
    """Twenty WebSockets are for a client, over all replicas, whatever it writes into X-Forwarded-For."""
    said = stack.lab.far.call(lambda: asyncio.run(many_websockets(stack, 30)))
    assert said == ["101"] * 20 + ["429"] * 10


async def many_websockets(stack: Deployment, count: int) -> list[str]:
    said, sockets = [], []
    for number in range(count):
        server = (stack.addresses[number % 3], 443)
        claimed = f"192.0.2.{number + 1}"
        headers = {"X-Forwarded-For": claimed, "X-Real-Ip": claimed, "Forwarded": f"for={claimed}"}
        headers["Authorization"] = f"Bearer {stack.token}"
        try:
            each = await WebSocket.open(f"{stack.url}/v1/events", headers, str(stack.authority), server)
            await each.hear()
        except ConnectionRefusedError as error:
            said.append("429" if " 429 " in str(error) else str(error))
        else:
            said.append("101")
            sockets.append(each)
    for each in sockets:
        each.close()
    return said
