"""A disk that is full, or has no inode left: mail is put off with a reason, none is lost, and it flows again.

These are some of the faults; ``mailfarm prove --faults disks`` has all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from proving import chosen, nothing_lost, proof_of

from mailfarm.prove import tmpfs
from mailfarm.prove.faults import disks
from mailfarm.prove.ledger import Attempt, Ledger
from mailfarm.prove.oracle import Verdict
from mailfarm.prove.target import Target


@pytest.fixture
def stores(component: Callable[[str], Path]) -> None:
    for name in ("redis-server", "postgres"):
        component(name)
    if why := tmpfs.why_not():
        pytest.skip(why)


def told(folder: Path, *names: str, target: str = "processes") -> list[list[str]]:
    """Inject them, see that nothing is wrong, and give what they said of themselves."""
    proof = proof_of(chosen(list(disks.faults()), *names), folder, target)
    nothing_lost(proof)
    return [each.told for each in proof.injected]


@pytest.mark.usefixtures("stores")
def test_stores_whose_disk_is_full_lose_nothing(tmp_path: Path) -> None:
    redis, postgres, submission = told(
        tmp_path, "disk-full-redis-queue", "disk-full-postgres", "disk-full-submission-incoming"
    )
    assert "× 451" in redis[1]
    assert int(re.findall(r"(\d+) panics", postgres[1])[0]) > 0
    assert re.search(r"large mail: (\d+ × 250, )?\d+ × 452;", submission[1])


@pytest.mark.usefixtures("stores")
def test_a_spool_whose_disk_is_full_puts_mail_off(tmp_path: Path) -> None:
    ((_, answers),) = told(tmp_path, "disk-full-spool")
    assert "× 452" in answers
    assert "× 451" not in answers


@pytest.mark.usefixtures("stores")
def test_dev_goes_on_by_itself_when_there_is_room(tmp_path: Path) -> None:
    full, inodes = told(tmp_path, "disk-full-sqlite", "disk-inodes-sqlite", target="dev")
    assert "452" in full[1].partition("other mail")[2]
    assert re.search(r"large mail: \d+ × 452; other mail: .*× 250", inodes[1])


@pytest.mark.parametrize(
    ("code", "text", "wrong"),
    [
        (452, "4.3.1 There is no room for this message now", []),
        (250, "", []),
        (421, "4.3.2 Going away", ["mail was answered 421 4.3.2 Going away"]),
        (451, "", ["mail was answered 451 without a reason: ''"]),
        (451, "4.3.0 ", ["mail was answered 451 without a reason: '4.3.0 '"]),
        (0, "", ["a client was cut off after its content, without an answer"]),
    ],
)
def test_who_is_put_off_without_a_reason_is_found(tmp_path: Path, code: int, text: str, wrong: list[str]) -> None:
    (fault,) = chosen(list(disks.faults()), "disk-full-redis-queue")
    assert isinstance(fault, disks.Filled)
    fault.windows.append((10.0, 13.0))
    ledger = Ledger(tmp_path / "ledger", "own")
    outcome = "acked" if code == 250 else "unknown"
    ledger.write([Attempt("m-1", "a@example.org", outcome, code, "0" * 64, 11.0, 12.0, "127.0.0.1:25", text)])
    ledger.write([Attempt("m-2", "a@example.org", "unknown", 421, "0" * 64, 9.0, 12.0, "127.0.0.1:25", "before")])
    ledger.close()
    assert fault.judge_more(_Folder(tmp_path), Verdict()) == wrong


class _Folder(Target):
    """A target that is a folder and nothing more."""

    name = "folder"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def healthy(self, seconds: float = 120) -> None:
        raise NotImplementedError

    def up(self) -> None:
        raise NotImplementedError

    def down(self) -> None:
        raise NotImplementedError
