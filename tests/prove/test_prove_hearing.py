"""What consumers of events were told is judged by the ids of messages and events."""

from __future__ import annotations

import pytest

from mailfarm.prove.hearing import Hearing, Told
from mailfarm.prove.oracle import Verdict

FILED = {"a": 1, "b": 2, "c": 3}
ALL = [Told(1, "a", "e1"), Told(2, "b", "e2"), Told(3, "c", "e3")]


def test_who_was_told_everything_may_be_told_again_and_later_things() -> None:
    verdict = Verdict(filed={"box": FILED})
    verdict.heard("sse", "box", [*ALL, ALL[1], Told(4, "d", "e4")])
    verdict.heard("wait", "box", [Told(told.number, told.message) for told in ALL])
    assert verdict.clean
    assert verdict.repeats == {"sse": 1, "wait": 0}


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (Told(3, "b", "e2"), "change 3, message b: it is change 2"),
        (Told(2, "x", "e9"), "change 2, message x: no such message is there"),
        (Told(2, "b", "e9"), "change 2, message b: told as event e2 and as e9"),
        (Told(4, "d", "e2"), "change 4, message d: event e2 was message b before, so who drops repeats loses one"),
        (Told(3, "d", "e4"), "change 3, message d: the same number as message c"),
    ],
)
def test_what_is_not_so_is_found(told: Told, wrong: str) -> None:
    missed, found = Hearing(FILED).judge([*ALL, told])
    assert missed == []
    assert wrong in found


def test_a_message_whose_number_another_one_had_was_missed() -> None:
    assert Hearing(FILED).judge([ALL[0], Told(2, "x", "e2"), ALL[2]])[0] == [2]


def test_consumers_are_held_against_each_other() -> None:
    verdict = Verdict(filed={"box": FILED, "other": FILED})
    verdict.heard("sse", "box", ALL)
    verdict.heard("sse 2", "other", [Told(told.number, told.message, "") for told in ALL])
    assert verdict.clean
    verdict.heard("websocket", "box", [*ALL[:2], Told(3, "c", "e7")])
    assert verdict.mistold == {"websocket": ["change 3, message c: told as event e3 and as e7"]}
    assert not verdict.clean


def test_of_a_mailbox_that_could_not_be_read_nothing_is_missed() -> None:
    verdict = Verdict(filed={"box": FILED}, unread={"box": "nobody answers"})
    verdict.heard("sse", "box", [ALL[0], Told(2, "x", "e2")])
    assert (verdict.missed, verdict.mistold) == ({}, {})
