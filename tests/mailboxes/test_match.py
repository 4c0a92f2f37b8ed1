"""One matcher: what criteria mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfarm.errors import Invalid
from mailfarm.events import Person, Summary
from mailfarm.mailboxes.match import Criteria, Matcher, failed, matches

MAIL = Summary(
    "id", "box", 1, 0, "bounce+7@list.example", ("Ann@mailfarm.test", "bob@mailfarm.test"),
    Person("Jörg Müller", "joerg@bücher.example"), (Person("Ann", "ann@mailfarm.test"),),
    (Person("", "carol@example.org"),), "Reset your Password", "snippet", "mid", 100, 0,
)  # fmt: skip


@pytest.mark.parametrize(
    "criteria",
    [
        Criteria(),
        Criteria(from_="joerg@bücher.example"),
        Criteria(from_="JOERG@xn--bcher-kva.example"),
        Criteria(from_="bounce+7@list.example"),
        Criteria(from_="müller"),
        Criteria(from_="jörg müller <joerg@"),
        Criteria(from_="@list.example"),
        Criteria(to="ann@mailfarm.test"),
        Criteria(to="BOB@mailfarm.test"),
        Criteria(to="carol@example.org"),
        Criteria(to="mailfarm"),
        Criteria(subject="password"),
        Criteria(subject="reset   YOUR"),
        Criteria(contains="your password"),
        Criteria(contains="secret code"),
        Criteria(contains="STRASSE"),
        Criteria(from_="jörg", to="ann", subject="reset", contains="code"),
    ],
)
def test_these_match(criteria):
    assert matches(criteria, MAIL, "Your secret\r\n code: 1. Hauptstraße 5")


@pytest.mark.parametrize(
    ("criteria", "names"),
    [
        (Criteria(from_="oerg@bücher.example"), ("from",)),  # a full address is equal, not found within
        (Criteria(to="nn@mailfarm.test"), ("to",)),
        (Criteria(to="ann@mailfarm.tes"), ("to",)),
        (Criteria(subject="passwort"), ("subject",)),
        (Criteria(contains="nowhere"), ("contains",)),
        (Criteria(from_="x@y.z", to="ann", subject="nope", contains="no"), ("from", "subject", "contains")),
    ],
)
def test_what_fails_is_named(criteria, names):
    assert failed(criteria, MAIL, "Your secret code") == names


def test_a_message_without_from_still_has_the_envelopes_sender():
    assert matches(Criteria(from_="bounce+7@list.example"), replace(MAIL, from_=None))


def test_the_text_is_only_asked_for_when_it_decides():
    asked = []

    def text():
        asked.append(1)
        return "text"

    assert matches(Criteria(contains="password"), MAIL, text)
    assert not asked
    assert matches(Criteria(contains="text"), MAIL, text)
    assert asked


def test_a_criterion_has_a_length():
    with pytest.raises(Invalid):
        Criteria(subject="x" * 1001)


@given(st.text(max_size=40), st.text(max_size=200))
def test_what_is_in_the_text_is_found_whatever_the_case(needle, around):
    text = around + needle + around
    assert Matcher(Criteria(contains=needle[:1000])).matches(MAIL, text)
    assert Matcher(Criteria(subject=needle)).matches(replace(MAIL, subject=text))


@given(st.text(max_size=60))
def test_any_text_is_a_criterion(text):
    failed(Criteria(from_=text, to=text, subject=text, contains=text), MAIL, text)
