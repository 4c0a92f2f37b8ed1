"""The order oracle: it reads strace right, is content with mailfarm, and finds out whoever does not sync."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from proving import chosen, nothing_wrong, proof_of

from mailfarm.prove import order
from mailfarm.prove.faults.order import MESSAGES, faults
from mailfarm.prove.trace import Trace, read

UNSYNCED = "it was confirmed without a sync"


@pytest.fixture
def _tools(component: Callable[[str], Path]) -> None:
    for name in ("redis-server", "postgres", "strace"):
        component(name)


ID = "01m82d59apj5wt2hfg71ahrd6d"
AOF = "/queue/appendonlydir/appendonly.aof.1.incr.aof"
WAL = "/postgres/data/pg_wal/000000010000000000000001"
PUT = f'30 write(7<{AOF}>, "*13\\r\\n$4\\r\\nXADD\\r\\n$26\\r\\n{ID}\\r\\n", 99) = 99'
SYNC = f"30 fdatasync(7<{AOF}>) = 0"
STORED = '30 writev(8<TCP:[127.0.0.1:1->127.0.0.1:2]>, [{iov_base="*1\\r\\n$6\\r\\nstored\\r\\n", iov_len=16}], 1) = 16'
SAID = f'40 sendto(9<TCP:[127.0.0.1:25->127.0.0.1:3]>, "250 2.0.0 spooled as {ID}\\r\\n", 49, 0, NULL, 0) = 49'
BIND = f'50 recvfrom(6<TCP:[127.0.0.1:4->127.0.0.1:5]>, "B\\0\\0\\3\\346\\0m4\\03201{ID[2:]}", 8192, 0, NULL, NULL) = 9'
LOG = f'50 pwrite64(30<{WAL}>, "\\20\\321", 8192, 0) = 8192'
LOG_SYNC = f"51 fdatasync(30<{WAL}>) = 0"
COMMIT = '50 sendto(6<TCP:[127.0.0.1:4->127.0.0.1:5]>, "C\\0\\0\\0\\vCOMMIT\\0Z\\0\\0\\0\\5I", 99, 0, NULL, 0) = 99'
ENDING = "XDEL\\r\\n$1\\r\\n1\\r\\n*3\\r\\n$4\\r\\nHDEL\\r\\n$22\\r\\nmailfarm:{inbound}:ids\\r\\n$26\\r\\n"
END = f'30 write(7<{AOF}>, "{ENDING}{ID}\\r\\n*3", 9) = 9'


def wrong(look: Callable, *lines: str) -> list[str]:
    return [step.wrong for step in look(read(lines))]


def test_an_order_that_is_right() -> None:
    lines = (PUT, SYNC, STORED, SAID, BIND, LOG, LOG_SYNC, COMMIT, END)
    for look in (order.spooled, order.redis_answers, order.committed, order.ended):
        assert wrong(look, *lines) == [""], look


@pytest.mark.parametrize("late", [(PUT, STORED, SAID, SYNC), (SYNC, PUT, STORED, SAID), (PUT, STORED, SAID)])
def test_a_250_before_the_sync(late: tuple[str, ...]) -> None:
    assert wrong(order.spooled, *late) == [UNSYNCED]
    assert wrong(order.redis_answers, *late) == [UNSYNCED]


def test_a_250_before_the_put() -> None:
    assert wrong(order.spooled, SAID, PUT, SYNC, STORED) == ["it was confirmed before it was written"]
    assert wrong(order.spooled, SAID) == ["its entry was not written to the append-only file"]


def test_a_sync_that_is_under_way_is_none() -> None:
    begun, ended = SYNC.replace(") = 0", " <unfinished ...>"), "30 <... fdatasync resumed>) = 0"
    assert wrong(order.spooled, PUT, begun, SAID, ended) == [UNSYNCED]
    assert wrong(order.spooled, PUT, begun, ended, SAID) == [""]


@pytest.mark.parametrize(
    "answer", ["= -1 EIO (Input/output error)", "= 0 (INJECTED)", "= ?", "= -1 EIO (Input/output error) (INJECTED)"]
)
def test_a_sync_that_failed_or_never_was_is_none(answer: str) -> None:
    assert wrong(order.spooled, PUT, SYNC.replace("= 0", answer), SAID) == [UNSYNCED]
    assert wrong(order.spooled, PUT, SYNC.replace("= 0", "= 0 (DELAYED)"), SAID) == [""]


def test_a_commit_before_the_sync_and_an_end_before_the_commit() -> None:
    assert wrong(order.committed, SAID, BIND, LOG, COMMIT, LOG_SYNC) == [UNSYNCED]
    assert wrong(order.committed, SAID, LOG, LOG_SYNC, BIND, COMMIT) == [UNSYNCED]
    assert wrong(order.ended, SAID, BIND, LOG, LOG_SYNC, END, COMMIT) == [
        "its entry was ended before COMMIT was answered"
    ]


def test_the_whole_text_of_a_call_is_read() -> None:
    (call,) = read(['7 write(1<pipe:[3]>, "a) = 3 \\" <unfinished", 9) = 9'])
    assert (call.thread, call.name, call.fd, call.file, call.result) == (7, "write", 1, "pipe:[3]", 9)
    assert call.text.startswith(', "a) = 3')
    (call,) = read(["7 fsync(3</a b/c->d>)  = -1 EIO (Input/output error)"])
    assert (call.file, call.result) == ("/a b/c->d", -1)


def test_who_cannot_be_traced(component: Callable[[str], Path], tmp_path: Path) -> None:
    component("strace")
    with pytest.raises(ChildProcessError, match="strace did not attach"):
        Trace([2**22 - 1], tmp_path / "trace")


@pytest.mark.usefixtures("_tools")
@pytest.mark.parametrize(("name", "target"), [("order-services", "processes"), ("order-sqlite", "dev")])
def test_mailfarm_syncs_before_it_answers(name: str, target: str, tmp_path: Path) -> None:
    proof = proof_of(chosen(list(faults()), name), tmp_path, target)
    nothing_wrong(proof)
    (injected,) = proof.injected
    assert all(f"{MESSAGES} of {MESSAGES}" in line or "redis_answers" in line for line in injected.told)


@pytest.mark.usefixtures("_tools")
@pytest.mark.parametrize(
    ("name", "target"),
    [("order-everysec", "processes"), ("order-fsync-off", "processes"), ("order-sqlite-unsynced", "dev")],
)
def test_who_does_not_sync_is_found_out(name: str, target: str, tmp_path: Path) -> None:
    (fault,) = chosen(list(faults()), name)
    proof = proof_of([fault], tmp_path, target)
    assert not proof.verdict.tally.lost
    assert UNSYNCED in " ".join(proof.verdict.wrong)
    assert fault.seen(proof.verdict)


@pytest.mark.usefixtures("_tools")
def test_a_mailfarm_that_does_not_sync_is_found_out(tmp_path: Path) -> None:
    (fault,) = chosen(list(faults()), "order-sqlite")
    fault.options = replace(fault.options, program=(sys.executable, str(Path(__file__).parent / "planted/unsynced.py")))
    proof = proof_of([fault], tmp_path, "dev")
    assert UNSYNCED in " ".join(proof.verdict.wrong)
