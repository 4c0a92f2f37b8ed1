"""A small file system of one's own in memory, to be filled: mount(8) of a tmpfs, which takes root.

::

    with Tmpfs(folder, "size=8m,nr_inodes=200") as disk:
        disk.fill_octets()           # a ballast file takes all the room there is
        disk.fill_inodes()           # empty files take all the inodes
        disk.free()
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_MOST_INODES = 100_000
_BLOCK = 64 * 1024


class Tmpfs:
    """What is mounted at ``place``, an empty folder. ``options`` are those of tmpfs(5); ``mode`` is 755."""

    def __init__(self, place: Path, options: str) -> None:
        self.place = place
        self.options = options
        self._ballast = place / "ballast"
        self._mounted = False

    def mount(self) -> None:
        """Raises PermissionError where it may not be mounted."""
        command = ["mount", "-t", "tmpfs", "-o", f"mode=755,{self.options}", "mailfarm-prove", str(self.place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(f"tmpfs at {self.place}: {done.stderr.strip()}")
        self._mounted = True

    def unmount(self) -> None:
        """Take it away, also while a process that ends has a file open on it. Idempotent."""
        if self._mounted:
            self._mounted = False
            subprocess.run(["umount", "--lazy", str(self.place)], capture_output=True, check=False)

    def fill_octets(self) -> int:
        """Take all the room that is left; the octets it was. What is freed later can be taken by a second call."""
        self._ballast.mkdir(exist_ok=True)
        taken = 0
        with contextlib.suppress(FileExistsError), open(self._ballast / "octets", "xb"):
            pass
        with open(self._ballast / "octets", "ab", buffering=0) as file:
            for size in (_BLOCK, 4096, 1):
                try:
                    while True:
                        taken += file.write(b"\1" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        return taken

    def fill_inodes(self) -> int:
        """Take all the inodes that are left; how many they were. Raises RuntimeError where there is no end of them."""
        self._ballast.mkdir(exist_ok=True)
        for number in range(_MOST_INODES):
            try:
                os.close(os.open(self._ballast / f"inode-{number}", os.O_CREAT | os.O_WRONLY))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return number
        raise RuntimeError(f"{self.place} has more than {_MOST_INODES} inodes: mount it with nr_inodes")

    def free(self) -> None:
        """Give back what was taken."""
        if self._ballast.exists():
            for path in self._ballast.iterdir():
                path.unlink()
            self._ballast.rmdir()

    @property
    def left(self) -> tuple[int, int]:
        """Octets and inodes that are free."""
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize, found.f_favail

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unmount()


@functools.cache
def why_not() -> str:
    """Why no file system can be mounted here; empty if one can."""
    if os.geteuid():
        return "a file system of its own is mounted by root"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Tmpfs(Path(folder), "size=64k"):
                return ""
        except (PermissionError, FileNotFoundError) as error:
            return str(error)
