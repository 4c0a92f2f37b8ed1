"""Look-ups that remember, and how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mailfarm.errors import DatabaseUnavailable
from mailfarm.net.lookups import AWAY, FRESH, LONGEST, PATIENCE, SLOW, Found, Lookups, lookup_counter

SECOND = 1_000_000
START = 1_700_000_000 * SECOND


class Books:
    """What there is to look up, and a hand on the clock."""

    def __init__(self, **more: Any) -> None:
        self.reactor = Clock()
        self.there: dict[str, Found[str]] = {}
        self.asked: list[tuple[str, ...]] = []
        self.away = False
        self.slow: list[tuple[Sequence[str], Deferred[Mapping[str, Found[str]]]]] | None = None
        self.registry = CollectorRegistry()
        self.ahead = 0
        self.lookups: Lookups[str, str] = Lookups(
            "book",
            self.look,
            reactor=self.reactor,
            clock=lambda: self.now() + self.ahead,
            seconds=self.reactor.seconds,
            counter=lookup_counter(self.registry, "mx"),
            **more,
        )

    def now(self) -> int:
        return START + int(self.reactor.seconds() * SECOND)

    def put(self, key: str, value: str, **more: Any) -> None:
        about = more.pop("about", (value,))
        self.there[key] = Found(value, self.now(), more.pop("keep", "yes"), about=about, **more)

    def answers(self, keys: Sequence[str]) -> Mapping[str, Found[str]]:
        return {key: self.there.get(key, Found("", self.now())) for key in keys}

    async def look(self, keys: Sequence[str]) -> Mapping[str, Found[str]]:
        self.asked.append(tuple(keys))
        if self.away:
            raise DatabaseUnavailable("gone")
        if self.slow is not None:
            answer: Deferred[Mapping[str, Found[str]]] = Deferred()
            self.slow.append((keys, answer))
            return await answer
        return self.answers(keys)

    def get(self, key: str = "a") -> Any:
        """What there is to say at once: a value, an error's class, or None while it waits."""
        return said(ensureDeferred(self.lookups.get(key)))

    def count(self, outcome: str) -> float:
        return self.registry.get_sample_value("mailfarm_mx_lookups_total", {"of": "book", "outcome": outcome}) or 0.0


def said(waiting: Deferred[Any]) -> Any:
    result: list[Any] = []
    waiting.addBoth(result.append)
    if not result:
        return None
    return result[0].type if isinstance(result[0], Failure) else result[0]


def test_an_answer_is_served_for_five_seconds_and_no_longer() -> None:
    books = Books()
    books.put("a", "one")
    assert [books.get(), books.get()] == ["one", "one"]
    assert books.asked == [("a",)]
    books.put("a", "two")
    books.reactor.advance(FRESH / 2)
    assert books.get() == "one"
    assert len(books.asked) == 1, "half way there it is not looked up again yet"
    books.reactor.advance(FRESH / 2 + 0.1)
    assert books.get() == "two", "nobody asked meanwhile, so this one waits for the look"
    assert len(books.asked) == 2
    assert (books.count("remembered"), books.count("asked")) == (2, 2)


def test_what_is_asked_for_again_and_again_is_renewed_before_anybody_waits() -> None:
    books = Books()
    books.put("a", "one")
    books.get()
    books.slow = []
    for _ in range(3):
        books.reactor.advance(FRESH / 2 + 0.1)
        books.put("a", f"after {books.reactor.seconds():.1f}")
        old = books.get()
        assert old is not None
        assert old == books.get(), "served, while it is looked up in the background, once"
        ((keys, answer),) = books.slow
        books.slow.clear()
        answer.callback(books.answers(keys))
        assert books.get() == f"after {books.reactor.seconds():.1f}"
    assert len(books.asked) == 4


def test_nothing_is_not_remembered() -> None:
    books = Books()
    assert books.get() == ""
    books.put("a", "made a moment ago")
    assert books.get() == "made a moment ago"


def test_a_second_choice_is_not_served_while_the_database_is_there() -> None:
    books = Books()
    books.put("a", "default", keep="away")
    assert books.get() == "default"
    books.put("a", "own")
    assert books.get() == "own"
    books.put("b", "default", keep="away")
    books.get("b")
    books.away = True
    assert books.get("b") == "default"


def test_what_was_found_for_many_is_never_served_but_shared_with_each_until_one_is_asked_for_itself() -> None:
    books = Books()
    books.put("many", "default", keep="share", about=("box", "many"))
    assert [books.get("many"), books.get("many")] == ["default"] * 2
    assert len(books.asked) == 2
    for key in ("a", "b", "c"):
        books.lookups.share("many", key, f"its {key}")
    books.reactor.advance(1)
    books.put("a", "own")
    assert books.get("a") == "own"
    books.lookups.share("many", "a", "its a")  # its answer is older
    books.lookups.forget("many", "its b")
    books.lookups.share("many", "d", "its d")  # it is forgotten
    books.away = True
    assert [books.get(key) for key in ("many", "a", "b", "c", "d")] == [
        DatabaseUnavailable, "own", DatabaseUnavailable, "default", DatabaseUnavailable,
    ]  # fmt: skip
    books.lookups.forget("box")
    assert books.get("c") is DatabaseUnavailable


def test_what_the_bus_says_is_forgotten_at_once_also_by_a_look_under_way() -> None:
    books = Books()
    books.put("a", "one", about=("id-1", "a"))
    books.get()
    books.lookups.forget("id-2", "id-1")
    books.put("a", "two", about=("id-2", "a"))
    assert books.get() == "two"
    books.lookups.forget("a")
    books.slow = []
    assert books.get() is None
    before = books.answers(["a"])
    books.put("a", "three", about=("id-3", "a"))
    books.lookups.forget("a")
    books.slow[0][1].callback(before)
    books.slow = None
    assert books.get() == "three", "what the look saw was from before"


def test_when_the_bus_may_have_missed_something_everything_is_looked_up_again() -> None:
    books = Books()
    books.put("a", "one")
    books.get()
    books.reactor.advance(0.1)
    books.put("a", "two")
    books.lookups.doubt()
    assert books.get() == "two"
    assert books.get() == "two"
    assert len(books.asked) == 2
    books.away = True
    books.lookups.doubt()
    assert books.get() == "two", "better than nothing"


def test_nothing_outlives_its_end_even_when_it_is_remembered() -> None:
    books = Books()
    books.put("a", "one", ends_at=books.now() + 2 * SECOND)
    assert books.get() == "one"
    books.reactor.advance(1.9)
    assert books.get() == "one"
    books.there.clear()
    books.reactor.advance(0.1)
    assert books.get() == "", "it is asked for, and the database decides"
    # the database's clock is a minute ahead of ours
    books.there["b"] = Found("b", books.now() + 60 * SECOND, "yes", books.now() + 61 * SECOND)
    assert books.get("b") == "b"
    books.there.clear()
    books.reactor.advance(1)
    assert books.get("b") == ""
    # and when ours is ahead, the database is asked all the more
    books.put("c", "c", ends_at=books.now() + 60 * SECOND)
    assert books.get("c") == "c"
    books.ahead = 600 * SECOND
    before = len(books.asked)
    assert books.get("c") == "c"
    assert len(books.asked) == before + 1


def test_while_the_database_is_away_what_is_known_serves_for_an_hour_and_the_rest_fails() -> None:
    books = Books()
    books.put("a", "one")
    books.put("end", "short", ends_at=books.now() + 30 * SECOND)
    books.get()
    books.get("end")
    books.away = True
    assert books.get("unknown") is DatabaseUnavailable
    for _ in range(int(AWAY / 3) - 1):
        books.reactor.advance(3)
        assert books.get() == "one"
    assert books.get("unknown") is DatabaseUnavailable
    assert books.get("end") is DatabaseUnavailable, "its own end has passed"
    books.reactor.advance(10)
    assert books.get() is DatabaseUnavailable, "after an hour nobody knows any more"
    assert books.count("away") > 1000


def test_a_known_one_is_served_though_the_look_that_found_the_database_away_was_its_own() -> None:
    books = Books()
    books.put("a", "one")
    books.get()
    books.reactor.advance(100)
    books.away = True
    assert books.get() == "one"
    asked = len(books.asked)
    assert [books.get() for _ in range(10)] == ["one"] * 10
    assert len(books.asked) == asked, "nobody asks a database that was away a moment ago"
    books.reactor.advance(FRESH / 2 + 0.1)
    assert [books.get() for _ in range(10)] == ["one"] * 10
    assert len(books.asked) == asked + 1, "one found out, in the background, that it is still away"


def test_what_was_revoked_during_an_outage_is_served_five_seconds_at_most_once_it_is_over() -> None:
    books = Books()
    books.put("a", "one")
    books.get()
    books.away = True
    books.reactor.advance(60)
    assert books.get() == "one"
    books.away = False
    books.there.clear()
    books.reactor.advance(FRESH + 0.1)
    assert books.get() == ""


def test_a_database_that_hangs_is_away_too() -> None:
    books = Books()
    books.put("a", "one")
    books.get()
    books.slow = []
    books.reactor.advance(FRESH + 1)
    first: list[str] = []
    ensureDeferred(books.lookups.get("a")).addCallback(first.append)
    books.reactor.advance(SLOW + 0.1)
    assert not first
    books.reactor.advance(PATIENCE - SLOW)
    assert first == ["one"]
    assert books.get() == "one", "and who comes now does not wait"
    unknown = ensureDeferred(books.lookups.get("unknown"))
    books.reactor.advance(PATIENCE)
    assert said(unknown) is DatabaseUnavailable
    # the look is given up in the end, so that another can begin and find the database back
    books.reactor.advance(LONGEST)
    assert len(books.slow) > 1
    for _, answer in books.slow[1:]:
        if not answer.called:
            answer.callback(books.answers(["a", "unknown"]))
    books.slow = None
    assert books.get() == "one"


@pytest.mark.parametrize("takes", [0.2, 2.4, 4.9, 12.0, LONGEST - 0.1])
def test_while_looks_hang_and_then_fail_nobody_who_is_known_is_refused(takes: float) -> None:
    books = Books()
    books.put("a", "one")
    books.get()
    books.slow = []
    began: list[float] = []
    failures: list[Failure] = []
    waits: list[tuple[float, Deferred[str]]] = []
    waited: list[float] = []
    for step in range(1, 1200):
        books.reactor.advance(0.1)
        now = books.reactor.seconds()
        if len(began) < len(books.asked) - 1:
            began.append(now)
        if books.slow and now - began[-1] >= takes:
            books.slow.pop(0)[1].errback(DatabaseUnavailable("no answer in time"))
        asked: Deferred[str] = ensureDeferred(books.lookups.get("a"))
        waits.append((now, asked))
        if step % 7 == 0:  # strangers keep the looks going
            ensureDeferred(books.lookups.get(f"stranger {step}")).addErrback(lambda failure: None)
        for entry in tuple(waits):
            if entry[1].called:
                waits.remove(entry)
                waited.append(books.reactor.seconds() - entry[0])
                entry[1].addErrback(failures.append)
    assert not failures
    assert max(waited) <= SLOW + 0.2


def test_it_keeps_no_more_than_it_may_and_forgets_what_was_longest_not_asked_for() -> None:
    books = Books(most=3)
    for key in "abc":
        books.put(key, key, about=(key, "all"))
        books.get(key)
    books.get("a")
    books.put("d", "d", about=("d",))
    books.get("d")
    assert len(books.lookups) == 3
    asked = len(books.asked)
    assert [books.get(key) for key in "acd"] == ["a", "c", "d"]
    assert len(books.asked) == asked
    books.get("b")
    assert len(books.asked) == asked + 1
    books.lookups.forget("all")
    assert len(books.lookups) == 1
    assert set(books.lookups._by_name) == {"d"}, "nothing is left behind of what was forgotten"


def test_only_those_who_are_asked_without_renewal_leave_no_trace() -> None:
    books = Books()
    books.put("a", "one")
    books.get()
    books.reactor.advance(FRESH / 2 + 1)
    assert books.lookups.known("a", renew=False) is not None
    assert len(books.asked) == 1
    assert books.lookups.known("a") is not None
    assert len(books.asked) == 2


@pytest.mark.parametrize("error", [RuntimeError("a mistake of ours"), DatabaseUnavailable("gone")])
def test_a_look_that_raises_is_told_to_who_asked(error: Exception) -> None:
    books = Books()

    async def broken(keys: Sequence[str]) -> Any:
        raise error

    books.lookups._look = broken
    assert books.get() is type(error)
