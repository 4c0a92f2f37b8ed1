"""The local spool's folders: one for each process that keeps mail in it, below a folder that all of a machine share.

::

    <spool>/mx-01jk…/lock                  held (flock) by the process whose folder this is, for as long as it lives
    <spool>/mx-01jk…/0001769860800000000   a mail (``spool_entry``); the number, in µs since 1970, gives the order
    <spool>/mx-01jk…/7.part                a mail that is being written: nobody was told that we have it
    <spool>/damaged/mx-01jk…-0001769…      what cannot be read any more, for a person to look at

A mail is written under a name that does not count, synced, renamed, and the folder synced; then it is kept. So after a
power cut what has its name is whole, unless the disk has lied, and what has not was never confirmed.

A folder whose lock can be had has no living owner: whoever gets it goes on with what is in it. It is removed once that
is nothing. Everything here blocks; it runs in threads (``spool_disk``).
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, Self

LOCK: Final = "lock"
DAMAGED: Final = "damaged"
_DIGITS: Final = 19
_FOLDER: Final = re.compile(r"[a-z]+-[0-9a-z]{26}")
_MAIL: Final = re.compile(rf"[0-9]{{{_DIGITS}}}")
_BLOCK: Final = 4096
_TRIES: Final = 200
_PAUSE: Final = 0.02


def on_disk(octets: int) -> int:
    """What a file of so many octets takes of the disk: whole blocks, one at least."""
    return max(1, -(-octets // _BLOCK)) * _BLOCK


class Part:
    """A mail on its way to the disk: written, synced, then given to ``SpoolFolder.keep``. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._synced = False

    def write(self, data: bytes) -> None:
        """Append."""
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def sync(self) -> None:
        """Have it on the disk. Once is enough."""
        if not self._synced:
            assert self._file is not None
            os.fsync(self._file)
            self._synced = True
            self._close()

    def abandon(self) -> None:
        """Nobody was told of it: forget it. Raises nothing."""
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            self.path.unlink()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


class SpoolFolder:
    """One process's folder, which we hold. Made by ``make`` and ``claim``."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._serial = count(1)
        self._last = 0

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def make(cls, path: Path) -> Self:
        """A new one of our own. Raises OSError."""
        spool = path.parent
        missing = [each for each in (spool, *spool.parents) if not each.exists()]
        spool.mkdir(0o700, parents=True, exist_ok=True)
        for _ in range(_TRIES):
            path.mkdir(0o700, exist_ok=True)
            folder = cls.claim(path)
            if folder is not None:
                try:
                    for each in (path, *missing):  # or a power cut takes a folder with what was kept in it
                        _sync(each.parent)
                except BaseException:
                    folder.let_go()
                    raise
                return folder
            time.sleep(_PAUSE)  # who looks for abandoned ones was faster; it finds nothing, and takes it away
        raise FileExistsError(17, "another process has it", str(path))

    @classmethod
    def claim(cls, path: Path) -> Self | None:
        """Take what has no living owner; None when it has one, or is gone. Raises OSError."""
        try:
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it may have removed it between our two steps: then this lock guards nothing.
            if os.stat(path / LOCK).st_ino == os.fstat(lock).st_ino:
                return cls(path, lock)
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None

    def found(self) -> tuple[list[tuple[int, int]], int]:
        """The mails that are in it, as (number, octets on disk) in order, and how many unfinished ones were removed:
        those of an owner that has died. Raises OSError."""
        mails = []
        unfinished = 0
        with os.scandir(self.path) as entries:
            for entry in entries:
                if _MAIL.fullmatch(entry.name):
                    mails.append((int(entry.name), on_disk(entry.stat().st_size)))
                elif entry.name.endswith(".part"):
                    os.unlink(entry.path)
                    unfinished += 1
        return sorted(mails), unfinished

    def part(self) -> Part:
        """Begin a mail. Raises OSError."""
        return Part(self.path / f"{next(self._serial)}.part")

    def keep(self, parts: Sequence[Callable[[], Part]], now: int) -> list[int | OSError]:
        """Keep these, which are there to be written until they are asked for: for each its number, or why it is not
        kept. When this returns they would survive a power cut. ``now`` is in µs since 1970."""
        written: list[Part | OSError] = []
        for make in parts:
            try:
                written.append(make())
            except OSError as error:
                written.append(error)
        kept: list[int | OSError] = []
        for part in written:
            if isinstance(part, Part):
                try:
                    part.sync()
                    number = max(self._last + 1, now)
                    os.rename(part.path, self.mail(number))
                except OSError as error:
                    part.abandon()
                    kept.append(error)
                else:
                    self._last = number
                    kept.append(number)
            else:
                kept.append(part)
        try:
            if any(isinstance(each, int) for each in kept):
                _sync(self.path)
        except OSError as error:
            for number_or_error in kept:
                if isinstance(number_or_error, int):
                    with suppress(OSError):
                        self.mail(number_or_error).unlink()
            return [each if isinstance(each, OSError) else error for each in kept]
        return kept

    def mail(self, number: int) -> Path:
        """The file of a mail."""
        return self.path / f"{number:0{_DIGITS}}"

    def remove(self, numbers: Sequence[int]) -> None:
        """Forget mails. Not synced: one that comes again after a power cut has its id, and is filed once. Raises
        OSError."""
        for number in numbers:
            self.mail(number).unlink(missing_ok=True)

    def set_aside(self, number: int) -> Path:
        """Put a mail out of the way, for a person to look at: where it is then. Raises OSError."""
        aside = self.path.parent / DAMAGED
        aside.mkdir(0o700, exist_ok=True)
        _sync(aside.parent)
        there = aside / f"{self.path.name}-{number:0{_DIGITS}}"
        os.rename(self.mail(number), there)
        _sync(aside)
        _sync(self.path)
        return there

    def let_go(self) -> None:
        """Hold it no more: whoever comes may take it. If nothing is in it, it goes. Idempotent, raises nothing."""
        lock, self._lock = self._lock, -1
        if lock < 0:
            return
        with suppress(OSError):
            if os.listdir(self.path) == [LOCK]:
                os.unlink(self.path / LOCK)
                os.rmdir(self.path)
        os.close(lock)


def others(spool: Path, not_these: Sequence[Path]) -> list[Path]:
    """The folders there are besides ``not_these``, the oldest first. Raises OSError."""
    names = [name for name in os.listdir(spool) if _FOLDER.fullmatch(name)]
    names.sort(key=lambda name: name.rpartition("-")[2])
    return [spool / name for name in names if spool / name not in not_these]


def damaged(spool: Path) -> int:
    """How many files were set aside and are still there. Raises OSError."""
    try:
        return len(os.listdir(spool / DAMAGED))
    except FileNotFoundError:
        return 0


def free(spool: Path) -> tuple[int, int]:
    """The octets and the files that the disk has room for. Raises OSError."""
    disk = os.statvfs(spool)
    return disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else 1 << 62


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
