"""Packing: what comes out is what went in, whatever it is, and what was changed in between is found out."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfarm.errors import Damaged
from mailfarm.mailboxes.packing import (
    TOGETHER,
    Packed,
    Packer,
    Piece,
    unpack,
    unpack_behind,
    unpack_detail,
    unpack_piece,
)
from mailfarm.ports import CHUNK

DETAIL = b'{"text":"hello"}'
PACKER = Packer()


def whole(packed: Packed) -> bytes:
    if not packed.pieces:
        return unpack_behind(packed.detail, packed.data)
    return b"".join(unpack_piece(piece.packed, bytes(piece.data)) for piece in packed.pieces)


@given(detail=st.binary(max_size=300).map(lambda b: b"{" + b), content=st.binary(max_size=5000))
def test_any_octets_come_out_as_they_went_in(detail: bytes, content: bytes) -> None:
    packed = PACKER.pack(detail, content)
    assert unpack_detail(packed.detail, packed.data) == detail
    assert whole(packed) == content
    assert packed.size == len(content)


@pytest.mark.parametrize("size", [0, 1, TOGETHER, TOGETHER + 1, CHUNK, CHUNK + 1, 5 * CHUNK - 1])
@pytest.mark.parametrize("kind", ["words", "noise", "frames"])
def test_every_size_and_kind(size: int, kind: str) -> None:
    noise = os.urandom(size)
    content = {
        "words": (b"Lorem ipsum dolor sit amet " * (size // 20 + 1))[:size],
        "noise": noise,
        "frames": (PACKER.pack(DETAIL, noise[:TOGETHER]).data * (size // 20 + 1))[
            :size
        ],  # content that looks like ours
    }[kind]
    packed = PACKER.pack(DETAIL, content)
    assert whole(packed) == content
    assert len(packed.pieces) == (0 if size <= TOGETHER else -(-size // CHUNK))
    for number, piece in enumerate(packed.pieces):
        assert len(piece.data) <= CHUNK
        assert unpack_piece(piece.packed, bytes(piece.data)) == content[number * CHUNK : (number + 1) * CHUNK]
    if kind == "noise":
        assert not any(piece.packed for piece in packed.pieces)


def test_what_does_not_become_smaller_is_not_copied() -> None:
    content = os.urandom(2 * CHUNK)
    pieces = PACKER.pack(DETAIL, content).pieces
    assert all(isinstance(piece.data, memoryview) and piece.data.obj is content for piece in pieces)


def test_plain_detail_of_the_first_schema_is_read() -> None:
    assert unpack_detail(len(DETAIL), DETAIL) == DETAIL
    assert unpack_behind(len(DETAIL), DETAIL) == b""


@pytest.mark.parametrize("at", [0, 4, 5, 8, 20, -1])
def test_a_changed_octet_is_found_out(at: int) -> None:
    data = bytearray(PACKER.pack(DETAIL, b"Subject: hello\r\n\r\nhello hello hello hello\r\n" * 9).data)
    data[at] ^= 0x41
    with pytest.raises(Damaged):
        unpack_behind(len(DETAIL), bytes(data))


@pytest.mark.parametrize("cut", [0, 1, 4, 9, 30])
def test_a_frame_cut_short_is_found_out(cut: int) -> None:
    data = PACKER.pack(DETAIL, b"Subject: hello\r\n\r\n" + os.urandom(60)).data
    with pytest.raises(Damaged):
        unpack(data[:cut])


def test_a_frame_that_claims_too_much_is_not_believed() -> None:
    piece = PACKER.pack(DETAIL, b"x" * (TOGETHER + 1)).pieces[0]
    assert piece == Piece(True, piece.data)
    frame = PACKER.pack(b"{" + b"x" * CHUNK, b"").data
    with pytest.raises(Damaged, match="at most"):
        unpack_piece(True, frame)
    with pytest.raises(Damaged):
        unpack_detail(1000, PACKER.pack(DETAIL, b"").data)
