"""What the sieve keeps back the matcher would have refused."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailfarm.events import Person, Summary
from mailfarm.mailboxes.changes import summary_from, summary_json, summary_text
from mailfarm.mailboxes.match import Criteria, matches
from mailfarm.mailboxes.sieve import Sieve

MAIL = Summary(
    "id", "box", 1, 0, "bounce+7@list.example", ("Ann@mailfarm.test", "bob@mailfarm.test"),
    Person("Jörg Müller", "joerg@bücher.example"), (Person("Ann", "ann@mailfarm.test"),), (), "Reset your Password", "",
    "mid", 100, 0,
)  # fmt: skip

TEXT = st.text(st.sampled_from('aAsSßkKeéſİ"\\<>@. \t\n\x01\x1c\u2028\U0001f600{}:,'), max_size=12)


@given(TEXT, TEXT, TEXT, st.integers(0, 12), st.integers(0, 12), st.sampled_from(["subject", "from_", "to"]))
@example('a"b', "", "", 0, 3, "subject")
@example("a\x01b", "", "", 0, 3, "subject")
@example("", "Ann", "ann@b.test", 0, 7, "from_")
def test_whatever_meets_the_criteria_passes(subject, name, address, start, length, which):
    mail = replace(MAIL, subject=subject, from_=Person(name, address), to=(Person(name, address),))
    asked = {"subject": subject, "from_": f"{name} <{address}>", "to": f"{name} <{address}>"}[which]
    criteria = Criteria(**{which: asked[start : start + length].swapcase()})
    if matches(criteria, mail):
        assert Sieve(criteria).passes(summary_text(mail))


@pytest.mark.parametrize(
    ("criteria", "passes"),
    [
        (Criteria(subject="password"), True),
        (Criteria(subject="YOUR  password"), True),
        (Criteria(subject="invoice"), False),
        (Criteria(from_="müller"), True),
        (Criteria(from_="nobody"), False),
        (Criteria(to="ann <ann@"), True),
        (Criteria(subject="password", to="carol"), False),
    ],
)
def test_most_of_what_does_not_is_kept_back(criteria, passes):
    assert Sieve(criteria)
    assert Sieve(criteria).passes(summary_text(MAIL)) is passes


@given(st.lists(TEXT, max_size=5), st.text(st.sampled_from("aAsß k."), min_size=1, max_size=5))
def test_of_many_the_same_pass_in_order(subjects, part):
    sieve = Sieve(Criteria(subject=part))
    rows = [(n, summary_text(replace(MAIL, subject=subject))) for n, subject in enumerate(subjects)]
    if sieve:
        assert sieve.passed(rows) == [row for row in rows if sieve.passes(row[-1])]


@pytest.mark.parametrize("criteria", [Criteria(), Criteria(from_="a@b.test", to="c@d.test"), Criteria(contains="word")])
def test_addresses_and_texts_are_the_matchers(criteria):
    assert not Sieve(criteria)


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("subject", ["plain", '"seen":false', '{"seen":false}', '\\"seen\\":false'])
def test_what_is_stored_is_what_is_shown(subject, seen):
    text = summary_text(replace(MAIL, subject=subject, from_=Person('"seen":false', "seen")))
    shown = orjson.dumps(summary_json(text, seen)).decode()
    assert summary_from(shown, seen) == summary_from(text, seen)
    assert shown.endswith(f',"seen":{str(seen).lower()}}}')
