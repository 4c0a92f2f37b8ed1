"""Content on the wire against a model that is slow and plain, for every split."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailfarm.smtp import replies
from mailfarm.smtp.data import GATHER, Content

TWELVE = [
    b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r",
    b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n",
]  # fmt: skip

nasty = st.lists(
    st.sampled_from([b"\r\n", b"\r\n.", b"\r", b"\n", b".", b"\0", b"x", b"..", b"\r\n.\r\n", b"xxxxxxxx", *TWELVE]),
    max_size=30,
).map(b"".join)


def model(wire: bytes, normalize: bool = False) -> tuple[bytes, bool, int]:
    """(content, whether it has something bare, octets read), or the octets read are -1 when there is no end."""
    if normalize:
        return normal_model(wire)
    line_start = 0
    lines: list[bytes] = []
    while True:
        end = wire.find(b"\r\n", line_start)
        if end < 0:
            return b"", False, -1
        line = wire[line_start:end]
        line_start = end + 2
        if line == b".":
            break
        lines.append(line[1:] if line.startswith(b".") else line)
    bare = any(b"\r" in line or b"\0" in line or b"\n" in line for line in lines)
    return b"".join(line + b"\r\n" for line in lines), bare, line_start


def normal_model(wire: bytes) -> tuple[bytes, bool, int]:
    """The same with ``normalize``: the end, then the line ends, then the dots."""
    end = (b"\r\n" + wire).find(b"\r\n.\r\n")
    if end < 0:
        return b"", False, -1
    lines = wire[:end].replace(b"\r\n", b"\n").split(b"\n")[:-1]
    content = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines)
    return content, b"\r" in content.replace(b"\r\n", b"") or b"\0" in content, end + 3


def read(wire: bytes, cuts: list[int], normalize: bool = False, max_size: int = 10**9) -> tuple[bytes, Content, int]:
    """(content, reader, octets read or -1)."""
    content = Content(max_size, 10**9, normalize)
    content.begin(dots=True)
    out = b""
    start = 0
    for stop in [*sorted(cuts), len(wire)]:
        if stop > start:
            end = content.dots(wire[:stop], start) if stop % 2 else content.dots(wire[start:stop], 0)
            if end >= 0:
                return out + content.take(), content, end if stop % 2 else start + end
            out += content.ready()
        start = max(start, stop)
    return out, content, -1


@given(nasty, st.lists(st.integers(0, 120), max_size=12), st.booleans())
@example(b".\r\n", [], False)
@example(b"..\r\n.\r\n", [1], False)
@example(b".\r", [1], False)
@example(b"a\n..x\r\n.\r\n", [2], True)
@example(b"a\r\n.\nb\r\n.\r\n", [], True)
def test_reader_is_the_model_for_every_split(wire: bytes, cuts: list[int], normalize: bool) -> None:
    expected, bare, length = model(wire, normalize)
    found, content, end = read(wire, [cut for cut in cuts if cut < len(wire)], normalize)
    assert end == length
    if end >= 0:
        assert (content.fault is replies.BARE) == bare
        if not bare:
            assert found == expected
            assert content.size == len(expected)


@given(nasty, st.booleans())
def test_octet_by_octet_is_the_model(wire: bytes, normalize: bool) -> None:
    expected, bare, length = model(wire, normalize)
    found, _content, end = read(wire, list(range(len(wire))), normalize)
    assert end == length
    if end >= 0 and not bare:
        assert found == expected


@pytest.mark.parametrize("sequence", TWELVE)
@pytest.mark.parametrize("max_size", [5, 10**6])
def test_nothing_else_ends_it_in_any_split(sequence: bytes, max_size: int) -> None:
    wire = b"some text" + sequence + b"more\r\n.\r\n"
    for one in range(len(wire)):
        for two in range(one, len(wire)):
            _, content, end = read(wire, [one, two], max_size=max_size)
            assert end == len(wire)
            assert content.fault is replies.BARE


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"a\n..x\r\n.\r\n", b"a\r\n.x\r\n"),
        (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        (b"a\n.\nb\n.\r\nc\r\n.\r\n", b"a\r\n\r\nb\r\n\r\nc\r\n"),
        (b"\n\n..\n.x\n\r\n.\r\n", b"\r\n\r\n.\r\nx\r\n\r\n"),
        (b"..\n..\r\n.\r\n", b".\r\n.\r\n"),
    ],
)
def test_normalised_dots_in_every_split(wire: bytes, expected: bytes) -> None:
    assert normal_model(wire) == (expected, False, len(wire))
    for cuts in range(1 << (len(wire) - 1)):
        split = [at + 1 for at in range(len(wire) - 1) if cuts >> at & 1]
        found, content, end = read(wire, split, True)
        assert (found, end, content.fault) == (expected, len(wire), None), split


@given(st.lists(st.sampled_from([b"", b".", b"..", b".x", b"x", b"x.", b"\xff"])), st.lists(st.integers(0, 60)))
def test_dot_stuffing_there_and_back(lines: list[bytes], cuts: list[int]) -> None:
    wire = b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines) + b".\r\n"
    found, content, end = read(wire, [cut for cut in cuts if cut < len(wire)])
    assert found == b"".join(line + b"\r\n" for line in lines)
    assert end == len(wire)
    assert content.fault is None


@given(nasty, st.lists(st.integers(0, 120), max_size=6), st.booleans())
def test_bdat_has_the_rules_of_data(text: bytes, cuts: list[int], normalize: bool) -> None:
    """The same content by BDAT in chunks cut anywhere, and by DATA: the same octets, the same faults."""
    text += b"\r\n"
    stuffed = text.replace(b"\n.", b"\n..") if normalize else text.replace(b"\r\n.", b"\r\n..")
    wire = (b"." + stuffed if stuffed.startswith(b".") else stuffed) + b".\r\n"
    by_data, data, end = read(wire, [], normalize)
    assert end == len(wire)
    bdat = Content(10**9, 10**9, normalize)
    bdat.begin(dots=False)
    start = 0
    by_bdat = b""
    for stop in [*sorted(cut for cut in cuts if cut < len(text)), len(text)]:
        bdat.octets(text[start:stop])
        start = stop
        by_bdat += bdat.ready()
    bdat.end_octets()
    assert bdat.fault == data.fault
    if data.fault is None:
        assert by_bdat + bdat.take() == by_data
        assert bdat.size == data.size


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=20),
    st.lists(st.integers(0, 400), max_size=8),
    st.integers(2, 30),
)
def test_long_lines_are_found_in_any_split(lines: list[tuple[int, bool]], cuts: list[int], longest: int) -> None:
    text = b"".join((b"." if dot else b"") + b"x" * length + b"\r\n" for length, dot in lines)
    content = Content(10**9, longest, False)
    content.begin(dots=False)
    start = 0
    for stop in [*sorted(cut for cut in cuts if cut < len(text)), len(text)]:
        content.octets(text[start:stop])
        start = stop
    content.end_octets()
    assert (content.fault is replies.TEXT_LINE_TOO_LONG) == any(len(line) > longest for line in text.splitlines(True))


def test_a_short_mail_is_one_piece_however_it_came() -> None:
    wire = b"x" * 70 + b"\r\n"
    content = Content(10**9, 10**9, False)
    content.begin(dots=True)
    for octet in wire * 50 + b".\r\n":
        content.dots(bytes([octet]), 0)
        assert not content.ready()
    assert content.take() == wire * 50


def test_a_long_one_is_handed_on_as_it_comes() -> None:
    content = Content(10**9, 10**9, False)
    content.begin(dots=True)
    piece = (b"x" * 70 + b"\r\n") * 1000
    kept = 0
    for _ in range(10):
        content.dots(piece, 0)
        kept = max(kept, len(content._gathered))
        assert len(content.ready()) >= GATHER
    assert kept <= len(piece) + 4


def test_gravest_fault_counts_in_either_order() -> None:
    for wire in (b"x\n" + b"y" * 100 + b"\r\n", b"y" * 100 + b"\r\nx\ny\r\n"):
        content = Content(50, 50, False)
        content.begin(dots=True)
        content.dots(wire + b".\r\n", 0)
        assert content.fault is replies.BARE
