"""``mailfarm queue``: what an operator sees and does, on the real queue."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from running import clean_environ, command
from servers import Redis
from spooled_samples import DEADLINE, IDS, clock, spooled
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from mailfarm.backends.redis_link import RedisLink
from mailfarm.backends.redis_queue import RedisQueue
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue as SqliteQueue

CONTENT = b"Subject: poison\r\n\r\n\x1b[2J\r\n"


async def fill(queue) -> tuple[str, str, str]:
    """One entry that waits, and two that were set aside."""
    ids = []
    for _ in range(2):
        entry = spooled(CONTENT)
        await queue.put(entry)
        ids.append(entry.id)
    while (await queue.depth()).aside < 2:
        for attempt in await queue.take(10, 60.0, 0.0):
            await queue.fail(attempt.fence, "it could not be\x1b[2J parsed")
    entry = spooled(CONTENT)
    await queue.put(entry)
    return entry.id, *ids


@pytest.fixture(params=["redis", "sqlite"])
def at(request, tmp_path: Path):
    """The settings and arguments that lead to a queue of one's own; a coroutine that fills it."""
    if request.param == "sqlite":

        async def fill_sqlite():
            engine = Engine(tmp_path / "mailfarm.sqlite", clock=clock, deliver=reactor.callFromThread)
            try:
                return await fill(SqliteQueue(engine, "inbound", IDS, clock, reactor=reactor, reserve=0))
            finally:
                await engine.close()

        return {}, ["--data", str(tmp_path)], fill_sqlite
    redis: Redis = request.getfixturevalue("redis")
    url = f"{redis.url}/9"

    async def fill_redis():
        link = RedisLink(url, reactor, connections=3)
        await link.start()
        assert await link.ready(DEADLINE)
        await link.command("FLUSHDB")
        queue = RedisQueue(link, "inbound", IDS, clock, reactor, CollectorRegistry())
        await queue.start()
        try:
            return await fill(queue)
        finally:
            await queue.stop()
            await link.stop()

    return {"MAILFARM_QUEUE_URL": url}, [], fill_redis


@pytest_twisted.ensureDeferred
async def test_what_was_set_aside_is_seen_and_decided_about(at) -> None:
    settings, options, filled = at
    waiting, again, gone = await filled()

    async def ask(*words: str, code: int = 0) -> str:
        done = await deferToThread(command, "queue", *options, *words, **settings)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    assert (await ask()).startswith("1 waiting, the oldest for ")
    assert json.loads(await ask("--json"))["aside"] == 2
    listed = [json.loads(line) for line in (await ask("list", "--json")).splitlines()]
    assert sorted(each["id"] for each in listed) == sorted([again, gone])
    assert listed[0]["recipients"] == ["inbox@mailfarm.test"]
    assert 0 <= listed[0]["age_seconds"] < 600
    assert listed[0]["lease_ends_at"] is None
    assert [shard["aside"] for shard in json.loads(await ask("--json"))["shards"]] == [2]
    text = await ask("list")
    assert "it could not be" in text
    assert "\x1b" not in text
    assert waiting in await ask("list", "waiting")
    assert (await ask("show", again)).endswith("Subject: poison\n\n\x1b[2J\n")  # read as text here
    assert await ask("retry", again) == f"{again} waits again\n"
    assert "--yes" in await ask("drop", gone, code=2)  # there is no terminal to ask on
    assert json.loads(await ask("--json"))["aside"] == 1
    assert await ask("drop", "--yes", gone) == f"{gone} is gone\n"
    assert "2 waiting" in await ask()
    assert gone in await ask("drop", "--yes", gone, code=1)
    assert waiting in await ask("drop", "--yes", waiting, code=1)  # only what was set aside


@pytest_twisted.ensureDeferred
async def test_on_a_terminal_it_asks_before_it_drops(at) -> None:
    settings, options, filled = at
    _, first, second = await filled()

    def drop(answer: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "mailfarm", "queue", *options, "drop", first, second],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environ() | settings,
        )
        os.close(theirs)
        os.write(ours, answer.encode() + b"\n")
        said = process.communicate(timeout=120)[0].decode()
        os.close(ours)
        return process.returncode, said

    for answer in ("no", "y", ""):
        code, said = await deferToThread(drop, answer)
        assert (code, "nothing was dropped" in said) == (3, True), said
    assert first in said
    assert "<sender@example.com> to inbox@mailfarm.test" in said
    code, said = await deferToThread(drop, "yes")
    assert (code, f"{first} is gone" in said, f"{second} is gone" in said) == (0, True, True), said
    done = await deferToThread(command, "queue", *options, "--json", **settings)
    assert json.loads(done.stdout)["aside"] == 0


def test_a_queue_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    done = command("queue", "--data", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "MAILFARM_QUEUE_URL" in done.stderr
    assert not (tmp_path / "nothing").exists()
    done = command("queue", MAILFARM_QUEUE_URL="redis://127.0.0.1:1")
    assert (done.returncode, "is away" in done.stderr) == (1, True)


@pytest.mark.parametrize("limit", ["-1", "0", "x", "1000001", "99999999999999999999"])
def test_a_number_that_makes_no_sense_is_said(limit: str) -> None:
    done = command("queue", "list", f"--limit={limit}")
    assert done.returncode == 2
    assert f"argument --limit: '{limit}' is not a number of entries, 1 to 1000000" in done.stderr


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("size", "unbuffered"), [(10, ""), (10, "1"), (100_000, "")])
async def test_a_mail_that_could_not_be_written_is_not_said_to_be_saved(
    tmp_path: Path, size: int, unbuffered: str
) -> None:
    """``mailfarm queue show ID > FILE`` comes before ``drop``."""
    engine = Engine(tmp_path / "mailfarm.sqlite", clock=clock, deliver=reactor.callFromThread)
    mail = spooled(b"x" * size)
    await SqliteQueue(engine, "inbound", IDS, clock, reactor=reactor, reserve=0).put(mail)
    await engine.close()
    words = [sys.executable, "-m", "mailfarm", "queue", "--data", str(tmp_path), "show", mail.id]

    environ = clean_environ() | {"PYTHONUNBUFFERED": unbuffered}

    def show() -> subprocess.CompletedProcess[str]:
        with open("/dev/full", "w") as full:
            return subprocess.run(
                words, env=environ, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False
            )

    done = await deferToThread(show)
    about, said = done.stderr.split("\n", 1)
    assert json.loads(about)["id"] == mail.id
    assert (done.returncode, said) == (1, "mailfarm queue: cannot write to standard output: No space left on device\n")


@pytest_twisted.ensureDeferred
async def test_a_fault_of_our_own_is_said_in_a_line(at) -> None:
    settings, options, filled = at
    await filled()
    broken = "import sys\nfrom mailfarm import cli, queue_command\nqueue_command._line = None\nsys.exit(cli.main())"
    words = [sys.executable, "-c", broken, "queue", *options, "list"]
    done = await deferToThread(
        subprocess.run, words, env=clean_environ() | settings, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (1, "mailfarm queue: TypeError: 'NoneType' object is not callable\n")
