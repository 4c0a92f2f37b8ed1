"""The steady traffic, tried on a ``mailfarm dev``: what notices things for the tests of the stack is judged first."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from ledger import Steady, judged
from relay import Relay
from running import Running, free_port
from traffic import Plan

from mailfarm.prove.follower import Following
from mailfarm.prove.follower import Plan as FollowerPlan
from mailfarm.prove.oracle import Tally, Verdict
from mailfarm.sdk import Farm

HERE = "127.0.0.1"


def tally(running: Running, steady: Steady) -> Tally:
    verdict = judged(lambda: Farm(running.url), steady, 20)
    assert verdict.clean, verdict
    return verdict.tally


def test_all_that_was_acknowledged_is_there(tmp_path: Path) -> None:
    with Running() as running, Farm(running.url) as farm:
        inboxes = [farm.create_mailbox().address for _ in range(3)]
        plan = Plan([(HERE, running.port("smtp", "capture"))], inboxes, rate=100, kept=2, kept_every=0.05)
        with Steady(None, tmp_path, plan) as steady:
            steady.flowing(100)
        result = steady.result
        assert result["acknowledged"] >= 100
        assert [result[name] for name in ("lost", "busy", "cut", "unknown", "refused", "unsent")] == [0] * 6, result
        found = tally(running, steady)
        assert (found.acknowledged, found.attempts) == (result["acknowledged"], result["acknowledged"])


def test_over_tls_with_a_password(tmp_path: Path) -> None:
    with Running() as running, Farm(running.url) as farm:
        for security, name in (("starttls", "starttls"), ("tls", "tls")):
            inbox = farm.create_mailbox()
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
            assert tally(running, steady).acknowledged >= 10


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
        gone, changed, *_ = sorted(inbox.messages(), key=lambda message: message.seq)
        gone.delete()
        (ledger,) = steady.ledger.glob("*.ledger")
        lines = [json.loads(line) for line in ledger.read_text().splitlines()]
        for line in lines:
            line["sha256"] = "0" * 64 if line["id"] == changed.subject else line["sha256"]
        ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))
        verdict = judged(lambda: Farm(running.url), steady, 0.5)
    found = verdict.tally
    assert [name.split()[0] for name in found.altered] == [changed.subject]
    assert {name.split()[0] for name in found.lost} == {gone.subject, changed.subject}
    assert verdict.gaps == {inbox.address: [gone.seq]}


@pytest.mark.parametrize("how", ["websocket", "wait", "sse"])
def test_who_follows_a_mailbox_sees_all_of_it_through_a_cut(tmp_path: Path, how: str) -> None:
    with Running() as running, Farm(running.url) as farm, Relay(int(running.url.rpartition(":")[2])) as relay:
        inbox = farm.create_mailbox()
        followers = Following(FollowerPlan(relay.url, relay.url, [(how, inbox.id)], str(tmp_path), patience=20))
        followers.start()
        try:
            with Steady(None, tmp_path, Plan([(HERE, running.port("smtp", "capture"))], [inbox.address])) as steady:
                steady.flowing(10)
                relay.cut()
                steady.flowing(10)
            verdict = judged(lambda: Farm(running.url), steady)
            saw = followers.finish({inbox.id: verdict.last(inbox.address)})[f"{how} {inbox.id}"]
            told = followers.saw(how, inbox.id)
        finally:
            followers.kill()
    verdict.heard(how, inbox.address, told)
    assert verdict.clean, verdict
    numbers = [each.number for each in told]
    assert numbers == sorted(set(numbers))
    assert saw["problems"] == []
    assert saw["cuts"] == (0 if how == "wait" else 1)


def test_who_follows_and_was_not_shown_something_is_found_out(tmp_path: Path) -> None:
    with Running() as running, Farm(running.url) as farm:
        inbox = farm.create_mailbox()
        plan = FollowerPlan(running.url, running.url, [("websocket", inbox.id)], str(tmp_path), patience=0.5)
        followers = Following(plan)
        followers.start()
        try:
            saw = followers.finish({inbox.id: 1})[f"websocket {inbox.id}"]
        finally:
            followers.kill()
    assert not saw["done"]
    verdict = Verdict(filed={inbox.address: {"a": 1}})
    verdict.heard("websocket", inbox.address, [])
    assert verdict.missed == {"websocket": [1]}
    assert not verdict.clean
