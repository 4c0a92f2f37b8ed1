"""The local spool on a real disk: what is kept is there for who comes next, whole or known for what it is."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from spooled_samples import IDS, clock, octets, spooled
from test_sqlite_durability import killed_after
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from mailfarm.backends import spool_folder
from mailfarm.backends.spool_disk import DiskSpool
from mailfarm.backends.spool_form import to_form
from mailfarm.errors import ConfigurationError, QueueFull, QueueUnavailable, Temporary
from mailfarm.ports import CHUNK

CHILD = Path(__file__).with_name("spooling_child.py")
TESTS = CHILD.parent.parent
ALL = 1 << 40


def made(folder, **options):
    caps = {"max_octets": ALL, "max_entries": ALL, "reserve": 0, **options}
    return DiskSpool(folder, f"mx-{IDS.new()}", reactor, CollectorRegistry(), clock, **caps)


def child(folder, *how, before=()):
    return subprocess.Popen(
        [*before, sys.executable, CHILD, folder, *map(str, how)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
    )


@pytest.fixture
def start():
    """Starts a spool, and stops all of them at the end."""
    running = []

    async def begin(folder, **options):
        spool = made(folder, **options)
        await spool.start()
        running.append(spool)
        return spool

    yield begin
    pytest_twisted.blockon(gatherResults([Deferred.fromCoroutine(spool.stop()) for spool in running]))


async def drained(spool):
    """All that is in it, in order, as (id, content)."""
    found = []
    while mails := await spool.oldest(100, 1024 * 1024):
        for mail in mails:
            found.append((mail.spooled.id, await octets(mail.spooled)))
        await spool.forget(mails)
    return found


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")


@pytest_twisted.ensureDeferred
async def test_what_is_kept_is_handed_out_whole_and_in_order(tmp_path, start):
    spool = await start(tmp_path / "spool")
    contents = [bytes([number]) * size for number, size in enumerate((0, 1, 5000, CHUNK, CHUNK + 1, 3_000_001, 17))]
    mails = [spooled(content, piece=30_000) for content in contents]
    for mail in mails:
        await spool.put(mail)
    assert (spool.backlog, spool.depth[0]) == (True, 7)
    assert spool.depth[1] >= sum(map(len, contents))
    with pytest.raises(Temporary, match="7 mails wait"):
        await spool.is_empty()
    read = await spool.oldest(3, ALL)
    assert [to_form(each.spooled) for each in read] == [to_form(mail) for mail in mails[:3]]
    assert await drained(spool) == [(mail.id, content) for mail, content in zip(mails, contents, strict=True)]
    assert (spool.backlog, spool.depth, spool.oldest_age()) == (False, (0, 0), 0.0)
    assert files(tmp_path) == []
    await spool.is_empty()


@pytest_twisted.ensureDeferred
async def test_many_at_once_share_the_sync_of_the_folder(tmp_path, start, monkeypatch):
    syncs = []
    sync = spool_folder._sync
    monkeypatch.setattr(spool_folder, "_sync", lambda folder: (syncs.append(folder), sync(folder)))
    spool = await start(tmp_path)
    syncs.clear()
    mails = [spooled(b"x" * 1000) for _ in range(300)]
    await gatherResults([Deferred.fromCoroutine(spool.put(mail)) for mail in mails])
    assert len(syncs) <= 5  # 300 puts: the first alone, the rest by two hundreds
    assert [id for id, _ in await drained(spool)] == [mail.id for mail in mails]


@pytest_twisted.ensureDeferred
async def test_the_window_is_bounded_in_mails_and_octets(tmp_path, start):
    spool = await start(tmp_path)
    for size in (*[200_000] * 6, 10, 300_000, 5_000_000, 10, 10):
        await spool.put(spooled(b"y" * size))
    windows = []
    while mails := await spool.oldest(100, 1024 * 1024):
        windows.append([mail.spooled.content.size for mail in mails])
        await spool.forget(mails)
    assert windows == [[200_000] * 5, [200_000, 10], [300_000], [5_000_000], [10, 10]]
    for _ in range(5):
        await spool.put(spooled())
    assert len(await spool.oldest(2, ALL)) == 2


@pytest_twisted.ensureDeferred
async def test_some_of_a_window_may_stay_and_keep_their_place(tmp_path, start):
    spool = await start(tmp_path)
    mails = [spooled(str(number).encode()) for number in range(6)]
    for mail in mails:
        await spool.put(mail)
    window = await spool.oldest(4, ALL)
    await spool.forget([window[1], window[3]])
    assert [id for id, _ in await drained(spool)] == [mails[number].id for number in (0, 2, 4, 5)]


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_removed_holds_nothing_up_and_comes_again_with_the_next_process(tmp_path, start):
    first = made(tmp_path)
    await first.start()
    mails = [spooled() for _ in range(3)]
    for mail in mails:
        await first.put(mail)
    window = await first.oldest(2, ALL)
    stuck, away = files(tmp_path)[0], tmp_path / "away"
    stuck.rename(away)
    stuck.mkdir()  # a disk that cannot unlink it
    with pytest.raises(OSError, match="directory"):
        await first.forget(window)
    assert [mail.spooled.id for mail in await first.oldest(2, ALL)] == [mails[2].id]
    await first.stop()
    stuck.rmdir()
    away.rename(stuck)
    assert [id for id, _ in await drained(await start(tmp_path))] == [mail.id for mail in mails]


# --- room ------------------------------------------------------------------------------------------------------------
@pytest_twisted.ensureDeferred
async def test_past_a_cap_there_is_no_room_before_and_after_the_content(tmp_path, start):
    few = await start(tmp_path / "few", max_entries=2)
    small = await start(tmp_path / "small", max_octets=5 * 4096)
    for _ in range(2):
        await few.put(spooled())
        await small.put(spooled(b"x" * 5000))
    for spool, why in ((few, "holds 2 mails"), (small, "holds 16384 octets of 20480")):
        with pytest.raises(QueueFull, match=why):
            spool.check(5000)
        with pytest.raises(QueueFull, match=why):
            await spool.put(spooled(b"x" * 5000))
        assert spool.depth[0] == 2
    await drained(few)
    few.check(5000)


@pytest_twisted.ensureDeferred
async def test_the_reserve_of_the_disk_is_left_alone(tmp_path, start):
    spool = await start(tmp_path, reserve=1 << 50)
    with pytest.raises(QueueFull, match=f"kept in reserve|{tmp_path}"):
        spool.check(0)
    with pytest.raises(QueueFull):
        await spool.put(spooled())
    assert files(tmp_path) == []


@pytest.fixture
def tiny(tmp_path):
    """A file system of two megabytes and forty files."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=40", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest_twisted.ensureDeferred
async def test_a_disk_that_fills_up_loses_nothing_that_was_confirmed(tiny, start):
    spool = await start(tiny / "spool")
    kept, refused = [], 0
    for number in range(60):
        mail = spooled(bytes([number]) * 100_000)
        spool._room._looked = (
            None if number % 2 else spool._room._looked
        )  # sometimes it is foreseen, sometimes only found
        try:
            if number % 2 == 0:
                spool._free = ALL
                spool._looked = reactor.seconds()
            await spool.put(mail)
        except QueueFull:
            refused += 1
        else:
            kept.append(mail.id)
    assert 15 <= len(kept) <= 20
    assert refused == 60 - len(kept)
    assert len(files(tiny)) == len(kept)  # nothing is left of what found no room
    assert [id for id, _ in await drained(spool)] == kept
    await spool.put(spooled())  # there is room again


@pytest_twisted.ensureDeferred
async def test_so_does_one_that_has_no_room_for_another_file(tiny, start):
    spool = await start(tiny / "spool")
    kept = 0
    while kept < 60:
        try:
            await spool.put(spooled())
        except QueueFull:
            break
        kept += 1
    assert 30 <= kept < 40
    assert len(await drained(spool)) == kept


@pytest_twisted.ensureDeferred
async def test_where_there_is_no_room_at_the_start_what_is_there_is_drained_and_then_there_is(tiny, start):
    first = made(tiny)
    await first.start()
    mail = spooled()
    await first.put(mail)
    await first.stop()
    others = 0
    with suppress(OSError):
        while True:
            (tiny / f"other{others}").touch()
            others += 1
    spool = await start(tiny)
    with pytest.raises(QueueUnavailable):
        await spool.put(spooled())
    assert [id for id, _ in await drained(spool)] == [mail.id]
    (tiny / "other0").unlink()
    (tiny / "other1").unlink()
    await spool.adopt()
    await spool.put(spooled())


@pytest_twisted.ensureDeferred
async def test_what_is_damaged_on_a_full_disk_stays_where_it_is_and_the_rest_is_drained(tiny, start):
    first = made(tiny)
    await first.start()
    mails = [spooled() for _ in range(3)]
    for mail in mails:
        await first.put(mail)
    await first.stop()
    torn = files(tiny)[1]
    os.truncate(torn, 20)
    others = 0
    with suppress(OSError):
        while True:
            (tiny / f"other{others}").touch()
            others += 1
    (tiny / "other0").unlink()
    (tiny / "other1").unlink()  # room for the folder of the next one, and its lock
    spool = await start(tiny)
    assert [id for id, _ in await drained(spool)] == [mails[0].id, mails[2].id]
    assert torn.exists()
    while not await spool.adopt():  # there is room again; it lets go of the folder in a thread
        pass
    assert await drained(spool) == []
    assert not torn.exists()
    assert len(list((tiny / "damaged").iterdir())) == 1


@pytest_twisted.ensureDeferred
async def test_a_disk_that_cannot_write_is_away_and_a_file_too_large_is_its_own_trouble(tmp_path, start):
    """A real error of a real write: this process may write no file above 64 KiB."""
    spool = await start(tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limit[1]))
    try:
        small = [spooled() for _ in range(3)]
        puts = [spool.put(mail) for mail in (small[0], spooled(b"x" * 100_000), small[1], spooled(b"x" * 900_000))]
        ended = [Deferred.fromCoroutine(put).addErrback(lambda failure: failure.value) for put in puts]
        assert [type(outcome) for outcome in await gatherResults(ended)] == [
            type(None), QueueUnavailable, type(None), QueueUnavailable,
        ]  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {id for id, _ in await drained(spool)} == {small[0].id, small[1].id}
    assert files(tmp_path) == []
    assert not spool.backlog


@pytest_twisted.ensureDeferred
async def test_content_that_fails_leaves_nothing(tmp_path, start):
    spool = await start(tmp_path)
    for size in (100, 2_000_000):
        with pytest.raises((OSError, QueueUnavailable)):
            await spool.put(spooled(b"x" * size, piece=max(1, size // 4), fail_after=2))
    assert not spool.backlog
    assert files(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_a_folder_that_cannot_be_made_names_its_setting(tmp_path):
    (tmp_path / "file").write_text("")
    spool = made(tmp_path / "file" / "spool")
    with pytest.raises(ConfigurationError, match="MAILFARM_SPOOL: mail cannot be kept in"):
        await spool.start()


# --- what is found ---------------------------------------------------------------------------------------------------
@pytest_twisted.ensureDeferred
async def test_what_a_power_cut_tore_is_put_aside_and_what_was_never_confirmed_goes(tmp_path, start):
    first = made(tmp_path)
    await first.start()
    mails = [spooled(bytes([number]) * size) for number, size in enumerate((100, 200, 300, 400_000, 500, 600, 700))]
    for mail in mails:
        await first.put(mail)
    await first.stop()  # it lets go of its folder: as if it had died
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    paths = sorted(path for path in folder.iterdir() if path.name != "lock")
    paths[0].write_bytes(b"")  # renamed without its sync
    data = bytearray(paths[2].read_bytes())
    data[-1] ^= 1
    paths[2].write_bytes(data)  # one bit
    os.truncate(paths[3], 300_000)
    paths[5].write_bytes(bytes(paths[5].stat().st_size))  # the right length, and nothing in it
    paths[6].write_bytes(paths[6].read_bytes().replace(b"mfspool1", b"mfspool2", 1))  # a newer one's
    (folder / "17.part").write_bytes(paths[1].read_bytes()[:50])
    second = await start(tmp_path)
    assert [id for id, _ in await drained(second)] == [mails[1].id, mails[4].id]
    assert sorted(path.name for path in (tmp_path / "damaged").iterdir()) == [
        f"{folder.name}-{paths[number].name}" for number in (0, 2, 3, 5)
    ]
    assert [path.name for path in files(folder)] == [paths[6].name]
    await second.adopt()  # what it left to a newer one it does not take again
    assert second.depth == (0, 0)
    assert folder.exists()


@pytest_twisted.ensureDeferred
async def test_a_mail_that_somebody_removed_is_passed_over(tmp_path, start):
    spool = await start(tmp_path)
    mails = [spooled() for _ in range(3)]
    for mail in mails:
        await spool.put(mail)
    files(tmp_path)[1].unlink()
    assert [id for id, _ in await drained(spool)] == [mails[0].id, mails[2].id]
    assert not spool.backlog


@pytest_twisted.ensureDeferred
async def test_a_folder_that_somebody_removed_is_made_again_once_nothing_waits_in_it(tmp_path, start):
    spool = await start(tmp_path / "spool")
    await spool.put(spooled())
    shutil.rmtree(tmp_path / "spool")
    assert await drained(spool) == []
    with pytest.raises(QueueUnavailable, match=r"is gone|No such file"):
        await spool.put(spooled())
    await spool.adopt()
    mails = [spooled(), spooled()]
    await spool.put(mails[0])
    await spool.adopt()
    other = await start(tmp_path / "spool")
    assert await other.adopt() == 0  # it holds it
    await spool.put(mails[1])
    assert [id for id, _ in await drained(spool)] == [mail.id for mail in mails]
    assert not spool.backlog


@pytest_twisted.ensureDeferred
async def test_trouble_that_may_pass_puts_nothing_aside(tmp_path, start, monkeypatch):
    spool = await start(tmp_path)
    await spool.put(spooled())

    def no_more_files(*args, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("mailfarm.backends.spool_read.open", no_more_files, raising=False)
        with pytest.raises(OSError, match="Too many"):
            await spool.oldest(10, ALL)
    assert len(await drained(spool)) == 1


# --- owners ----------------------------------------------------------------------------------------------------------
@pytest_twisted.ensureDeferred
async def test_a_living_owner_keeps_its_folder_and_an_empty_one_goes_with_it(tmp_path, start):
    one, other = await start(tmp_path), await start(tmp_path)
    await one.put(spooled())
    assert await other.adopt() == 0
    assert other.depth == (0, 0)
    await one.stop()
    assert await other.adopt() == 1
    assert not other.backlog  # another's mail: new mail of its own need not wait behind it
    assert len(await drained(other)) == 1
    await other.stop()
    assert list(tmp_path.iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_a_folder_that_cannot_be_looked_into_keeps_nobody_from_the_others_and_is_tried_again(tmp_path, start):
    mails, folders = [], []
    for _ in range(3):
        spool = made(tmp_path)
        await spool.start()
        mails.append(spooled())
        await spool.put(mails[-1])
        folders.append(files(tmp_path)[-1].parent)
        await spool.stop()
    unfinished = folders[0] / "1.part"
    unfinished.mkdir()  # cannot be removed
    (folders[1] / "lock").unlink()
    (folders[1] / "lock").mkdir()  # cannot be locked
    spool = await start(tmp_path)
    assert [id for id, _ in await drained(spool)] == [mails[2].id]
    unfinished.rmdir()
    (folders[1] / "lock").rmdir()
    assert await spool.adopt() == 2
    assert [id for id, _ in await drained(spool)] == [mail.id for mail in mails[:2]]


@pytest_twisted.ensureDeferred
async def test_what_was_kept_is_there_after_a_kill_and_one_alone_gets_it(tmp_path, start):
    dice = random.Random(20260131)
    said = {}
    for _ in range(20):
        for kind, id, *rest in killed_after(child(tmp_path, dice.choice([1, 5, 20])), dice.randint(1, 60)):
            assert kind == "K", (id, rest)
            said[id] = rest[0]
        if dice.random() < 0.5:
            # two more that would have it; one is killed while it holds it
            children = [child(tmp_path, "adopt") for _ in range(2)]
            counts = [int(process.stdout.readline().split()[1]) for process in children]
            assert min(counts) == 0 or len({path.parent for path in files(tmp_path)}) > 1
            for process in children:
                process.kill()
                process.wait()
                process.stdout.close()
    spool = await start(tmp_path)
    found = {}
    for id, content in await drained(spool):
        assert id not in found
        found[id] = sha256(content).hexdigest()
    assert said.items() <= found.items()  # and perhaps some that were not confirmed any more
    assert not (tmp_path / "damaged").exists()
    assert files(tmp_path) == []


@pytest.mark.parametrize("size", [100, 400_000])
@pytest_twisted.ensureDeferred
async def test_what_the_disk_did_not_sync_is_not_confirmed_and_nothing_is_left_of_it(tmp_path, start, component, size):
    """The disk says EIO to this sync of a thread and all that follow: to one of a file, and to one of a folder."""
    hit = set()
    for when in range(5, 20):  # which of its threads does what is not for us to say
        folder, trace = tmp_path / str(when), tmp_path / f"{when}.trace"
        inject = f"inject=fsync:error=EIO:when={when}+"
        strace = (component("strace"), "-f", "-y", "-qq", "-e", "trace=fsync", "-e", inject, "-o", trace)
        process = child(folder, 1, size, before=strace)
        said = [line.decode().split() for line in process.communicate(timeout=60)[0].splitlines()]
        assert process.returncode == 3
        assert said[-1][0] == "E"
        assert "Input/output error" in " ".join(said[-1])
        kept = {id for kind, id, *_ in said if kind == "K"}
        assert kept
        assert len(files(folder)) == len(kept)  # before anybody tidies up
        spool = await start(folder)
        assert {id for id, _ in await drained(spool)} == kept
        injected = next(line for line in trace.read_text().splitlines() if "INJECTED" in line)
        hit.add(".part>" in injected)
        if len(hit) == 2:
            break
    assert hit == {True, False}


def test_a_folder_is_ones_own_also_beside_somebody_who_takes_what_is_abandoned(tmp_path):
    """Who looks for abandoned folders may find a new one before its owner holds it."""
    ended = threading.Event()

    def take_and_let_go():
        while not ended.is_set():
            for path in spool_folder.others(tmp_path, []):
                if folder := spool_folder.SpoolFolder.claim(path):
                    folder.let_go()

    with ThreadPoolExecutor(4) as pool:
        looking = [pool.submit(take_and_let_go) for _ in range(3)]
        try:
            for _ in range(300):
                folder = spool_folder.SpoolFolder.make(tmp_path / f"mx-{IDS.new()}")
                assert folder.path.is_dir()
                assert spool_folder.SpoolFolder.claim(folder.path) is None
                folder.let_go()
        finally:
            ended.set()
        for each in looking:
            each.result()
