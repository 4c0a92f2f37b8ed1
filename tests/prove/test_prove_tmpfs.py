"""A disk of a few megabytes that is filled, and freed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailfarm.prove import tmpfs
from mailfarm.prove.tmpfs import Tmpfs

needs_root = pytest.mark.skipif(bool(tmpfs.why_not()), reason=tmpfs.why_not())


@needs_root
def test_a_full_disk_takes_nothing_until_it_is_freed(tmp_path: Path) -> None:
    with Tmpfs(tmp_path, "size=1m,nr_inodes=50") as disk:
        (tmp_path / "mail").write_bytes(b"x" * 10_000)
        assert disk.fill_octets() > 900_000
        assert disk.left[0] == 0
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "more").write_bytes(b"x")
        (tmp_path / "mail").unlink()
        assert disk.fill_octets() >= 10_000  # what somebody gave up
        disk.free()
        (tmp_path / "more").write_bytes(b"x" * 900_000)
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_without_inodes_a_file_can_grow_and_none_can_be_made(tmp_path: Path) -> None:
    with Tmpfs(tmp_path, "size=1m,nr_inodes=50") as disk, open(tmp_path / "log", "wb", buffering=0) as log:
        assert 40 < disk.fill_inodes() < 50
        assert disk.left[1] == 0
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "more").touch()
        log.write(b"x" * 100_000)
        disk.free()
        (tmp_path / "more").touch()


def test_who_may_not_mount_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "root" in tmpfs.why_not.__wrapped__()
    with pytest.raises(PermissionError, match="tmpfs at"):
        Tmpfs(tmp_path / "nowhere", "size=1m").mount()
