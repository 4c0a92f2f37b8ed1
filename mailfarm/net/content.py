"""Content on its way in: in memory while it is small, in a file without a name once it is not.

Fifty messages of 50 MB that come in at once cost at most fifty times ``threshold`` octets of memory, not 2.5 GB. The
file is unlinked from the start, so that nothing is left of it when the process dies.

In memory it stays in the pieces in which it came: joining each to those before would copy all of it several times.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from mailfarm.ports import CHUNK

from .incoming_room import IN_ONE, IncomingRoom

SMALL: Final = 8 * 1024
"""Octets up to which a piece is put to the one before it, so that many small ones cost no more than they hold."""


class SpillContent:
    """``ports.Content`` that grows by ``write`` until it is read.

    ``folder`` takes the file (None: the system's temporary folder, which may itself be memory); with ``room``, its
    folder does, and content is in memory only as far as that has room. Reading leaves no position behind: several
    readers, also in other threads, do not disturb one another.
    """

    __slots__ = ("_file", "_folder", "_parts", "_room", "_sha256", "closed", "size", "threshold")

    def __init__(self, folder: Path | None = None, threshold: int = IN_ONE, room: IncomingRoom | None = None) -> None:
        self._room = room
        self._folder = folder if room is None else room.folder
        self._parts: list[bytes | bytearray] = []
        self._file: int | None = None
        self._sha256: Any = None  # of a first piece in memory only once it is asked for, or more comes
        self.threshold = threshold
        self.size = 0
        self.closed = False

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of what was written so far, 32 octets. ValueError: closed, and nobody had asked."""
        if not self.size:
            return sha256().digest()
        digest: bytes = self._hash().digest()
        return digest

    @property
    def in_memory(self) -> int:
        """Octets of it in memory."""
        return sum(map(len, self._parts))

    @property
    def spilled(self) -> bool:
        """Whether the content is in a file."""
        return self._file is not None

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises OSError, with ENOSPC or EDQUOT when there is no room; then only ``close`` is left.

        The write goes to the page cache, and blocks no longer than the kernel holds back a writer of dirty pages.
        """
        self._check()
        if self.size:
            self._hash().update(data)
        if self._file is None and self.size + len(data) <= self.threshold and self._may_hold(len(data)):
            self._keep(data)
        else:
            if self._file is None:
                self._file = _nameless(self._folder)
                for part in self._parts:
                    _write_all(self._file, part)
                self._forget()
            if not self.size:
                self._hash().update(data)
            _write_all(self._file, data)
        self.size += len(data)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The content from its start, in pieces of at most ``CHUNK`` octets: as it came, or in larger ones out of the
        file. Raises OSError, ValueError (closed)."""
        at = 0
        for piece in self._from_memory() if self._file is None else self._from_file(self._file):
            yield piece
            at += len(piece)
            if at < self.size:
                self._check()  # before the next one is read: a file that is closed may be another's by now
        if at < self.size:
            self._check()

    def _from_memory(self) -> Iterator[bytes]:
        for part in self._parts:
            if len(part) <= CHUNK:
                yield bytes(part)  # which bytes are already
            else:
                for start in range(0, len(part), CHUNK):
                    yield bytes(part[start : start + CHUNK])

    def _from_file(self, number: int) -> Iterator[bytes]:
        for start in range(0, self.size, CHUNK):
            yield _read_all(number, min(CHUNK, self.size - start), start)

    def close(self) -> None:
        """Free memory and file. Idempotent."""
        self.closed = True
        self._forget()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _hash(self) -> Any:
        if self._sha256 is None:
            self._check()
            self._sha256 = sha256(b"".join(self._parts))
        return self._sha256

    def _may_hold(self, octets: int) -> bool:
        return self._room is None or self._room.hold(octets)

    def _keep(self, data: bytes) -> None:
        if not self._parts or len(data) > SMALL:
            self._parts.append(data)
            return
        last = self._parts[-1]
        if isinstance(last, bytes):
            self._parts[-1] = last = bytearray(last)
        last += data

    def _check(self) -> None:
        if self.closed:
            raise ValueError("the content is closed")

    def _forget(self) -> None:
        if self._room is not None:
            self._room.give_back(self.in_memory)
        self._parts = []

    def __del__(self) -> None:
        # a content nobody closed must not keep its file and its room until the process ends
        if not getattr(self, "closed", True):
            self.close()


def _nameless(folder: Path | None) -> int:
    """A file that has no name any more, open for reading and writing."""
    if hasattr(os, "O_TMPFILE"):
        try:
            return os.open(folder or tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            pass  # not every file system can; if the folder is gone or full, mkstemp says so
    number, name = tempfile.mkstemp(dir=folder)
    os.unlink(name)
    return number


def _write_all(number: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def _read_all(number: int, length: int, offset: int) -> bytes:
    """Exactly ``length`` octets; a file that got shorter is an error, not a shorter mail."""
    data = os.pread(number, length, offset)
    while len(data) < length:
        more = os.pread(number, length - len(data), offset + len(data))
        if not more:
            raise OSError(f"the spill file ends at {offset + len(data)}, {length - len(data)} octets early")
        data += more
    return data
