"""Events: one JSON form, there and back."""

import json
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfarm import events
from mailfarm.events import Filed, Person, Refused, Summary

MOMENT = st.integers(0, 4_000_000_000_000_000)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
PERSON = st.builds(Person, TEXT, TEXT)
PEOPLE = st.lists(PERSON, max_size=3).map(tuple)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
NUMBER = st.integers(0, 2**53)
SUMMARY = st.builds(
    Summary,
    id=TEXT,
    mailbox=TEXT,
    seq=NUMBER,
    received_at=MOMENT,
    sender=TEXT,
    recipients=TEXTS,
    from_=st.none() | PERSON,
    to=PEOPLE,
    cc=PEOPLE,
    subject=TEXT,
    snippet=TEXT,
    message_id=TEXT,
    size=NUMBER,
    attachments=NUMBER,
    seen=st.booleans(),
    duplicate_of=st.none() | TEXT,
)
COMMON = {"id": TEXT, "account": TEXT, "mailbox": TEXT, "at": MOMENT}
EVENT = st.one_of(
    st.builds(Filed, **COMMON, seq=NUMBER, message=SUMMARY),
    st.builds(events.Seen, **COMMON, seq=NUMBER, messages=TEXTS, seen=st.booleans()),
    st.builds(events.Deleted, **COMMON, seq=NUMBER, messages=TEXTS),
    st.builds(events.Expired, **COMMON, seq=NUMBER, messages=TEXTS),
    st.builds(events.MailboxOpened, **COMMON, address=TEXT),
    st.builds(events.MailboxClosed, **COMMON, address=TEXT),
    st.builds(events.MailboxChanged, **COMMON, address=TEXT),
    st.builds(
        events.Revoked, id=TEXT, account=TEXT, at=MOMENT, kind=st.sampled_from(["credential", "token"]), what=TEXT
    ),
    st.builds(
        Refused,
        id=TEXT,
        account=TEXT,
        at=MOMENT,
        service=TEXT,
        client=TEXT,
        address=TEXT,
        sender=TEXT,
        code=st.integers(400, 599),
        enhanced=TEXT,
        text=TEXT,
        lines=TEXTS,
    ),
)


@given(EVENT)
def test_there_and_back(event: events.Event) -> None:
    data = events.to_json(event)
    assert b"\n" not in data
    assert events.from_json(data) == event
    assert json.loads(data)["type"] == events.type_of(event)


@given(EVENT)
def test_what_a_newer_version_has_added_is_passed_over(event: events.Event) -> None:
    form = json.loads(events.to_json(event)) | {"added": [1]}
    if isinstance(event, events.Filed):
        form["message"]["added"] = 2
    assert events.from_json(json.dumps(form)) == event


@given(MOMENT)
def test_times_are_exact(moment: int) -> None:
    assert events.from_rfc3339(events.rfc3339(moment)) == moment


def test_a_time_has_a_zone() -> None:
    assert events.from_rfc3339("2026-01-31T13:00:00+01:00") == events.from_rfc3339("2026-01-31T12:00:00Z")
    with pytest.raises(ValueError, match="time zone"):
        events.from_rfc3339("2026-01-31T13:00:00")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"type":"filed"}', b'{"type":"nothing"}', b'{"type":"seen","at":1}', b"\xff"]
)
def test_what_is_no_event_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(ValueError):
        events.from_json(data)


@given(NUMBER, SUMMARY, st.lists(st.tuples(TEXTS, NUMBER, st.none() | st.just("first"))))
def test_the_forms_of_many_messages_of_one_mail_are_what_each_has_alone(at, summary, own):
    alike = events.FiledAlike("account", at, summary)
    made = []
    for number, (recipients, seq, first) in enumerate(own):
        id, mailbox = f"id{number}", f"box{number}"
        one = replace(summary, id=id, mailbox=mailbox, seq=seq, recipients=recipients, duplicate_of=first)
        assert alike.add(f"e{number}", id, mailbox, seq, recipients, first).encode() == orjson.dumps(
            events.summary_form(one)
        )
        made.append(Filed(f"e{number}", "account", mailbox, seq, at, one))
    assert [alike.event(number) for number in range(len(alike))] == made
    assert [head + alike.end for head in alike.heads] == [events.to_json(event) for event in made]
