"""Long work in pieces."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred

from mailfarm.net.turns import Turns


class Passes:
    """A reactor that calls what was asked for before this pass of it, and nothing that is asked for during it."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []

    def callLater(self, seconds: float, call: Callable[[], None]) -> None:
        assert seconds == 0
        self.asked.append(call)

    def go(self) -> None:
        asked, self.asked = self.asked, []
        for call in asked:
            call()


def test_each_pass_of_the_reactor_is_one_turn_and_they_go_round():
    reactor = Passes()
    turns = Turns(reactor)
    done = []

    async def work(name: str) -> None:
        for piece in range(3):
            await turns.next()
            done.append((name, piece))

    for name in "ab":
        Deferred.fromCoroutine(work(name))
    passes = []
    for _ in range(6):
        reactor.go()
        passes.append(len(done))
    assert passes == [1, 2, 3, 4, 5, 6]
    assert done == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert not reactor.asked


def test_who_gave_up_is_passed_over():
    reactor = Passes()
    turns = Turns(reactor)
    gone, stays = turns.next(), turns.next()
    failed = []
    gone.addErrback(lambda failure: failed.append(failure.check(CancelledError)))
    gone.cancel()
    reactor.go()
    reactor.go()
    assert stays.called
    assert failed == [CancelledError]
