"""What fails while mail flows: a machine, a store, the workers; and a server that has too much to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from swarm_deployment import MX, Deployment, send
from table import Table
from trial import Trial, trial

pytestmark = pytest.mark.stack

ROUNDS = 15
"""Until a machine without power is left out, each other one may still lead there: then senders try again."""
STATELESS = ("mx", "submission", "inbound", "api", "live")


def test_a_machine_loses_power(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """One of three managers: it has a shard of the queue, and what was put there is there when it is back."""
    (shard,) = stack.replicas("redis-queue-2")
    (postgres,) = stack.replicas("postgres")
    assert shard.machine != postgres.machine, "each store on a machine of its own"
    what = "a machine loses power, and is back"
    with trial(stack, table, tmp_path, what, watch=("websocket", "wait"), rounds=ROUNDS) as run:
        began = time.monotonic()
        stack.lab.kill(shard.machine)
        flows = run.steady.flowing(20)
        replaced = stack.until(
            lambda: all(len(stack.replicas(word)) == 2 for word in STATELESS), 120, "replicas on the machines left"
        )
        stack.lab.power_on(shard.machine)
        stack.until(stack.converged, 180, "the stack with its third machine")
        run.took = time.monotonic() - began
        run.remarks = f"20 more messages after {flows:.1f} s, replicas replaced after {replaced:.0f} s"
    assert run.result["unsent"] == 0, run.result
    run.assert_nothing_lost()


def test_the_machine_with_the_database_loses_power(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """The two others take mail for mailboxes they know, and all of it is filed when the machine is back."""
    (postgres,) = stack.replicas("postgres")
    status = "{{.Hostname}} {{.ManagerStatus}}"
    leads = f"node{postgres.machine} Leader" in stack.docker("node", "ls", "--format", status)
    what = "the machine with Postgres" + (", which leads the Swarm," if leads else "") + " loses power"
    with trial(stack, table, tmp_path, what, seconds=150, rate=10.0, rounds=ROUNDS) as run:
        began = time.monotonic()
        stack.lab.kill(postgres.machine)
        flows = run.steady.flowing(60)
        stack.lab.power_on(postgres.machine)
        stack.until(stack.converged, 240, "the stack with its machine")
        run.took = time.monotonic() - began
        run.remarks = f"60 more messages after {flows:.1f} s without it"
    assert run.result["unsent"] == 0, run.result
    run.assert_nothing_lost()


@contextmanager
def away(stack: Deployment, word: str) -> Iterator[None]:
    """A service without any replica."""
    stack.scale(word, 0)
    try:
        yield
    finally:
        stack.scale(word, 1)


def test_postgres_is_away(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """Mail for mailboxes that are known is taken, all else says when to ask again; and everything drains."""
    with trial(stack, table, tmp_path, "Postgres is away for a while", rate=10.0, kept=2) as run:
        with away(stack, "postgres"):
            run.steady.flowing(40, 30)
            for path in ("", f"/{run.inbox.id}/messages", f"/{run.inbox.id}/wait?timeout=1"):
                answer = ask(stack, f"/v1/mailboxes{path}")
                assert answer.status_code == 503, (path, answer.text)
                assert int(answer.headers["Retry-After"]) >= 1
            with stack.smtp(MX) as smtp:
                smtp.ehlo()
                smtp.mail("a@shop.example")
                code, text = smtp.rcpt("nobody.knows@example.net")
            assert (code, text[:5]) == (451, b"4.3.0")
            run.steady.flowing(20, 30)
        back = stack.until(lambda: ask(stack, "/v1/mailboxes").status_code == 200, 60, "the API after Postgres is back")
        run.remarks = f"the API is back {back:.1f} s after Postgres"
    assert run.result["unsent"] == 0, run.result
    run.assert_nothing_lost()


def ask(stack: Deployment, path: str) -> httpx.Response:
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {stack.token}"}, timeout=30) as http:
        return http.get(path)


def test_the_workers_stall_for_half_a_minute(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """Accepting does not wait for filing. Nobody replaces them: Docker asks nothing of a container that is paused."""
    with trial(stack, table, tmp_path, "all workers stall for 30 s", seconds=150) as run:
        stalled = stack.replicas("inbound")
        began = time.monotonic()
        for worker in stalled:
            stack.lab.docker(worker.machine, "pause", worker.container)
        while time.monotonic() - began < 30:
            run.steady.flowing(20, 10)
        for worker in stalled:
            machine = stack.lab.machines[worker.machine]
            machine.run("docker", "unpause", worker.container, check=False)  # it may have been replaced
        stack.until(stack.converged, 90, "the workers")
    assert run.result["unsent"] == 0, run.result
    run.assert_nothing_noticed()


def test_a_busy_api_does_not_slow_mail_down(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """Two hundred clients list and read as fast as they can, from as many addresses as there are."""
    with trial(stack, table, tmp_path, "mail beside an idle API") as idle:
        idle.steady.flowing(200)
    with trial(stack, table, tmp_path, "mail beside a busy API") as busy, crowd(stack, busy) as count:
        busy.steady.flowing(200)
    before, beside = idle.result["ms"], busy.result["ms"]
    stack.tell(
        table.fact(
            "one message over a new connection, p50 / p99: API idle, and answering "
            f"{count['answers'] / count['seconds']:.0f} requests a second",
            f"{before['p50']:.0f} / {before['p99']:.0f} ms, {beside['p50']:.0f} / {beside['p99']:.0f} ms",
        )
    )
    busy.assert_nothing_noticed()
    assert beside["p50"] < 5 * before["p50"] + 250  # on a machine this small both share its few cores


@contextmanager
def crowd(stack: Deployment, run: Trial, clients: int = 64) -> Iterator[dict[str, float]]:
    """Clients of the API that never pause."""
    ended = threading.Event()
    count = {"answers": 0.0, "seconds": 1.0}

    def read(number: int) -> None:
        source = stack.lab.near.v4[number % 100]
        transport = httpx.HTTPTransport(local_address=source)
        headers = {"Authorization": f"Bearer {stack.token}"}
        with httpx.Client(base_url=stack.url, transport=transport, headers=headers, timeout=30) as http:
            while not ended.is_set():
                if http.get(f"/v1/mailboxes/{run.inbox.id}/messages?limit=50").status_code == 200:
                    count["answers"] += 1

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(read, number) for number in range(clients)]
        try:
            yield count
        finally:
            ended.set()
            count["seconds"] = time.monotonic() - began
    for each in running:
        each.result()


def test_fifty_megabytes(stack: Deployment, table: Table) -> None:
    """The largest message is read as it was sent, and one octet more is refused before it is sent."""
    with stack.farm(timeout=120) as farm:
        inbox = farm.create_mailbox()
        with stack.smtp(MX) as smtp:
            smtp.ehlo()
            largest = int(smtp.esmtp_features["size"])
            head = b"Subject: large\r\n\r\n"
            line = b"0123456789abcdef" * 4 + b"\r\n"
            content = head + line * ((largest - len(head)) // len(line) - 1)
            content += b"." * (largest - len(content) - 2) + b"\r\n"
            assert len(content) == largest
            began = time.monotonic()
            send(smtp, inbox.address, content)
            sent = time.monotonic() - began
            code, _ = smtp.mail("a@shop.example", [f"SIZE={largest + 1}"])
            assert code == 552
        mail = inbox.wait_for(subject="large", timeout=60)
        there = time.monotonic() - began
        assert mail.raw.endswith(content)
        took = time.monotonic() - began - there
    measured = f"250 after {sent:.1f} s, filed after {there:.1f} s, read in {took:.1f} s"
    stack.tell(table.fact(f"a message of {largest / 2**20:.0f} MiB", measured))


def test_ten_thousand_idle_connections(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """Through Traefik, from a hundred addresses: mail still comes in, and what one costs is known."""
    from crowd import idle_connections

    def memory(word: str) -> float:
        metrics = [stack.metrics(each) for each in stack.replicas(word)]
        return sum(each.get("process_resident_memory_bytes", 0.0) for each in metrics)

    before = memory("mx")
    with idle_connections(stack, 10_000) as held:
        per_connection = (memory("mx") - before) / held
        with trial(stack, table, tmp_path, f"mail beside {held} idle connections") as run:
            run.steady.flowing(100)
    stack.tell(table.fact("memory of mx for one idle connection", f"{per_connection / 1024:.1f} KiB"))
    assert held == 10_000
    run.assert_nothing_noticed()


def test_no_lease_outlives_a_worker_that_was_killed(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """SIGKILL of every worker, in the middle of their work: another takes over what they had leased."""
    with trial(stack, table, tmp_path, "all workers are killed", seconds=150, rate=40.0) as run:
        for worker in stack.replicas("inbound"):
            stack.signal(worker, "KILL")
        stack.until(lambda: len(stack.replicas("inbound")) == 2, 60, "new workers")
    run.assert_nothing_noticed()
