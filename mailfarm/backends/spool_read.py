"""Mail read out of the local spool: every octet of it is checked before it is handed out. Blocks, but for the chunks of
large content, which come by way of ``run``: that does a piece of work in a thread."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mailfarm.errors import Damaged
from mailfarm.ports import CHUNK, Content, Spooled

from .queue_content import Whole
from .spool_entry import Reader

Run = Callable[[Callable[[], bytes]], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A mail in the spool. ``place`` is its folder, ``octets`` what it takes of the disk."""

    place: Path
    number: int
    octets: int
    spooled: Spooled


class UnreadableError(Exception):
    """The system does not give the file of mail ``number``, for a reason that may pass."""

    def __init__(self, number: int, error: OSError) -> None:
        super().__init__(f"it cannot be read: {error.strerror or error}")
        self.number = number
        self.errno = error.errno


class InFile:
    """Content of ``size`` octets in a file, from ``start`` on."""

    __slots__ = ("_path", "_run", "_start", "size")

    def __init__(self, path: Path, start: int, size: int, run: Run) -> None:
        self._path = path
        self._start = start
        self._run = run
        self.size = size

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces. Raises OSError."""
        for at in range(0, self.size, CHUNK):
            yield await self._run(partial(self._read, at))

    def close(self) -> None: ...

    def _read(self, at: int) -> bytes:
        wanted = min(CHUNK, self.size - at)
        with open(self._path, "rb") as file:
            file.seek(self._start + at)
            data = file.read(wanted)
        if len(data) < wanted:
            raise Damaged(f"{self._path} has become shorter")
        return data


def read(place: Path, path: Path, number: int, octets: int, run: Run) -> Kept:
    """The mail in ``path``. Small content is read, large content is read when it is asked for.

    Raises Damaged; NewerFormError for what a newer mailfarm has written; OSError for what may pass.
    """
    reader = Reader()
    small = bytearray()
    try:
        with open(path, "rb") as file:
            while wants := reader.wants:
                data = file.read(wants)
                if not data:
                    break
                reader.feed(data)
            while data := file.read(CHUNK):
                reader.feed(data)
                if reader.size <= CHUNK:
                    small += data
        reader.end()
    except OSError as error:
        if error.errno == errno.EIO:
            raise Damaged(f"the disk cannot read it: {error.strerror}") from None
        raise
    large = reader.size > CHUNK
    content: Content = InFile(path, reader.start, reader.size, run) if large else Whole(bytes(small))
    return Kept(place, number, octets, reader.spooled(content))
