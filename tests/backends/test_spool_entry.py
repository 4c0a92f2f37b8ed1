"""A mail as a file of the local spool: read in pieces of any size, known for what it is when it was cut or changed."""

from __future__ import annotations

import struct
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spooled_samples import octets, spooled
from twisted.internet.defer import Deferred

from mailfarm.backends.queue_content import Whole
from mailfarm.backends.spool_entry import HEAD, LONGEST_FORM, Reader, beginning
from mailfarm.backends.spool_form import NewerFormError, to_form
from mailfarm.errors import Damaged, Invalid
from mailfarm.ports import Spooled

CONTENT = b"Subject: hello\r\n\r\nhello\r\n"
MAIL = spooled(CONTENT)
FILE = beginning(MAIL) + CONTENT


def read(data: bytes, sizes: list[int] | None = None) -> Reader:
    """What a reader makes of a file that comes in pieces of these sizes, the last one again and again."""
    reader = Reader()
    at = 0
    for size in sizes or [len(data)]:
        reader.feed(data[at : at + size])
        at += size
    while at < len(data):
        reader.feed(data[at : at + (sizes or [1])[-1]])
        at += (sizes or [1])[-1]
    reader.end()
    return reader


def whole(content: bytes) -> bytes:
    mail = spooled(content)
    return beginning(mail) + content


@given(st.binary(max_size=2000), st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_what_was_written_is_read_again_however_it_comes(content: bytes, sizes: list[int]) -> None:
    mail = spooled(content)
    data = beginning(mail) + content
    reader = read(data, sizes)
    assert (reader.size, data[reader.start :], reader.wants) == (len(content), content, 0)
    again = reader.spooled(Whole(content))
    assert to_form(again) == to_form(mail)
    found: list[bytes] = []
    Deferred.fromCoroutine(octets(again)).addCallback(found.append)
    assert found == [content]


def test_octet_by_octet_it_says_how_much_it_wants() -> None:
    reader = Reader()
    for number in range(len(FILE) - len(CONTENT)):
        assert not reader.beginning_known
        assert reader.wants == (HEAD - number if number < HEAD else len(FILE) - len(CONTENT) - number)
        reader.feed(FILE[number : number + 1])
    assert (reader.beginning_known, reader.wants) == (True, 0)


def test_a_file_that_ends_too_early_is_damaged_wherever_it_ends() -> None:
    for length in range(len(FILE)):
        with pytest.raises(Damaged, match="it ends after"):
            read(FILE[:length], [7])


def test_a_file_that_was_changed_is_damaged_wherever_it_was() -> None:
    """Each octet; the one that says which layout it is may also be of a newer one."""
    for at in range(len(FILE)):
        for change in (1, 128, 255):
            data = bytearray(FILE)
            data[at] ^= change
            with pytest.raises((Damaged, NewerFormError) if at == 7 else Damaged):
                read(bytes(data))


@given(st.binary(min_size=1, max_size=100), st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_a_file_with_something_behind_it_is_damaged(more: bytes, sizes: list[int]) -> None:
    with pytest.raises(Damaged):
        read(FILE + more, sizes)


@given(st.binary(max_size=300))
def test_anything_else_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        read(data)


@given(st.integers(0, len(FILE)), st.integers(1, 5000))
def test_zeros_in_place_of_what_was_never_written_are_damaged(length: int, zeros: int) -> None:
    """What a file system may show after a power cut: the right length, and nothing in it."""
    data = FILE[:length] + bytes(max(zeros, len(FILE) - length))
    with pytest.raises(Damaged):
        read(data)


def test_a_newer_layout_and_a_newer_form_are_left_for_a_newer_mailfarm() -> None:
    with pytest.raises(NewerFormError):
        read(b"mfspool2" + FILE[8:])
    form = to_form(MAIL).replace(b'"v":1', b'"v":2')
    numbers = struct.pack(">8sIQ", b"mfspool1", len(form), len(CONTENT))
    with pytest.raises(NewerFormError):
        read(numbers + sha256(numbers + form).digest() + form + CONTENT)


def test_nobody_waits_for_a_form_of_four_gigabytes() -> None:
    numbers = struct.pack(">8sIQ", b"mfspool1", LONGEST_FORM + 1, 0)
    with pytest.raises(Damaged, match="is said to have"):
        Reader().feed(numbers + bytes(32))


def test_an_envelope_that_cannot_be_stored_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailfarm.backends.spool_entry.LONGEST_FORM", 10)
    mail: Spooled = MAIL
    with pytest.raises(Invalid):
        beginning(mail)
