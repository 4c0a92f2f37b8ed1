"""Verbs without I/O: what they ask, what they make of answers."""

from __future__ import annotations

import copy
import json
import pickle
from importlib import import_module
from typing import Any

import pytest
from driving import BOX, Clock, answer, drive, problem, summary

from mailfarm.sdk import Farm, Inbox
from mailfarm.sdk.errors import (
    AddressTaken,
    ApiError,
    CannotConnect,
    NoSuchMailbox,
    NoSuchMessage,
    NotAllowed,
    NotInMessage,
    NotLoaded,
    UnexpectedMessage,
    WaitTimeout,
)
from mailfarm.sdk.message import MessageBase
from mailfarm.sdk.values import Detail, Headers, Link, MailboxState, Part, Smtp, Summary, form_of
from mailfarm.sdk.verbs import Criteria, Verbs, smtp_places
from mailfarm.sdk.wire import Failure, Request, Response, Server, base_url

DETAIL = {
    "reply_to": [{"name": "", "address": "help@example.org"}],
    "date": "2026-01-31T12:00:00.000000Z",
    "text": "Your code is 481516",
    "html": "<p>481516</p>",
    "text_truncated": False,
    "html_truncated": False,
    "links": [
        {"url": "https://app.example/reset?t=1", "text": ""},
        {"url": "https://app.example/reset?t=1", "text": "Reset password"},
        {"url": "https://app.example/unsubscribe", "text": "No more of this"},
    ],
    "codes": ["481516"],
    "parts": [
        {
            "n": 0,
            "parent": None,
            "content_type": "text/csv",
            "charset": "",
            "filename": "../a.csv",
            "disposition": "attachment",
            "content_id": "",
            "size": 3,
            "attachment": True,
            "encoding": "base64",
        }
    ],
    "envelope": {
        "sender": "app@example.org",
        "recipients": [{"address": "t-1@mailfarm.test", "notify": [], "orcpt": None}],
        "body": "7BIT",
        "smtputf8": False,
        "ret": None,
        "envid": None,
    },
    "origin": {"service": "submission", "client": "127.0.0.1"},
    "findings": [],
}


def verbs(reached: bool = True) -> Verbs:
    return Verbs(Server("http://farm.example:8025", reached), Clock())


def run(steps: Any, *answers: Response | Failure) -> tuple[Any, list[Request]]:
    left = list(answers)
    return drive(steps, lambda request: left.pop(0), Clock())


class Shown(MessageBase[Any]):
    """A message without a client, whose attachments nobody can fetch."""

    def _attachment(self, part: Part) -> Any:
        return part


def message(**detail: Any) -> MessageBase[Any]:
    return Shown(Summary.of(summary(1, "Reset")), Detail.of(DETAIL | detail), Headers([]))


def test_a_mailbox_is_made_of_what_was_said() -> None:
    made = answer(201, BOX | {"smtp": {"user": "u", "password": "p"}})
    version = answer(200, {"smtp": {"capture": "0.0.0.0:2025", "starttls": "[::1]:1587", "tls": "off"}})
    (state, smtp), asked = run(verbs().create_mailbox(None, None, 0.5, None), made, version)
    assert (asked[0].method, asked[0].json) == ("POST", {"lifetime": 1})
    assert state.address == "t-1@mailfarm.test"
    assert smtp == Smtp("farm.example", 2025, "u", "p", 1587, None)
    assert "p" not in repr(smtp).split("user=")[1].replace("user", "")


def test_a_server_that_does_not_say_where_it_takes_mail() -> None:
    smtp, _ = run(verbs().where_smtp(), answer(200, {"name": "mailfarm", "version": "1"}))
    assert (smtp.host, smtp.port) == ("farm.example", 1025)
    smtp, _ = run(verbs().where_smtp(), problem(404, "no-such-route"))
    assert smtp.port == 1025


def test_places_that_are_no_addresses() -> None:
    assert smtp_places({"capture": None, "tls": "off"}, "h") == Smtp("h", 1025)


def test_a_mailbox_by_address_or_id() -> None:
    state, asked = run(verbs().mailbox("t-1@mailfarm.test"), answer(200, {"mailboxes": [BOX], "next": None}))
    assert dict(asked[0].query)["address"] == "t-1@mailfarm.test"
    assert state == MailboxState.of(BOX)
    _, asked = run(verbs().mailbox(str(BOX["id"])), answer(200, BOX))
    assert asked[0].path == f"/v1/mailboxes/{BOX['id']}"


@pytest.mark.parametrize("which", ["", "a/b", "nope", "01KF7W2M9XQ4T6Z8B0C2D4E6F8", "01kf7w2m9xq4t6z8b0c2d4e6f8x"])
def test_what_is_no_id_is_not_asked_for(which: str) -> None:
    with pytest.raises(NoSuchMailbox, match="is neither an address nor the id of a mailbox"):
        run(verbs().mailbox(which))
    with pytest.raises(NoSuchMessage, match="is not the id of a message"):
        run(verbs().message(which))


def test_values_that_cannot_be_are_told_before_anything_is_asked() -> None:
    for wrong in ({"subject": 5}, {"subject": b"x"}, {"from_": None}, {"to": ["a"]}, {"contains": 1.0}):
        with pytest.raises(TypeError, match=r"must be text \(str\), not "):
            Criteria(**wrong)
    for steps in (verbs().mailbox(None), verbs().message(None)):
        with pytest.raises(TypeError, match="must be text"):
            run(steps)
    with pytest.raises(TypeError, match="lifetime must be a number of seconds, not '1'"):
        run(verbs().create_mailbox(None, None, "1", None))
    with pytest.raises(ValueError, match="order must be 'asc' or 'desc', not 'x'"):
        run(verbs().messages("m", Criteria(), order="x"))
    with pytest.raises(ValueError, match="limit must be 0 or more, not -1"):
        run(verbs().messages("m", Criteria(), limit=-1))


@pytest.mark.parametrize("made", ["mailfarm.sdk.Farm", "mailfarm.sdk.AsyncFarm", "mailfarm.sdk.twisted.TwistedFarm"])
def test_a_token_that_no_header_can_hold_is_not_shown(made: str) -> None:
    module, _, name = made.rpartition(".")
    farm = getattr(import_module(module), name)
    for token in ("se\ncret", "sécret", "se cret", "secret\r", "\udcffsecret"):
        with pytest.raises(ValueError, match=r"^the token has characters that a header cannot hold$"):
            farm("http://127.0.0.1:8025", token)
    with pytest.raises(TypeError, match="the token must be text"):
        farm("http://127.0.0.1:8025", b"secret")
    with pytest.raises(TypeError, match="the URL must be text"):
        farm(None)


def test_a_closed_farm_says_so() -> None:
    farm = Farm("http://127.0.0.1:9")
    inbox = Inbox(farm, MailboxState.of(BOX))
    farm.close()
    for ask in (farm.version, inbox.wait_for, lambda: next(inbox.events())):
        with pytest.raises(ValueError, match="this farm was closed"):
            ask()


def test_no_such_address_names_some_there_are() -> None:
    none, one = answer(200, {"mailboxes": [], "next": None}), answer(200, {"mailboxes": [BOX], "next": None})
    with pytest.raises(NoSuchMailbox, match=r"'x@y.test'; there are t-1@mailfarm.test"):
        run(verbs().mailbox("x@y.test"), none, one)


def test_lists_are_read_to_their_end() -> None:
    pages = [
        answer(200, {"messages": [summary(1), summary(2)], "cursor": 9, "next": 2}),
        answer(200, {"messages": [summary(3)], "cursor": 9, "next": None}),
    ]
    found, asked = run(verbs().messages("box", Criteria(from_="a", contains="b")), *pages)
    assert [each.summary.seq for each in found] == [1, 2, 3]
    assert dict(asked[0].query) == {"from": "a", "contains": "b", "order": "asc", "limit": "1000"}
    assert dict(asked[1].query)["after"] == "2"


def test_a_limit_is_kept_and_the_newest_come_by_before() -> None:
    pages = [
        answer(200, {"messages": [summary(9)], "cursor": 9, "next": 9}),
        answer(200, {"messages": [summary(8)], "cursor": 9, "next": 8}),
    ]
    found, asked = run(verbs().messages("box", Criteria(), order="desc", limit=2, seen=False), *pages)
    assert [each.summary.seq for each in found] == [9, 8]
    assert dict(asked[1].query) == {"order": "desc", "seen": "false", "limit": "1", "before": "9"}


def test_clear_says_all() -> None:
    count, asked = run(verbs().clear("box"), answer(200, {"deleted": 3, "cursor": 4}))
    assert (count, asked[0].method, asked[0].json) == (3, "DELETE", {"all": True})
    assert asked[0].headers("secret")["Content-Type"] == "application/json"
    assert asked[0].headers("secret")["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (problem(401, "unauthenticated"), NotAllowed),
        (problem(403, "scope-missing"), NotAllowed),
        (problem(404, "not-found"), NoSuchMessage),
        (problem(409, "conflict"), AddressTaken),
        (problem(400, "invalid-value"), ApiError),
        (answer(200, None), ApiError),
        (answer(200, {"hello": "world"}), ApiError),
        (answer(200, DETAIL | {"links": [{}]}), ApiError),
        (answer(200, []), ApiError),
        (answer(301, None, location="/elsewhere"), ApiError),
        (Response(500, b"<html>oops"), ApiError),
    ],
)
def test_what_an_answer_means(said: Response, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(verbs().detail("m1"), said)


def test_a_problem_keeps_its_members() -> None:
    with pytest.raises(ApiError, match="invalid-value") as caught:
        run(verbs().version(), problem(400, "invalid-value", member="limit"))
    assert (caught.value.name, caught.value.status, caught.value.problem["member"]) == ("invalid-value", 400, "limit")


def test_what_may_be_done_twice_is_asked_again() -> None:
    good = answer(200, {"headers": [["Subject", "x"]]})
    for trouble in (Failure("cut", sent=True), Failure("refused", sent=False), problem(503, "stopping"), answer(429)):
        _, asked = run(verbs().headers("m1"), trouble, trouble, good)
        assert len(asked) == 3
    with pytest.raises(CannotConnect, match="went away"):
        run(verbs().headers("m1"), *[Failure("cut", sent=True)] * 5)
    with pytest.raises(ApiError):
        run(verbs().headers("m1"), *[problem(503, "stopping")] * 5)


def test_what_makes_something_is_not_done_twice() -> None:
    with pytest.raises(CannotConnect):
        run(verbs().create_mailbox(None, None, None, None), Failure("cut", sent=True))
    with pytest.raises(ApiError):
        run(verbs().create_mailbox(None, None, None, None), problem(503, "unavailable"))


def test_nobody_there_at_first_is_not_tried_again() -> None:
    with pytest.raises(CannotConnect, match="mailfarm dev"):
        run(verbs(reached=False).version(), Failure("Connection refused", sent=False))


@pytest.mark.parametrize("url", ["127.0.0.1:8025", "ftp://x", "http://", "http://x?y=1", "http://x#y", ""])
def test_no_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:8025"):
        base_url(url)


def test_a_port_that_is_none() -> None:
    for url in ("http://127.0.0.1:99999", "http://127.0.0.1:x"):
        with pytest.raises(ValueError, match=f"the port of '{url}' is not a number up to 65535"):
            base_url(url)


def test_the_url_of_the_api_will_do() -> None:
    assert base_url("http://127.0.0.1:8025/v1/") == base_url("http://127.0.0.1:8025/v1") == "http://127.0.0.1:8025"


def test_a_url_under_a_path() -> None:
    assert base_url("https://mail.example/farm/") == "https://mail.example/farm"


def test_one_link_by_a_word() -> None:
    mail = message()
    assert mail.link("RESET") == "https://app.example/reset?t=1"
    assert mail.link("no more") == mail.links[2]
    with pytest.raises(NotInMessage, match=r"no link with 'login' in 'Reset' from App.*\n.*reset\?t=1\n"):
        mail.link("login")
    with pytest.raises(NotInMessage, match="2 different links"):
        mail.link()
    with pytest.raises(NotInMessage, match="no other link"):
        message(links=[]).link("x")


def test_the_likeliest_code() -> None:
    assert message().code() == "481516"
    with pytest.raises(NotInMessage, match=r"no code .*; its text begins:\n  Your code is 481516"):
        message(codes=[]).code()
    text = (
        "Order 20391, placed 2026-01-31, 1200.50 EUR, see https://x.example/o/4711?n=99120. Call 5551234. Order 20391."
    )
    with pytest.raises(NotInMessage, match=r"numbers that nothing calls a code: 20391, 5551234; its text begins"):
        message(codes=[], text=text).code()
    with pytest.raises(NotInMessage, match="it has no text"):
        message(codes=[], text="", html="").code()


def test_what_was_not_fetched_says_what_to_await() -> None:
    mail: MessageBase[Any] = Shown(Summary.of(summary(1)))
    for name in ("text", "headers", "raw", "links"):
        with pytest.raises(NotLoaded, match="await"):
            getattr(mail, name)


def test_headers() -> None:
    headers = Headers([("Received", "b"), ("Subject", "x"), ("received", "a")])
    assert headers["SUBJECT"] == "x"
    assert headers["received"] == "b"
    assert headers.all("Received") == ("b", "a")
    assert headers.get("To") is None
    assert "subject" in headers
    assert (len(headers), dict(headers)) == (2, {"Received": "b", "Subject": "x"})
    with pytest.raises(KeyError, match="there are: Received, Subject"):
        headers["To"]


def test_a_link_is_text_and_survives_copying() -> None:
    link = Link("https://a.example/", "here")
    for each in (link, copy.deepcopy(link), pickle.loads(pickle.dumps(link))):
        assert each == "https://a.example/"
        assert each.text == "here"
        assert type(each.url) is str


def test_errors_survive_pickling() -> None:
    for error in (
        NoSuchMailbox("no", status=404, problem={"type": "/v1/problems/not-found"}),
        WaitTimeout("late", messages=[Summary.of(summary(1))], in_mailbox=3),
        UnexpectedMessage("oops", messages=[Summary.of(summary(1))]),
        NotInMessage("nothing"),
    ):
        copied = pickle.loads(pickle.dumps(error))
        assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))


def test_values_know_the_json_they_came_from() -> None:
    assert form_of(Summary.of(summary(1))) == summary(1)
    assert form_of(MailboxState.of(BOX)) == BOX
    form = form_of(Detail.of(DETAIL))
    assert form["links"] == DETAIL["links"]
    assert json.loads(json.dumps(form))["parts"] == DETAIL["parts"]
