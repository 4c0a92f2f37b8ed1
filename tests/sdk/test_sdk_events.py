"""Event streams taken apart, and one consumer's place in them."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from driving import BOX, TIME, problem, summary
from hypothesis import given
from hypothesis import strategies as st

from mailfarm.sdk.errors import ApiError, NoSuchMailbox
from mailfarm.sdk.events import LARGEST, Following, SseParser
from mailfarm.sdk.verbs import Criteria

STREAM = b': hello\r\n\r\nid: 1\r\ndata: {"a":\r\ndata: 1}\r\n\r\nretry: 5\nid: 2\ndata:x\n\n:\n\ndata: y\n\ndata: z'


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_a_stream_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    parser, found = SseParser(), []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        found += parser.feed(STREAM[start:end])
    assert found == ['{"a":\n1}', "x", "y"]


def test_an_event_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        SseParser().feed(b"data: " + b"x" * LARGEST)


def following(cursor: int = 0) -> Following:
    return Following(str(BOX["id"]), Criteria(from_="a", subject="b"), cursor)


def filed(seq: int) -> str:
    return json.dumps({"type": "filed", "mailbox": BOX["id"], "seq": seq, "at": TIME, "message": summary(seq)})


def test_each_change_comes_once_and_moves_the_cursor() -> None:
    place = following(4)
    assert place.receive(filed(4)) is None
    event = place.receive(filed(5))
    assert event is not None
    assert event.message is not None
    assert (event.type, event.seq, event.message.id) == ("filed", 5, "m5")
    assert place.receive(filed(5)) is None
    assert dict(place.stream().query) == {"from": "a", "subject": "b", "after": "5"}
    assert place.subscribe() == {
        "op": "subscribe",
        "mailbox": BOX["id"],
        "after": 5,
        "filter": {"from": "a", "subject": "b"},
    }


@pytest.mark.parametrize("more", [{"message": None}, {"gone": True}, {"gone": True, "message": None}])
def test_a_message_that_is_gone_already_is_no_news(more: dict[str, object]) -> None:
    place = following(4)
    frame = {"type": "filed", "mailbox": BOX["id"], "seq": 5, "at": TIME, **more}
    assert place.receive(json.dumps(frame)) is None
    assert place.cursor == 5


def test_other_changes() -> None:
    place = following()
    event = place.receive(
        json.dumps({"type": "seen", "mailbox": BOX["id"], "seq": 1, "at": TIME, "messages": ["m1"], "seen": True})
    )
    assert event is not None
    assert (event.ids, event.seen, event.message) == (("m1",), True, None)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "hello", "heartbeat": 30},
        {"type": "pong"},
        {"type": "subscribed", "mailbox": BOX["id"], "cursor": 9},
        {"type": "mailbox-closed", "mailbox": "another", "at": TIME},
        {"type": "filed", "mailbox": "another", "seq": 9},
        {"type": "something new"},
    ],
)
def test_what_is_no_news(frame: dict[str, object]) -> None:
    place = following()
    assert place.receive(json.dumps(frame)) is None
    assert (place.cursor, place.ended()) == (0, False)


def test_a_resync_goes_on_from_its_cursor() -> None:
    place = following()
    event = place.receive(json.dumps({"type": "resync", "mailbox": BOX["id"], "oldest": 50, "cursor": 90}))
    assert event is not None
    assert (event.type, event.seq, place.cursor) == ("resync", 90, 90)
    event = following().refused(problem(410, "cursor-too-old", oldest=50, cursor=90))
    assert (event.type, event.seq) == ("resync", 90)


def test_the_end_of_the_mailbox() -> None:
    place = following()
    event = place.receive(json.dumps({"type": "mailbox-closed", "mailbox": BOX["id"], "at": TIME}))
    assert event is not None
    assert event.type == "mailbox-closed"
    assert place.ended()


def test_problems() -> None:
    with pytest.raises(NoSuchMailbox):
        following().refused(problem(404, "not-found"))
    with pytest.raises(ApiError):
        following().receive(json.dumps({"type": "problem", "problem": "/v1/problems/x", "status": 400, "title": "no"}))
    with pytest.raises(ValueError, match="not a JSON object"):
        following().receive("[]")
