"""Looking up what a pipelining client has asked for already."""

from __future__ import annotations

from typing import Any

from test_net_lookups import Books, said
from twisted.internet.defer import ensureDeferred

from mailfarm.errors import DatabaseUnavailable
from mailfarm.net.ahead import MOST, Ahead
from mailfarm.net.lookups import FRESH, PATIENCE


def asking(books: Books, ahead: Ahead[str, str], key: str, *coming: str) -> Any:
    return ensureDeferred(ahead.get(key, lambda: coming))


def test_those_that_have_come_are_asked_for_with_the_first() -> None:
    books = Books()
    ahead = Ahead(books.lookups, books.reactor)
    books.put("b", "known")
    books.get("b")
    books.asked.clear()
    books.slow = []
    first = asking(books, ahead, "a", "a", "b", "c", "d", "c")
    assert books.asked == [("a", "c", "d")], "what is known is not asked for"
    second = asking(books, ahead, "c", "d")
    assert said(asking(books, ahead, "b")) == "known"
    books.put("d", "made meanwhile")
    books.slow[0][1].callback(books.answers(["a", "c", "d"]))
    assert said(first) == ""
    assert said(second) == ""
    assert said(asking(books, ahead, "d")) == "made meanwhile"
    assert len(books.asked) == 1
    # it was said twice before the look began, and each answer is for one question: who asks again asks the database
    books.put("c", "made later")
    books.slow = None
    assert ahead.known("c") == ("",)
    assert ahead.known("c") is None
    assert said(asking(books, ahead, "c")) == "made later"


def test_what_was_asked_for_ahead_is_forgotten_with_its_batch_and_in_time() -> None:
    for late in (False, True):
        books = Books()
        ahead = Ahead(books.lookups, books.reactor)
        asking(books, ahead, "a", "b")
        books.put("b", "made since", keep="away")
        if late:
            books.reactor.advance(FRESH + 1)
        else:
            ahead.forget()
        assert said(asking(books, ahead, "b")) == "made since"


def test_a_session_asks_for_so_many_ahead_and_no_more() -> None:
    books = Books()
    ahead = Ahead(books.lookups, books.reactor)
    asking(books, ahead, "first", *(f"k{n}" for n in range(MOST + 50)))
    assert sum(map(len, books.asked)) == 1 + MOST


def test_a_database_that_is_away_fails_each_in_its_turn_and_known_ones_serve() -> None:
    books = Books()
    ahead = Ahead(books.lookups, books.reactor)
    books.put("known", "one")
    books.get("known")
    books.reactor.advance(FRESH + 1)
    books.away = True
    assert said(asking(books, ahead, "a", "known", "b")) is DatabaseUnavailable
    assert said(asking(books, ahead, "known")) == "one"
    assert said(asking(books, ahead, "b")) is DatabaseUnavailable
    ahead.forget()


def test_nobody_waits_for_ever() -> None:
    books = Books()
    ahead = Ahead(books.lookups, books.reactor)
    books.slow = []
    first = asking(books, ahead, "a", "b")
    books.reactor.advance(PATIENCE + 0.1)
    assert said(first) is DatabaseUnavailable
    second = asking(books, ahead, "b")
    books.reactor.advance(PATIENCE + 0.1)
    assert said(second) is DatabaseUnavailable
