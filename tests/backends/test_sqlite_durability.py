"""What was confirmed is there after a kill -9, and was synced before it was confirmed.

A kill proves little, because the page cache survives it: the second test reads the system calls in order. Its control
runs with fsync off, loses nothing either, and must be found out.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import pytest_twisted
from spooled_samples import IDS, clock
from twisted.internet import reactor

from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.mailboxes.packing import unpack_behind, unpack_piece
from mailfarm.prove.order import logged
from mailfarm.prove.trace import read

CHILD = Path(__file__).with_name("putting_child.py")
TESTS = CHILD.parent.parent
ROUNDS = 21


def child(path, seed, flight, *options, before=(), **environment):
    return subprocess.Popen(
        [*before, sys.executable, CHILD, path, str(seed), str(flight), *options],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", **environment},
    )


def killed_after(process, lines):
    """All the lines of a child that is killed when it has said so many."""
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if len(said) >= lines:
                break
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        assert process.wait(60) == -signal.SIGKILL
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    # the last line may be cut off; each whole one was true when it was written
    return [line.decode().split() for line in said if line.endswith(b"\n")]


async def stored(path):
    """All that is in the queue or filed, with the sum of its content. What is filed is whole and numbered."""
    engine = Engine(path, clock=clock, deliver=reactor.callFromThread)
    queue = Queue(engine, "inbound", IDS, clock, reactor=reactor)
    await queue.done(["none"])  # behind the job that ends the leases of the dead
    found = {}
    for state in ("waiting", "leased", "aside"):
        for entry in await queue.inspect(state, 1_000_000):
            digest = sha256()
            mail = await queue.read(entry.id)
            async for piece in mail.content.chunks():
                digest.update(piece)
            assert digest.digest() == mail.sha256
            assert entry.id not in found
            found[entry.id] = digest.hexdigest()

    def filed(db):
        rows = db.execute(
            "select content.id, sha256, detail, data, seq, chunks from message"
            " join content on content.id = message.content join filed on filed.spool = content.id order by seq"
        ).fetchall()
        (count,) = db.execute("select coalesce(sum(messages), 0) from mailbox where seq = messages").fetchone()
        events = [seq for (seq,) in db.execute("select seq from event order by seq")]
        assert [row[4] for row in rows] == events == list(range(1, count + 1))
        for id, digest, detail, data, _, chunks in rows:
            pieces = db.execute("select packed, data from content_chunk where content = ? order by number", (id,))
            whole = b"".join([unpack_piece(*row) for row in pieces]) if chunks else unpack_behind(detail, data)
            assert sha256(whole).digest() == digest
            assert id not in found
            found[id] = digest.hex()

    await engine.read(filed)
    await engine.close()
    return found


@pytest.mark.parametrize("options", [(), ("filing",)])
@pytest_twisted.ensureDeferred
async def test_what_was_confirmed_is_there_after_a_kill(tmp_path, options):
    path = tmp_path / "queue.sqlite"
    dice = random.Random(20250131)
    put, ending, ended = {}, set(), set()
    found = {}
    for seed in range(ROUNDS):
        if seed % 8 == 0:  # a fresh start now and then, or each round has more to read
            path = tmp_path / f"queue-{seed}.sqlite"
            put, ending, ended = {}, set(), set()
        for kind, id, *rest in killed_after(child(path, seed, dice.choice([1, 5, 20]), *options), dice.randint(1, 60)):
            if kind == "P":
                put[id] = rest[0]
            (ending if kind == "d" else ended if kind == "D" else set()).add(id)
        found = await stored(path)
        lost = put.keys() - ending - found.keys()
        assert not lost, f"round {seed}: confirmed and lost: {lost}"
        assert not ended & found.keys(), f"round {seed}: ended and back"
        assert all(found[id] == put[id] for id in put.keys() & found.keys())
    assert found


@pytest.mark.parametrize("options", [(), ("unsynced",), ("filing",), ("filing", "unsynced")])
def test_a_confirmation_is_written_after_the_log_was_synced(tmp_path, component, options):
    trace = tmp_path / "trace"
    strace = [component("strace"), "-f", "-yy", "-s", "8", "-e", "trace=pwrite64,fdatasync,fsync,write", "-o", trace]
    # one at a time, so that every confirmation has a sync of its own to wait for
    process = child(tmp_path / "queue.sqlite", 1, 1, "quiet", *options, before=strace, PUTS="20")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    calls = read(trace.read_text("utf-8", "replace").splitlines())
    steps = logged(calls, lambda call: call.name == "write" and call.fd == 1)
    assert len(steps) == said.count(b"\n") == 20
    expected = {"it was confirmed without a sync"} if "unsynced" in options else {""}
    assert {step.wrong for step in steps} == expected
