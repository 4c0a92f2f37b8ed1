"""The steady traffic and its oracle, tried on a ``mailfarm dev``: what judges the stack is judged first."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from ledger import Found, Steady, check
from relay import Relay
from running import Running, free_port, until
from traffic import Plan
from watcher import Watcher

from mailfarm.sdk import Farm, Inbox

HERE = "127.0.0.1"


def judged(farm: Farm, steady: Steady, seconds: float = 20) -> Found:
    boxes: dict[str, Inbox] = {}

    def ids(address: str) -> list[str]:
        inbox = boxes.setdefault(address, farm.mailbox(address))
        return [message.id for message in inbox.messages()]

    return check(ids, lambda id: farm.message(id).raw, steady.ledger, seconds=seconds)


def test_all_that_was_acknowledged_is_there(tmp_path: Path) -> None:
    with Running() as running, Farm(running.url) as farm:
        inboxes = [farm.create_mailbox().address for _ in range(3)]
        plan = Plan([(HERE, running.port("smtp", "capture"))], inboxes, rate=100, kept=2, kept_every=0.05)
        with Steady(None, tmp_path, plan) as steady:
            steady.flowing(100)
        result = steady.result
        assert result["acknowledged"] >= 100
        assert [result[name] for name in ("lost", "busy", "cut", "unknown", "refused", "unsent")] == [0] * 6, result
        assert judged(farm, steady) == Found(result["acknowledged"], result["acknowledged"], (), 0, 0)


def test_over_tls_with_a_password(tmp_path: Path) -> None:
    with Running() as running, Farm(running.url) as farm:
        inbox = farm.create_mailbox()
        for security, name in (("starttls", "starttls"), ("tls", "tls")):
            plan = Plan(
                [(HERE, running.port("smtp", name))],
                [inbox.address],
                security=security,
                user=inbox.smtp.user,
                secret=inbox.smtp.password,
                label=security,
            )
            with Steady(None, tmp_path, plan) as steady:
                steady.flowing(10)
            assert steady.result["unsent"] == 0, steady.result
            assert judged(farm, steady).lost == ()


def test_a_dead_server_is_counted_and_the_next_is_tried(tmp_path: Path) -> None:
    with Running() as first, Running() as second, Farm(second.url) as farm:
        inbox = farm.create_mailbox()
        with Farm(first.url) as other:
            other.create_mailbox(inbox.address)
        plan = Plan([(HERE, each.port("smtp", "capture")) for each in (first, second)], [inbox.address], rate=50)
        with Steady(None, tmp_path, plan) as steady:
            steady.flowing(10)
            first.kill()
            steady.flowing(20)
        assert steady.result["lost"] >= 15
        assert steady.result["next"] >= 15
        assert steady.result["unsent"] == 0


def test_what_no_server_takes_is_tried_again(tmp_path: Path) -> None:
    port = free_port()
    plan = Plan([(HERE, port)], ["a@example.net"], rate=50, rounds=60)
    with Steady(None, tmp_path, plan) as steady, Running(MAILFARM_SUBMISSION_CAPTURE=f"{HERE}:{port}"):
        steady.flowing(60)
        result = steady.stop()
    assert (result["unsent"], result["again"] > 0) == (0, True), result


def test_a_session_that_stays_moves_when_it_is_asked_to(tmp_path: Path) -> None:
    with Running() as first, Running() as second, Farm(second.url) as farm:
        inbox = farm.create_mailbox()
        with Farm(first.url) as other:
            other.create_mailbox(inbox.address)
        servers = [(HERE, each.port("smtp", "capture")) for each in (first, second)]
        plan = Plan(servers, [inbox.address], rate=0, kept=1, kept_every=0.05)
        with Steady(None, tmp_path, plan) as steady:
            steady.flowing(5)
            first.process.send_signal(signal.SIGTERM)
            steady.flowing(20)
        assert steady.result["moved"] == 1, steady.result
        assert steady.result["unknown"] == 0


def test_the_oracle_notices_what_is_gone_and_what_is_changed(tmp_path: Path) -> None:
    with Running() as running, Farm(running.url) as farm:
        inbox = farm.create_mailbox()
        with Steady(None, tmp_path, Plan([(HERE, running.port("smtp", "capture"))], [inbox.address])) as steady:
            steady.flowing(10)
        until(lambda: len(inbox.messages()) == steady.result["acknowledged"])
        gone, changed, *_ = inbox.messages()
        names = gone.subject, changed.subject
        gone.delete()
        read: Callable[[str], bytes] = lambda id: farm.message(id).raw.replace(  # noqa: E731
            b"..two", b".two" if id == changed.id else b"..two"
        )
        found = check(lambda _: [message.id for message in inbox.messages()], read, steady.ledger, seconds=0.5)
        assert set(found.lost) == set(names)


@pytest.mark.parametrize("how", ["websocket", "wait"])
def test_a_watcher_sees_all_of_it_through_a_cut(tmp_path: Path, how: str) -> None:
    with Running() as running, Farm(running.url) as farm, Relay(int(running.url.rpartition(":")[2])) as relay:
        inbox = farm.create_mailbox()
        plan = Plan([(HERE, running.port("smtp", "capture"))], [inbox.address], rate=50)
        with Watcher(None, how, relay.url, inbox.id) as watcher:
            with Steady(None, tmp_path, plan) as steady:
                steady.flowing(20)
                relay.cut()
                steady.flowing(20)
            saw = watcher.finish(steady.result["acknowledged"])
    assert saw["seen"] == steady.result["acknowledged"]
    assert (saw["missing"], saw["twice"], saw["in_order"], saw["errors"]) == (0, 0, True, []), saw
    if how == "websocket":
        assert saw["cuts"] == 1


def test_a_watcher_notices_what_it_was_not_shown() -> None:
    with Running() as running, Farm(running.url) as farm:
        inbox = farm.create_mailbox()
        with Watcher(None, "websocket", running.url, inbox.id, patience=1) as watcher:
            assert watcher.finish(1)["missing"] == 1
