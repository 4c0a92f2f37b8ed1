"""What the API remembers of refusals, and where it is found."""

from __future__ import annotations

from mailfarm.events import Refused, form, from_json, to_json
from mailfarm.mailboxes.mailbox import Mailbox
from mailfarm.services.api.refusals import RefusalLog


def refused(address: str, mailbox: str = "", account: str = "me", text: str = "") -> Refused:
    return Refused("1", account, 1, "mx", "", address, "", 550, "5.1.1", text, (), mailbox)


def log(**caps: int) -> RefusalLog:
    return RefusalLog(None, **caps)


def mailbox(id: str, address: str, account: str = "me") -> Mailbox:
    return Mailbox(id, account, address, "sandbox", 0, 0, None, None, 0, 0, 0, 0)


def test_the_oldest_goes_first_whatever_its_address() -> None:
    kept = log(most=3)
    for number, name in enumerate("aabca"):
        kept.hear(refused(f"{name}@x.example", text=str(number)))
    assert [[one.text for one in kept.of_address("me", f"{name}@x.example")] for name in "abc"] == [["4"], ["2"], ["3"]]
    for number in range(10):
        kept.hear(refused(f"n{number}@x.example", f"box{number}"))
    assert len(kept._kept) == 3
    assert len(kept._numbers) == 6


def test_the_text_has_a_cap_in_all() -> None:
    kept = log(most_text=1000)
    for number in range(50):
        kept.hear(refused(f"n{number}@x.example", text="x" * 100))
    assert kept._text == sum(each.size for each in kept._kept.values()) <= 1000
    assert len(kept._kept) == 8
    kept.hear(refused("big@x.example", text="x" * 2000))
    assert (kept._text, len(kept._kept), kept._numbers) == (0, 0, {})


def test_an_address_keeps_its_last_and_what_is_found_nowhere_is_not_kept() -> None:
    kept = log(per_key=2)
    for number in range(5):
        kept.hear(refused("a@x.example", "box", text=str(number)))
    assert [one.text for one in kept.of_address("me", "A@x.example")] == ["3", "4"]
    assert len(kept._kept) == 2
    kept.hear(refused("", ""))
    kept.hear(refused("a@x.example", account=""))
    assert len(kept._kept) == 2


def test_a_mailbox_has_what_was_for_it_by_id_by_address_and_with_a_tag() -> None:
    kept = log()
    kept.hear(refused("x@y.example", "box", text="by its credential"))
    kept.hear(refused("a+tag@x.example", text="with a tag"))
    kept.hear(refused("A@x.example", "box", text="both"))
    kept.hear(refused("", "box", text="MAIL"))
    kept.hear(refused("a@x.example", "other", text="by another's credential"))
    kept.hear(refused("a@x.example", account="they", text="theirs"))
    kept.hear(refused("box", text="an address that is an id"))
    assert [one.text for one in kept.of_mailbox(mailbox("box", "a@x.example"))] == [
        "by its credential", "with a tag", "both", "MAIL",
    ]  # fmt: skip
    assert [one.text for one in kept.of_address("me", "a@x.example")] == [
        "with a tag", "both", "by another's credential",
    ]  # fmt: skip
    assert [one.text for one in kept.of_address("me", "a+tag@x.example")] == ["with a tag"]
    assert not kept.of_mailbox(mailbox("box", "a@x.example", "they"))[1:]


def test_the_form_has_the_mailbox_and_an_older_one_is_read() -> None:
    event = refused("a@x.example", "box")
    assert form(event)["mailbox"] == "box"
    assert from_json(to_json(event)) == event
    older = to_json(event).replace(b',"mailbox":"box"', b"")
    assert from_json(older) == refused("a@x.example")
