"""The oracle sees what is wrong: a ledger that does not fit what the API gives back, in every way there is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailfarm.prove.dev import Dev
from mailfarm.prove.hearing import Told
from mailfarm.prove.ledger import Attempt, Ledger, LedgerFull, Reading
from mailfarm.prove.oracle import Verdict, judge
from mailfarm.prove.sender import Sender
from mailfarm.prove.smtp import Letter
from mailfarm.prove.target import Door
from mailfarm.prove.wire import Wires
from mailfarm.sdk import Farm, Inbox, Message


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with Dev(tmp_path_factory.mktemp("dev")) as target:
        yield target


class House:
    """A mailbox with ten messages, and the ledger of them."""

    def __init__(self, dev: Dev, folder: Path) -> None:
        self.dev = dev
        self.farm = Farm(dev.url, dev.token)
        self.inbox: Inbox = self.farm.create_mailbox()
        self.sender = Sender(folder, [self.inbox.address], dev.smtp)
        self.letters = [self.sender.letter() for _ in range(10)]
        for letter in self.letters:
            assert [attempt.outcome for attempt in self.sender.send(letter)] == ["acked"]
        self.attempts = list(Reading(folder).more())

    def judged(self, attempts: list[Attempt]) -> Verdict:
        return judge(attempts, lambda: Farm(self.dev.url, self.dev.token), [self.inbox.address], seconds=1)


@pytest.fixture
def house(dev: Dev, tmp_path: Path) -> Iterator[House]:
    made = House(dev, tmp_path)
    yield made
    made.sender.close()
    made.farm.close()


def test_what_is_as_it_should_be_is_clean(house: House) -> None:
    verdict = house.judged(house.attempts)
    assert verdict.clean
    assert verdict.tally.acknowledged == 10


def test_a_message_that_is_not_there_is_lost(house: House) -> None:
    gone = replace(house.attempts[0], id="own-11")
    verdict = house.judged([*house.attempts, gone])
    assert verdict.tally.lost == [f"own-11 to {house.inbox.address}"]
    assert not verdict.clean


def test_a_message_for_two_is_judged_for_each(house: House) -> None:
    other = replace(house.attempts[0], to="somebody-else@mailfarm.test")
    assert house.judged([*house.attempts, other]).tally.lost == ["own-1 to somebody-else@mailfarm.test"]


def test_another_octet_is_another_message(house: House) -> None:
    changed = [replace(house.attempts[0], sha256="0" * 64), *house.attempts[1:]]
    verdict = house.judged(changed)
    assert verdict.tally.altered == verdict.tally.lost == [f"own-1 to {house.inbox.address}"]


def test_what_was_refused_and_is_there_is_a_ghost(house: House) -> None:
    refused = [replace(house.attempts[0], outcome="refused", code=550), *house.attempts[1:]]
    assert house.judged(refused).tally.ghosts == [f"own-1 to {house.inbox.address}"]


def test_what_is_unknown_may_be_there_and_may_not(house: House) -> None:
    unknown = [replace(house.attempts[0], outcome="unknown", code=0), *house.attempts[1:]]
    absent = replace(house.attempts[0], id="own-12", outcome="unknown", code=451)
    verdict = house.judged([*unknown, absent])
    assert verdict.clean
    assert (verdict.tally.unknown, verdict.tally.acknowledged) == (2, 9)


def test_what_comes_late_is_not_lost_while_something_comes(house: House) -> None:
    late = [house.sender.letter() for _ in range(6)]
    now = time.monotonic()
    told = [Attempt(each.id, each.to[0], "acked", 250, each.sha256, now, now, "") for each in late]

    def come() -> None:
        for letter in late:
            time.sleep(1)
            house.sender.send(letter)

    coming = threading.Thread(target=come)
    coming.start()
    box = [house.inbox.address]
    verdict = judge([*house.attempts, *told], lambda: Farm(house.dev.url, house.dev.token), box, seconds=60, still=4)
    coming.join()
    assert verdict.clean
    gone = replace(told[0], id="own-0")
    lost = judge([*house.attempts, *told, gone], lambda: Farm(house.dev.url, house.dev.token), box, seconds=60, still=1)
    assert len(lost.tally.lost) == 1
    assert lost.seconds < 30


def test_what_could_not_be_read_is_not_judged(house: House) -> None:
    from running import free_port

    url, box = f"http://127.0.0.1:{free_port()}", house.inbox.address
    verdict = judge(house.attempts, lambda: Farm(url, house.dev.token), [box], seconds=0.1)
    assert list(verdict.unread) == [box]
    assert verdict.tally.lost == []
    assert verdict.tally.not_judged == [f"own-{number} to {box}" for number in range(1, 11)]
    assert not verdict.clean


def test_what_was_read_before_the_api_went_away_is_judged(house: House) -> None:
    """What came later might be there; that a refused message is there, or a second copy, stays so."""
    host, _, port = house.dev.url.removeprefix("http://").partition(":")
    gone = replace(house.attempts[0], id="own-0")
    ghost = [replace(house.attempts[1], outcome="refused", code=550)]
    attempts = [house.attempts[0], *ghost, *house.attempts[2:], gone]
    with Wires() as wires:
        wire = wires.wire((host, int(port)))

        def later() -> bool:
            if wire.octets["down"] > 10_000:
                wire.refuse()
            return True

        def api() -> Farm:
            return Farm(f"http://{wire.address}", house.dev.token, timeout=2)

        verdict = judge(attempts, api, [house.inbox.address], seconds=1, drained=later)
    tally = verdict.tally
    assert (tally.lost, tally.not_judged) == ([], [f"own-0 to {house.inbox.address}"])
    assert tally.ghosts == [f"own-2 to {house.inbox.address}"]
    assert verdict.gaps == {}


def test_a_mailbox_that_the_api_does_not_know_is_lost_with_all_that_was_in_it(house: House) -> None:
    house.inbox.delete()
    verdict = house.judged(house.attempts)
    assert verdict.unread == {}
    assert len(verdict.tally.lost) == 10


def test_with_a_ledger_that_is_not_whole_only_what_is_in_it_is_held_against_anybody(house: House) -> None:
    house.sender.send(house.letters[3])
    attempts = [replace(house.attempts[0], outcome="refused", code=550), *house.attempts[2:]]
    gone = replace(house.attempts[0], id="own-0")
    box = [house.inbox.address]

    def api() -> Farm:
        return Farm(house.dev.url, house.dev.token)

    whole = judge(attempts, api, box, seconds=1)
    assert (len(whole.tally.ghosts), len(whole.tally.excess), len(whole.strays)) == (1, 1, 1)
    assert judge(attempts, api, box, seconds=1, written=False).clean
    assert judge([*attempts, gone], api, box, seconds=1, written=False).tally.lost == [f"own-0 to {box[0]}"]


def test_a_message_of_nobody_is_a_stray(house: House) -> None:
    assert len(house.judged(house.attempts[1:]).strays) == 1


def test_a_second_copy_needs_a_second_attempt(house: House) -> None:
    house.sender.send(house.letters[0])
    verdict = house.judged(house.attempts)
    assert verdict.tally.excess == [f"own-1 to {house.inbox.address}"]
    again = house.judged([*house.attempts, replace(house.attempts[0], outcome="unknown", code=0)])
    assert again.clean
    assert again.tally.duplicates == 1


def test_a_second_copy_that_comes_from_the_queue_later_is_waited_for(house: House) -> None:
    def drained() -> bool:
        if house.letters:
            house.sender.send(house.letters.pop())
            return not house.letters
        return True

    box = [house.inbox.address]
    verdict = judge(house.attempts, lambda: Farm(house.dev.url, house.dev.token), box, seconds=60, drained=drained)
    assert len(verdict.tally.excess) == 10


def test_a_change_number_that_is_missing_is_a_gap(house: House) -> None:
    house.inbox.messages()[4].delete()
    verdict = house.judged([attempt for attempt in house.attempts if attempt.id != "own-5"])
    assert list(verdict.gaps) == [house.inbox.address]
    assert len(verdict.gaps[house.inbox.address]) == 1


def test_two_messages_with_the_same_change_number_are_found(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    seq = Message.seq
    monkeypatch.setattr(Message, "seq", property(lambda message: min(seq.fget(message), 9)))
    assert house.judged(house.attempts).gaps == {house.inbox.address: [9]}


def test_a_consumer_must_be_told_everything_and_may_be_told_twice(house: House) -> None:
    verdict = house.judged(house.attempts)
    told = [Told(message.seq, message.id, f"event {message.seq}") for message in house.inbox.messages()]
    verdict.heard("sse 1", house.inbox.address, [*told, told[9], told[9]])
    assert verdict.clean
    assert verdict.repeats == {"sse 1": 2}
    verdict.heard("wait 1", house.inbox.address, [*told[:4], *told[5:]])
    assert verdict.missed == {"wait 1": [5]}
    assert not verdict.clean


def test_a_client_that_goes_in_the_middle_was_not_told_anything(house: House) -> None:
    letter = house.sender.letter(size=20_000)
    cut = Letter(letter.id, letter.to, letter.content, "cut")
    attempts = house.sender.send(cut)
    assert [attempt.outcome for attempt in attempts] == ["refused"]
    assert house.judged([*house.attempts, *attempts]).clean


def test_bdat_and_a_password_are_sent_as_well(house: House) -> None:
    smtp = house.inbox.smtp
    host, port = house.dev.submission[0]
    letter = house.sender.letter()
    door = Door(host, port, "plain", smtp.user or "", smtp.password or "", house.inbox.address)
    attempts = house.sender.send(Letter(letter.id, letter.to, letter.content, "bdat"), door)
    assert [attempt.outcome for attempt in attempts] == ["acked"]
    assert house.judged([*house.attempts, *attempts]).clean


def test_a_server_that_is_not_there_refuses(house: House, tmp_path: Path) -> None:
    from running import free_port

    attempts = house.sender.send(house.sender.letter(), Door("127.0.0.1", free_port()))
    assert [(attempt.outcome, attempt.code) for attempt in attempts] == [("refused", 0)]


def test_a_ledger_is_read_while_it_is_written(tmp_path: Path) -> None:
    ledger, reading = Ledger(tmp_path, "a"), Reading(tmp_path)
    now = time.monotonic()
    one = Attempt("a-1", "a@example.org", "acked", 250, "0" * 64, now, now, "127.0.0.1:25")
    ledger.write([one])
    assert list(reading.more()) == [one]
    with open(ledger.path, "ab") as file:
        file.write(b'{"id": "half')
    assert list(reading.more()) == []
    ledger.close()


def test_a_full_ledger_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "a", most=1)
    one = Attempt("a-1", "a@example.org", "acked", 250, "0" * 64, 0, 0, "127.0.0.1:25")
    ledger.write([one])
    with pytest.raises(LedgerFull):
        ledger.write([one])
    ledger.close()
