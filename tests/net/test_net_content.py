"""Content on its way in: what is read is what was written, whatever the pieces, and nothing is left behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import os
import random
import resource
from pathlib import Path

import pytest

from mailfarm.errors import QueueFull
from mailfarm.net.content import SMALL, SpillContent
from mailfarm.net.incoming_room import IN_ONE, IncomingRoom
from mailfarm.ports import CHUNK


def read(content: SpillContent) -> bytes:
    async def gather() -> list[bytes]:
        return [piece async for piece in content.chunks()]

    pieces = asyncio.run(gather())
    assert all(0 < len(piece) <= CHUNK for piece in pieces)
    assert all(type(piece) is bytes for piece in pieces)
    return b"".join(pieces)


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7, IN_ONE, IN_ONE + 1]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1000, SMALL, SMALL + 1, CHUNK - 1, CHUNK, 10 * CHUNK])
def test_what_is_read_is_what_was_written(tmp_path: Path, size: int, piece: int) -> None:
    data = random.Random(size).randbytes(size)
    content = SpillContent(tmp_path)
    for start in range(0, size, piece):
        content.write(data[start : start + piece])
    assert content.size == size
    assert content.sha256 == hashlib.sha256(data).digest()
    assert content.spilled == (size > IN_ONE)
    assert read(content) == data
    assert read(content) == data, "it can be read again"
    assert os.listdir(tmp_path) == [], "the file has no name"
    content.close()
    content.close()


@pytest.mark.parametrize("threshold", [0, IN_ONE])
def test_two_readers_do_not_disturb_one_another(tmp_path: Path, threshold: int) -> None:
    data = random.Random(1).randbytes(3 * CHUNK)
    content = SpillContent(tmp_path, threshold)
    content.write(data)

    async def both() -> None:
        one, other = content.chunks(), content.chunks()
        first = [await anext(one), await anext(other)]
        assert first == [data[:CHUNK]] * 2
        assert [await anext(one), await anext(other)] == [data[CHUNK : 2 * CHUNK]] * 2

    asyncio.run(both())
    content.close()


@pytest.mark.parametrize("threshold", [0, IN_ONE])
def test_the_hash_may_be_asked_for_before_anything_was_written(tmp_path: Path, threshold: int) -> None:
    content = SpillContent(tmp_path, threshold)
    assert content.sha256 == hashlib.sha256(b"").digest()
    content.write(b"mail")
    assert content.sha256 == hashlib.sha256(b"mail").digest()
    content.close()


def test_the_hash_of_content_that_was_closed_is_the_one_that_was_asked_for_or_none(tmp_path: Path) -> None:
    asked, not_asked = SpillContent(tmp_path), SpillContent(tmp_path)
    for content in (asked, not_asked):
        content.write(b"mail")
    wanted = asked.sha256
    for content in (asked, not_asked):
        content.close()
    assert asked.sha256 == wanted == hashlib.sha256(b"mail").digest()
    with pytest.raises(ValueError, match="closed"):
        _ = not_asked.sha256


def test_a_closed_content_is_not_read_and_frees_its_file(tmp_path: Path) -> None:
    content = SpillContent(tmp_path, CHUNK)
    before = len(os.listdir("/proc/self/fd"))
    content.write(b"x" * (CHUNK + 1))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    content.close()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError, match="closed"):
        read(content)
    with pytest.raises(ValueError, match="closed"):
        content.write(b"more")


@pytest.mark.parametrize("threshold", [0, IN_ONE])
def test_who_reads_what_is_closed_meanwhile_is_told(tmp_path: Path, threshold: int) -> None:
    content = SpillContent(tmp_path, threshold)
    content.write(b"x" * (CHUNK + 1))

    async def reading() -> None:
        pieces = content.chunks()
        assert await anext(pieces) == b"x" * CHUNK
        content.close()
        with pytest.raises(ValueError, match="closed"):
            await anext(pieces)

    asyncio.run(reading())


def test_a_content_nobody_closed_frees_its_file(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    content = SpillContent(tmp_path, CHUNK)
    content.write(b"x" * (CHUNK + 1))
    del content
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_small_pieces_cost_no_more_than_their_octets() -> None:
    content = SpillContent()
    for _ in range(10_000):
        content.write(b"x")
    assert content._parts == [bytearray(b"x" * 10_000)]


def test_with_a_room_there_is_so_much_in_memory_and_the_rest_in_files(tmp_path: Path) -> None:
    room = IncomingRoom(tmp_path, in_memory=100)
    first, second, third = (SpillContent(room=room) for _ in range(3))
    first.write(b"a" * 60)
    second.write(b"b" * 40)
    third.write(b"c")
    assert [first.spilled, second.spilled, third.spilled] == [False, False, True]
    second.write(b"B")
    assert second.spilled
    assert room.held == 60, "what has moved to a file is in memory no more"
    third.write(b"d")
    assert [read(each) for each in (first, second, third)] == [b"a" * 60, b"b" * 40 + b"B", b"cd"]
    first.close()
    first.close()
    assert room.held == 0
    fourth = SpillContent(room=room)
    fourth.write(b"e" * 100)
    assert not fourth.spilled
    del fourth
    gc.collect()
    assert room.held == 0, "also of content that nobody closed"
    for each in (second, third):
        each.close()


def test_the_folder_is_asked_for_room_once_a_second(tmp_path: Path) -> None:
    now = [0.0]
    huge = 10**18
    room = IncomingRoom(tmp_path, largest=huge, seconds=lambda: now[0])
    room.check(IN_ONE + 1)
    room.check(IN_ONE)
    with pytest.raises(QueueFull, match=f"octets are free in {tmp_path}"):
        room.check(huge)
    with pytest.raises(QueueFull):
        room.check(0)  # anything may come
    gone = tmp_path / "gone"
    gone.mkdir()
    room = IncomingRoom(gone, largest=IN_ONE + 1, seconds=lambda: now[0])
    room.check(0)
    gone.rmdir()
    now[0] = 0.9
    room.check(0)
    now[0] = 1.0
    room.check(1)  # that will be in memory
    with pytest.raises(QueueFull, match="No such file"):
        room.check(0)


def test_what_would_be_in_memory_needs_the_folder_once_memory_is_full(tmp_path: Path) -> None:
    room = IncomingRoom(tmp_path / "none", in_memory=100)
    room.check(100)
    room.hold(1)
    with pytest.raises(QueueFull):
        room.check(100)


def test_a_folder_that_is_gone_is_an_error_of_the_write(tmp_path: Path) -> None:
    content = SpillContent(tmp_path / "gone", CHUNK)
    with pytest.raises(FileNotFoundError):
        content.write(b"x" * (CHUNK + 1))
    content.close()


def test_a_file_that_may_not_grow_is_an_error_of_the_write(tmp_path: Path) -> None:
    # RLIMIT_FSIZE makes the kernel refuse as a full disk does; SIGXFSZ is ignored by Python.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    content = SpillContent(tmp_path, CHUNK)
    content.write(b"x" * CHUNK)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * CHUNK, hard))
    try:
        content.write(b"x" * CHUNK)
        with pytest.raises(OSError) as caught:
            content.write(b"x" * CHUNK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    content.close()
