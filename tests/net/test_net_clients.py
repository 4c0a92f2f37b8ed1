"""Clients as limits see them, and what they hold while they are in."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred

from mailfarm.backends.memory import MemoryLimiter
from mailfarm.limits import Limit
from mailfarm.mail.reply import Reply
from mailfarm.net.clients import Door, Visit, limited_as


@pytest.mark.parametrize(
    ("client", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", ""),
        ("127.8.8.8", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
    ],
)
def test_a_client_is_an_address_or_a_network(client: str, key: str) -> None:
    assert limited_as(client) == key


class Slow(MemoryLimiter):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(lambda: 1000.0)
        self.waiting: list[Deferred[None]] = []

    def hold(self, key: str, most: int) -> Any:
        async def later() -> Any:
            waiting: Deferred[None] = Deferred()
            self.waiting.append(waiting)
            await waiting
            return await MemoryLimiter.hold(self, key, most)

        return later()


def test_a_place_that_comes_when_the_client_has_gone_is_given_back() -> None:
    limiter = Slow()
    visit = Visit(limiter)
    holding = ensureDeferred(visit.hold("a", 1))
    visit.leave()
    limiter.waiting[0].callback(None)
    assert holding.result is True
    assert not limiter._places
    visit.leave()


def test_what_is_held_is_given_back_once() -> None:
    limiter = MemoryLimiter(lambda: 1000.0)
    visit, other = Visit(limiter), Visit(limiter)
    for key in ("a", "b"):
        assert ensureDeferred(visit.hold(key, 1)).result is True
    assert ensureDeferred(other.hold("a", 1)).result is False
    visit.leave()
    assert ensureDeferred(other.hold("a", 1)).result is True
    visit.leave()
    assert limiter._places == {"a": 1}


@pytest_twisted.ensureDeferred
async def test_a_door_says_how_long_to_wait_and_refuses_before_it_holds() -> None:
    limiter = MemoryLimiter(lambda: 1000.0)
    door = Door("mx", "mx.test", limiter, [Limit(2, 60), Limit(3, 3600)], 1, lambda wait: f"wait {wait:.0f} s")

    async def knock(client: str, visit: Visit) -> Reply:
        answer = door.answer(client, visit)
        return answer if isinstance(answer, Reply) else await answer

    visit = door.visit()
    assert (await knock("192.0.2.1", visit)).code == 220
    assert str(await knock("192.0.2.1", door.visit())) == (
        "421 4.7.0 Too many sessions from your network at once; try again later"
    )
    assert str(await knock("192.0.2.1", door.visit())) == "421 4.7.0 Too many connections from your network; wait 30 s"
    assert limiter._places == {"mx:sessions:192.0.2.1": 1}
    visit.leave()
    assert not limiter._places
    for _ in range(5):
        assert (await knock("127.0.0.1", door.visit())).code == 220
    assert (await knock("192.0.2.2", door.visit())).code == 220


def test_a_door_without_limits_asks_nobody() -> None:
    nobody: Any = None
    door = Door("mx", "mx.test", nobody, [], 0, str)
    assert isinstance(door.answer("192.0.2.1", door.visit()), Reply)


def test_while_mail_comes_in_faster_than_it_is_filed_a_door_turns_networks_away_before_it_asks_anybody() -> None:
    nobody: Any = None
    asked: list[str] = []

    def may_come(network: str) -> bool:
        asked.append(network)
        return not network.startswith("2001")

    door = Door("mx", "mx.test", nobody, [], 0, str, may_come)
    turned = door.answer("2001:db8:1:2:3:4:5:6", door.visit())
    assert isinstance(turned, Reply)
    assert turned.close
    assert str(turned) == "421 4.3.2 More mail comes in than can be filed; try again in a minute"
    assert str(door.answer("192.0.2.1", door.visit())).startswith("220 ")
    assert asked == ["2001:db8:1:2::/64", "192.0.2.1"]
