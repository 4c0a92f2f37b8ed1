"""Look-ups that share a journey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from mailfarm.net.gather import AT_ONCE, Gather


class Looking:
    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.answers: list[Deferred[Mapping[str, int]]] = []
        self.gather: Gather[str, int] = Gather(self.look)

    def look(self, keys: Sequence[str]) -> Deferred[Mapping[str, int]]:
        self.asked.append(tuple(keys))
        self.answers.append(Deferred())
        return self.answers[-1]

    def answer(self, number: int) -> None:
        self.answers[number].callback({key: len(key) for key in self.asked[number]})


def test_what_comes_meanwhile_goes_together_next_and_never_gets_an_older_answer() -> None:
    looking = Looking()
    got: dict[str, Any] = {}

    def ask(name: str, key: str) -> None:
        looking.gather.get(key).addCallback(lambda value: got.__setitem__(name, value))

    ask("first", "a")
    ask("second", "bb")
    ask("third", "a")
    ask("fourth", "bb")
    assert looking.asked == [("a",)]
    looking.answer(0)
    assert got == {"first": 1}
    assert looking.asked == [("a",), ("bb", "a")]
    looking.answer(1)
    assert got == {"first": 1, "second": 2, "third": 1, "fourth": 2}
    ask("fifth", "a")
    assert len(looking.asked) == 3, "nothing is cached"


def test_a_look_that_fails_fails_those_who_shared_it_only() -> None:
    looking = Looking()
    failed: list[str] = []
    for key in ("a", "b"):
        looking.gather.get(key).addErrback(lambda failure, key=key: failed.append(f"{key}: {failure.value}"))
    good = looking.gather.get("c")
    looking.answers[0].errback(RuntimeError("no"))
    assert failed == ["a: no"]
    looking.answers[1].callback({"b": 1, "c": 2})
    assert failed == ["a: no"]
    assert good.result == 2


def test_a_look_takes_no_more_than_it_can_carry() -> None:
    looking = Looking()
    all_ = [looking.gather.get("first")] + [looking.gather.get(f"k{n}") for n in range(AT_ONCE + 50)]
    for number in range(3):
        looking.answer(number)
    assert [len(keys) for keys in looking.asked] == [1, AT_ONCE, 50]
    assert all(each.called for each in all_)


@pytest_twisted.ensureDeferred
async def test_a_look_that_raises_at_once() -> None:
    def broken(keys: Sequence[str]) -> Any:
        raise RuntimeError("at once")

    gather: Gather[str, int] = Gather(broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="at once"):
            await gather.get("a")
