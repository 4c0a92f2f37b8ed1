"""Ids: letters and digits, ordered by time."""

from hypothesis import given
from hypothesis import strategies as st

from mailfarm.ids import LENGTH, Ids, is_id, new_id

MOMENTS = st.integers(0, 2**47 * 1000)
TEN = st.binary(min_size=10, max_size=10)


@given(MOMENTS, TEN)
def test_an_id_is_letters_and_digits(now: int, random: bytes) -> None:
    id_ = new_id(now, random)
    assert len(id_) == LENGTH
    assert id_.isalnum()
    assert id_ == id_.lower()
    assert is_id(id_)


@given(MOMENTS, MOMENTS, TEN, TEN)
def test_ids_sort_by_the_millisecond_they_were_made_in(a: int, b: int, x: bytes, y: bytes) -> None:
    if a // 1000 < b // 1000:
        assert new_id(a, x) < new_id(b, y)


@given(MOMENTS, TEN, TEN)
def test_randomness_tells_ids_of_one_moment_apart(now: int, x: bytes, y: bytes) -> None:
    assert (new_id(now, x) == new_id(now, y)) == (x == y)


def test_the_layout_is_a_ulids() -> None:
    # 2016-07-30T23:54:10.259Z, the example of the ULID specification
    assert new_id(1469922850259 * 1000, bytes(10))[:10] == "01arz3ndek"


@given(MOMENTS, st.binary(max_size=50))
def test_several_are_what_each_would_be_alone(now: int, random: bytes) -> None:
    count = len(random) // 10
    alone = [new_id(now, random[at : at + 10]) for at in range(0, 10 * count, 10)]
    assert Ids(lambda: now, lambda size: random[:size]).several(count) == alone


def test_clock_and_randomness_are_arguments() -> None:
    ids = Ids(lambda: 1_000_000, lambda size: b"\xff" * size)
    assert ids.new() == new_id(1_000_000, b"\xff" * 10)
    assert not is_id("01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert not is_id("short")
