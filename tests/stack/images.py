"""The images of the stack, built by the project's own recipe on an engine kept for that, and cached.

The engine's disk stays in ``.make/images``: with it Docker's build cache, so that a second build is quick. The machines
of a lab get hard-linked copies of that disk (layers are never written to). Nothing is done while nothing that goes into
the images has changed.

    python tests/stack/images.py           build what has changed, and say how long it took
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engine import Engine, LabError, missing
from lab import ROOT, turn
from leftovers import remove_cgroups

FOLDER = ROOT / ".make" / "images"
RECIPE = ("stack/build", "--bare")
NAMES = "image/names.env"
"""Where on a disk they are named; it is copied with the disk."""
_STAMP = FOLDER / "stamp"
_NAME = "mailfarm-images"
_INPUTS = ("mailfarm", "stack", "setup.cfg", "pyproject.toml", "requirements.lock", ".dockerignore")


def disk() -> Path | None:
    """The disk with the images on it, if they were ever built."""
    return FOLDER / "disk" if _STAMP.exists() else None


def names(disk: Path) -> dict[str, str]:
    """The variables of the stack's file that name the images on a disk."""
    return dict(line.split("=", 1) for line in (disk / NAMES).read_text().split())


def build(tell: Callable[[str], None]) -> Path:
    """Build what has changed; the disk. Raises LabError."""
    if why := missing():
        raise LabError(why)
    with turn(FOLDER.with_suffix(".lock"), tell):
        wanted = _digest()
        if _STAMP.exists() and _STAMP.read_text() == wanted:
            return FOLDER / "disk"
        began = time.monotonic()
        tell("building the images (the first time about a minute)")
        _STAMP.unlink(missing_ok=True)
        remove_cgroups(_NAME)
        engine = Engine(FOLDER, "images", cgroup=_NAME)
        engine.start()
        try:
            engine.until_ready()
            _recipe(engine, tell)
        finally:
            engine.stop()
            remove_cgroups(_NAME)
            for name in ("run", "log", "cgroup", "etc", "home"):
                shutil.rmtree(FOLDER / name, ignore_errors=True)
        _STAMP.write_text(wanted)
        tell(f"images built in {time.monotonic() - began:.1f} s")
        return FOLDER / "disk"


def _recipe(engine: Engine, tell: Callable[[str], None]) -> None:
    code, said = engine.follow(*RECIPE, tell=tell, folder=ROOT)
    if code:
        raise LabError(f"{' '.join(RECIPE)} ended with {code}:\n{said[-3000:]}")
    shutil.copyfile(ROOT / ".make" / "stack" / "image.env", engine.disk / NAMES)


def _digest() -> str:
    """Of the names and contents of all that goes into the images."""
    digest = hashlib.sha256()
    for path in sorted(path for name in _INPUTS for path in (ROOT / name, *(ROOT / name).rglob("*"))):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(ROOT)} {path.stat().st_mode:o} ".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


if __name__ == "__main__":
    if why := missing():
        print(f"The stack's tests will not run here: {why}", file=sys.stderr)
        sys.exit(0)  # they say so themselves
    try:
        build(lambda line: print(line, file=sys.stderr, flush=True))
    except LabError as error:
        sys.exit(str(error))
