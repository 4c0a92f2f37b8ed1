"""Every parser against octets of every kind: those that were kept (``corpus/``), what is like them, and any at all.

``corpus/NAME.txt`` has an input a line, written as Python writes octets (``\\r\\n``, ``\\x00``), and a comment behind
``#`` in a line of its own that says what it was kept for. What fuzzing finds goes there: a failing example is printed
as octets to be copied. ``make fuzz`` looks for more of them, for longer.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parsers import PARSERS, same

CORPUS = Path(__file__).parent / "corpus"
CUT = [name for name, parser in PARSERS.items() if parser.cut is not None]
FUZZING = settings(max_examples=max(20, settings().max_examples // 2), suppress_health_check=list(HealthCheck))


@cache
def kept(name: str) -> tuple[bytes, ...]:
    """The inputs of a parser."""
    lines = (CORPUS / f"{name}.txt").read_text("ascii").splitlines()
    return tuple(
        line.encode("ascii").decode("unicode_escape").encode("latin-1") for line in lines if line and line[0] != "#"
    )


@st.composite
def inputs(draw: st.DrawFn, name: str) -> bytes:
    """A kept input with something done to it, pieces of several, or anything."""
    known = st.sampled_from(kept(name))
    how = draw(st.sampled_from(["any", "spliced", "changed", "changed", "repeated"]))
    if how == "any":
        return draw(st.binary(max_size=200))
    first = draw(known)
    at = draw(st.integers(0, len(first)))
    if how == "spliced":
        second = draw(known)
        return first[:at] + second[draw(st.integers(0, len(second))) :]
    if how == "repeated":
        end = draw(st.integers(at, len(first)))
        return first[:end] + first[at:end] * draw(st.integers(1, 30)) + first[end:]
    gone = draw(st.integers(0, 3))
    put = draw(
        st.one_of(st.binary(max_size=4), st.sampled_from([b"\0", b"\r", b"\n", b"\r\n", b'"', b"\\", b"<", b"\xff"]))
    )
    return first[:at] + put + first[at + gone :]


def test_each_parser_has_kept_inputs_and_each_file_a_parser() -> None:
    assert {path.stem for path in CORPUS.glob("*.txt")} == set(PARSERS)
    assert all(kept(name) for name in PARSERS)


@pytest.mark.parametrize("name", PARSERS)
def test_what_was_kept_is_taken_or_refused(name: str) -> None:
    """Also every beginning of it, as it is when it comes octet by octet."""
    parser = PARSERS[name]
    for data in kept(name):
        parser.run(data)
        for end in range(0, len(data), 1 + len(data) // 60):
            parser.run(data[:end])
        if parser.cut is not None:
            for at in range(len(data) if len(data) < 100 else 20):
                same(parser, data, at)


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_like_it_is_taken_or_refused(name: str) -> None:
    @FUZZING
    @given(inputs(name))
    def look(data: bytes) -> None:
        PARSERS[name].run(data)

    look()


@pytest.mark.parametrize("name", CUT)
def test_it_does_not_depend_on_how_it_is_cut(name: str) -> None:
    @FUZZING
    @given(inputs(name), st.integers(0, 300))
    def look(data: bytes, at: int) -> None:
        same(PARSERS[name], data, at)

    look()
