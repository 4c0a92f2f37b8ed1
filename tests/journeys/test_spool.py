"""Accepting goes on while every queue node is away: a real cluster whose Redis is killed, and comes back."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import smtplib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import Cluster, Service, command, until
from servers import Redis, server_folder

from mailfarm.sdk import Farm, Inbox

MB = 1024 * 1024
TOO_LARGE = b"5.3.4 Message is larger than the queue here can ever hold"


@pytest.fixture
def folder(component: Callable[[str], Path]) -> Iterator[Path]:
    """A folder for servers of one's own."""
    component("redis-server")
    made = server_folder()
    for name in ("one", "two", "cache", "services"):
        (made / name).mkdir(mode=0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def shards(folder: Path) -> Iterator[list[Redis]]:
    with Redis(folder / "one") as one, Redis(folder / "two") as two:
        yield [one, two]


@pytest.fixture
def cluster(folder: Path, shards: list[Redis], postgres_database: str) -> Iterator[Cluster]:
    """Services are for the test to start. All of them have the spool."""
    with (
        Redis(folder / "cache", "--appendonly", "no") as cache,
        Cluster(
            folder / "services",
            postgres_database,
            [shard.url for shard in shards],
            cache.url,
            MAILFARM_SPOOL=str(folder / "spool"),
        ) as made,
    ):
        yield made


def send(smtp: smtplib.SMTP, inbox: Inbox, subject: str, body: str = "x") -> tuple[int, bytes]:
    """The answer to the final dot, or the one that refused it."""
    for code, text in (smtp.mail("a@shop.example"), smtp.rcpt(inbox.address)):
        if code != 250:
            return code, text
    code, text = smtp.docmd("DATA")
    if code != 354:
        smtp.rset()
        return code, text
    smtp.send(f"Subject: {subject}\r\n\r\n{body}\r\n.\r\n".encode())
    return smtp.getreply()


def session(service: Service) -> smtplib.SMTP:
    port = service.port("mx") if service.word == "mx" else service.port("smtp", "capture")
    smtp = smtplib.SMTP("127.0.0.1", port, timeout=60)
    smtp.ehlo()
    return smtp


def ids(reply: tuple[int, bytes]) -> str:
    """The spool id in a 250."""
    code, text = reply
    assert code == 250, reply
    return text.decode().rpartition(" ")[2]


def figure(service: Service, name: str) -> float:
    """A metric without labels."""
    found = re.search(rf"^mailfarm_spool_{name} (\S+)$", service.status("metrics")[1], re.M)
    assert found, name
    return float(found[1])


def subjects(inbox: Inbox) -> list[str]:
    """Of all messages, in the order in which they were filed."""
    return [message.subject for message in inbox.messages()]


def lose(shards: list[Redis], *services: Service) -> None:
    """Kill every shard, and wait until the services know."""
    for shard in shards:
        shard.kill()
    for service in services:
        until(lambda service=service: json.loads(service.status("readyz")[1])["checks"]["queue"] != "ok", 30)


def test_accepting_survives_the_loss_of_every_queue_node(cluster: Cluster, shards: list[Redis], folder: Path) -> None:
    mx, submission, inbound, api = cluster.start("mx", "submission", "inbound", "api")
    with Farm(api.url, cluster.token) as farm, session(mx) as smtp, session(submission) as other:
        inbox = farm.create_mailbox()
        said = [ids(send(smtp, inbox, "before"))]
        inbox.wait_for(subject="before", timeout=30)
        assert json.loads(mx.status("readyz")[1])["checks"]["spool"] == "ok"
        lose(shards, mx, submission)
        said += [ids(send(smtp, inbox, f"meanwhile {number}")) for number in range(30)]
        said.append(ids(send(smtp, inbox, "large", ("y" * 76 + "\r\n") * 20_000)))
        ids(send(other, inbox, "by submission"))
        assert (figure(mx, "entries"), figure(mx, "stored_total"), figure(submission, "entries")) == (31, 31, 1)
        assert figure(mx, "octets") >= 30 * 4096 + 1_560_000
        assert mx.status("healthz") == (200, "ok\n")
        code, ready = mx.status("readyz")
        assert (code, ready.count("31 mails wait on this machine's disk")) == (503, 1), ready
        until(lambda: figure(mx, "oldest_seconds") > 0)
        for shard in shards:
            shard.start()
        until(lambda: figure(mx, "entries") == figure(submission, "entries") == 0, 60)
        said.append(ids(send(smtp, inbox, "after")))
        inbox.wait_for(subject="after", timeout=30)
        until(lambda: len(inbox.messages()) == 34, 30)
        assert len(set(said)) == len(said)
        found = {message.subject: message for message in inbox.messages()}
        assert found["large"].raw.endswith(b"\r\n\r\n" + (b"y" * 76 + b"\r\n") * 20_000 + b"\r\n")
        assert not any(message.duplicate_of for message in found.values())
        assert (figure(mx, "drained_total"), figure(mx, "octets"), figure(mx, "oldest_seconds")) == (31, 0, 0)
        assert until(lambda: mx.status("readyz")[0] == 200, 30)
        assert inbound.process.poll() is None
    for text in ("no queue takes mail: it is kept in", "the spool is empty: 31 mails went into the queue"):
        assert any(json.loads(line)["text"].startswith(text) for line in mx.log().splitlines()), text


def waiting(cluster: Cluster) -> list[str]:
    """The ids in the queue, as a worker would be given them."""
    done = command("queue", "--json", "list", "waiting", "--limit", "5000", **cluster.settings)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["id"] for line in done.stdout.splitlines()]


def test_it_is_drained_in_order_and_new_mail_stays_behind_it(
    cluster: Cluster, shards: list[Redis], folder: Path
) -> None:
    """What comes while the spool is drained is behind what waits in it. On one shard that can be seen."""
    one = shards[0]
    cluster.settings["MAILFARM_QUEUE_URL"] = one.url
    mx, api = cluster.start("mx", "api")
    with Farm(api.url, cluster.token) as farm, session(mx) as smtp:
        inbox = farm.create_mailbox()
        said = [ids(send(smtp, inbox, "before"))]
        lose([one], mx)
        said += [ids(send(smtp, inbox, f"meanwhile {number}")) for number in range(350)]
        one.start()
        beside = 0
        while figure(mx, "entries"):
            said += [ids(send(smtp, inbox, "beside")) for _ in range(5)]
            beside += 5
        said.append(ids(send(smtp, inbox, "after")))
        assert beside >= 5
        assert waiting(cluster) == said
        assert figure(mx, "drained_total") > 350  # some of those beside it went through the spool too
        cluster.start("inbound")
        until(lambda: inbox.refresh().cursor == len(said), 60)


def test_past_its_cap_mail_is_refused_before_its_content(cluster: Cluster, shards: list[Redis]) -> None:
    (mx, api) = cluster.start("mx", "api", MAILFARM_SPOOL_SIZE="64K")
    with Farm(api.url, cluster.token) as farm, session(mx) as smtp:
        inbox = farm.create_mailbox()
        ids(send(smtp, inbox, "before"))
        lose(shards, mx)
        for number in range(16):
            ids(send(smtp, inbox, f"meanwhile {number}"))
        code, text = send(smtp, inbox, "too much")
        assert (code, text[:5]) == (452, b"4.3.1")
        assert smtp.mail("a@shop.example", ["SIZE=1000"])[0] == 452
        assert "the spool holds 65536 octets of 65536" in mx.log()
        shards[0].start()
        until(lambda: figure(mx, "entries") == 0, 30)
        ids(send(smtp, inbox, "after"))


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    place = folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)  # a process may still have its lock open


def test_a_full_disk_is_foreseen_and_what_was_confirmed_is_not_lost(
    cluster: Cluster, shards: list[Redis], small_disk: Path
) -> None:
    mx, inbound, api = cluster.start(
        *("mx", "inbound", "api"), MAILFARM_SPOOL=str(small_disk / "spool"), MAILFARM_RESERVE="2M"
    )
    with Farm(api.url, cluster.token) as farm, session(mx) as smtp:
        inbox = farm.create_mailbox()
        ids(send(smtp, inbox, "first"))
        inbox.wait_for(subject="first", timeout=30)
        lose(shards, mx)
        taken = 0
        while (reply := send(smtp, inbox, f"mail {taken}", ("y" * 76 + "\r\n") * 2_500))[0] == 250:
            taken += 1
        assert (reply[0], reply[1][:5]) == (452, b"4.3.1")
        assert 7 <= taken <= 11  # two megabytes of 195 KB each
        assert "are kept in reserve" in mx.log()
        shards[0].start()
        until(lambda: figure(mx, "entries") == 0, 30)
        until(lambda: len(subjects(inbox)) == taken + 1, 60)
        assert inbound.process.poll() is None


def test_what_a_put_that_failed_had_done_all_the_same_is_filed_once(cluster: Cluster, shards: list[Redis]) -> None:
    """Redis stands still with a put in its socket, and does it when it goes on: the mail is in the spool by then."""
    one = shards[0]
    cluster.settings["MAILFARM_QUEUE_URL"] = one.url
    cluster.settings["MAILFARM_INBOUND_LEASE"] = "3"  # a take that stood in the socket too leases to nobody
    mx, inbound, api = cluster.start("mx", "inbound", "api")
    with Farm(api.url, cluster.token) as farm, session(mx) as smtp:
        inbox = farm.create_mailbox()
        ids(send(smtp, inbox, "before"))
        inbox.wait_for(subject="before", timeout=30)
        for number in range(3):
            one.signal(signal.SIGSTOP)
            ids(send(smtp, inbox, f"twice {number}"))
            assert figure(mx, "stored_total") == number + 1
            one.signal(signal.SIGCONT)
            until(lambda number=number: figure(mx, "drained_total") == number + 1, 30)
            inbox.wait_for(subject=f"twice {number}", timeout=30)
        ids(send(smtp, inbox, "after"))
        inbox.wait_for(subject="after", timeout=30)
        until(lambda: not waiting(cluster), 30)
        assert sorted(subjects(inbox)) == ["after", "before", "twice 0", "twice 1", "twice 2"]
        assert inbound.process.poll() is None


def senders(service: Service, inbox: Inbox, many: int, said: list[str]) -> list[threading.Thread]:
    """Clients that send until their connection is cut, and note what was acknowledged."""

    def sending(name: int) -> None:
        try:
            with session(service) as smtp:
                for number in range(10_000):
                    subject = f"{name}.{number}"
                    code, _ = send(smtp, inbox, subject)
                    if code == 250:
                        said.append(subject)
        except (smtplib.SMTPException, OSError):
            return

    threads = [threading.Thread(target=sending, args=(name,)) for name in range(many)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("heir", ["spool", "mx"])
def test_what_a_killed_listener_kept_is_drained_by_another_process(
    cluster: Cluster, shards: list[Redis], folder: Path, heir: str
) -> None:
    """Killed while it keeps mail, then again while it drains: what was acknowledged is filed, and nothing twice."""
    mx, inbound, api = cluster.start("mx", "inbound", "api")
    with Farm(api.url, cluster.token) as farm:
        inbox = farm.create_mailbox()
        said: list[str] = []
        with session(mx) as smtp:
            ids(send(smtp, inbox, "first"))
            inbox.wait_for(subject="first", timeout=30)  # not all shards come back
        lose(shards, mx)
        clients = senders(mx, inbox, 5, said)
        until(lambda: len(said) >= 150, 60)
        mx.kill()
        for client in clients:
            client.join()
        (second,) = cluster.start(heir)
        until(lambda: figure(second, "entries") >= len(said), 30)
        assert figure(second, "adopted_total") >= len(said)
        shards[0].start()
        until(lambda: figure(second, "drained_total") > 0, 30)
        second.kill()  # most of them are drained, or none, or some: what was not is the next one's
        (third,) = cluster.start("spool")
        until(lambda: (folder / "spool").exists() and not list((folder / "spool").glob("mx-*/0*")), 60)
        until(lambda: figure(third, "entries") == 0, 60)
        until(lambda: len(subjects(inbox)) >= len(said) + 1, 60)
        until(lambda: not waiting(cluster), 30)
        found = subjects(inbox)
        assert len(found) == len(set(found)), "filed twice"
        assert set(said) <= set(found)
        assert len(found) <= len(said) + 1 + 5  # one each that was not answered any more
        assert inbound.process.poll() is None


def test_on_sigterm_it_drains_before_it_goes_and_else_leaves_it_on_disk(
    cluster: Cluster, shards: list[Redis], folder: Path
) -> None:
    mx, inbound, api = cluster.start("mx", "inbound", "api")
    with Farm(api.url, cluster.token) as farm:
        inbox = farm.create_mailbox()
        with session(mx) as smtp:
            ids(send(smtp, inbox, "first"))
            inbox.wait_for(subject="first", timeout=30)  # not all shards come back
            lose(shards, mx)
            for number in range(40):
                ids(send(smtp, inbox, f"meanwhile {number}"))
        assert mx.stop() == 0  # there is nobody to drain to: it does not wait for the grace
        assert len(list((folder / "spool").glob("mx-*/0*"))) == 40
        assert "40 mails stay in the spool" in mx.log()
        mx.begin()  # without a queue, too
        mx.listens()
        until(lambda: figure(mx, "adopted_total") == 40, 30)
        with session(mx) as smtp:
            for number in range(300):
                ids(send(smtp, inbox, f"then {number}"))
        shards[1].start()
        until(lambda: figure(mx, "drained_total") > 0, 30)
        assert mx.stop() == 0
        assert not list((folder / "spool").iterdir())
        until(lambda: not waiting(cluster), 30)
        until(lambda: inbox.refresh().cursor == 341, 30)
        assert inbound.process.poll() is None


def test_a_listener_starts_without_its_queue_but_not_with_a_wrong_password(
    cluster: Cluster, shards: list[Redis]
) -> None:
    inbound, api = cluster.start("inbound", "api")
    with Farm(api.url, cluster.token) as farm:
        inbox = farm.create_mailbox()
        lose(shards)
        (mx,) = cluster.start("mx")
        assert "it begins without the queue" in mx.log()
        with session(mx) as smtp:
            ids(send(smtp, inbox, "without"))
        shards[0].start()
        inbox.wait_for(subject="without", timeout=60)
        shards[0].ask("config", "set", "requirepass", "another-password")
        other = cluster.service("mx", MAILFARM_QUEUE_URL=shards[0].url, MAILFARM_STORE_TIMEOUT="1")
        other.begin()
        until(lambda: "WRONGPASS" in other.log() or "NOAUTH" in other.log(), 30)
        until(lambda: other.log().count("waiting for the queue") >= 2, 30)  # five seconds later it still does
        assert other.status("healthz")[0] == 503
        assert other.stop() == 0
        assert inbound.process.poll() is None


# --- the order of system calls ---------------------------------------------------------------------------------------
CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(fsync|rename|sendto|write)(?:\((.*)| resumed>(.*))$")
BROKEN = """
import os, stat, sys
sync = os.fsync
os.fsync = lambda fd: sync(fd) if stat.S_ISDIR(os.fstat(fd).st_mode) is {kept} else None
from mailfarm.cli import main
sys.exit(main(sys.argv[1:]))
"""


def told(trace: Path) -> list[tuple[str, ...]]:
    """What happened, in order: ("fsync", path), ("rename", from, to), each when it had come to a good end, and
    ("250", id) when it began."""
    under_way: dict[tuple[str, str], str] = {}
    found: list[tuple[str, ...]] = []
    for line in trace.read_text("utf-8", "replace").splitlines():
        if not (match := CALL.match(line)):
            continue
        process, call, arguments, rest = match.groups()
        if arguments is None:
            arguments = under_way.pop((process, call), "") + rest
        elif call in ("sendto", "write"):
            if said := re.search(r"250 2\.0\.0 spooled as (\w{26})", arguments):
                found.append(("250", said[1]))
            continue
        elif arguments.endswith("<unfinished ...>"):
            under_way[process, call] = arguments.removesuffix("<unfinished ...>")
            continue
        if call in ("fsync", "rename") and re.search(r"= 0( |$)", arguments):
            paths = re.findall(r"<([^>]*)>" if call == "fsync" else r'"([^"]*)"', arguments)
            found.append((call, *paths))
    return found


def in_order(events: list[tuple[str, ...]]) -> list[bool]:
    """For each 250, whether since the one before a file was synced, then renamed, then its folder synced."""
    answers = []
    synced: set[str] = set()
    kept = named = False
    for what, *paths in events:
        if what == "250":
            answers.append(kept)
            synced, kept, named = set(), False, False
        elif what == "rename":
            named = paths[0] in synced and re.fullmatch(r"\d{19}", Path(paths[1]).name) is not None
        elif named and Path(paths[0]).is_dir():
            kept = True
        else:
            synced.add(paths[0])
    return answers


@pytest.mark.parametrize("broken", ["", "True", "False"], ids=["as it is", "files unsynced", "folders unsynced"])
def test_250_is_said_after_file_and_folder_were_synced(
    cluster: Cluster, shards: list[Redis], folder: Path, broken: str, component: Callable[[str], Path]
) -> None:
    """One at a time, so that each 250 has syncs of its own to wait for. Builds that leave one out are found out."""
    trace = folder / "trace"
    mx = cluster.service("mx")
    if broken:
        mx.program = (sys.executable, "-c", BROKEN.format(kept=broken))
    mx.start()
    (api,) = cluster.start("api")
    with Farm(api.url, cluster.token) as farm, session(mx) as smtp:
        inbox = farm.create_mailbox()
        assert send(smtp, inbox, "into the queue")[0] == 250  # the mailbox is known
        lose(shards, mx)
        tracing = subprocess.Popen(
            [
                *(component("strace"), "-f", "-y", "-s", "400", "-e", "trace=fsync,rename,sendto,write"),
                *("-p", str(mx.process.pid), "-o", trace),
            ],
            stderr=subprocess.PIPE,
        )
        assert tracing.stderr is not None
        assert b"attached" in tracing.stderr.readline()
        said = [ids(send(smtp, inbox, f"mail {number}", "y" * 70 * number)) for number in range(10)]
        said += [ids(send(smtp, inbox, "large", ("y" * 76 + "\r\n") * 10_000)) for _ in range(3)]
        tracing.send_signal(signal.SIGINT)
        tracing.wait(30)
        tracing.stderr.close()
        events = told(trace)
        assert [id for what, id, *_ in events if what == "250"] == said
        answers = in_order(events)
        assert all(answers) if not broken else not any(answers), events


def test_mail_that_the_queue_can_never_hold_is_refused_with_the_reason_also_while_it_is_away(
    cluster: Cluster, shards: list[Redis]
) -> None:
    for shard in shards:
        shard.ask("config", "set", "maxmemory", "8mb")
    (mx, api) = cluster.start("mx", "api")
    assert "MAILFARM_MAX_SIZE is 52428800 octets, and 80% of its maxmemory are 6710886" in mx.log()
    large = "x" * 70 + "\r\n"
    large *= 7 * MB // len(large)

    def is_refused() -> None:
        assert smtp.mail("a@shop.example", ["SIZE=7000000"]) == (552, TOO_LARGE)
        assert send(smtp, inbox, "large", large) == (552, TOO_LARGE)
        assert "octets are more than the queue can ever hold, which is 6710886" in mx.log()

    with Farm(api.url, cluster.token) as farm, session(mx) as smtp:
        inbox = farm.create_mailbox()
        ids(send(smtp, inbox, "before"))
        is_refused()
        lose(shards, mx)
        is_refused()
        ids(send(smtp, inbox, "meanwhile"))
        is_refused()  # behind it, in line
        assert figure(mx, "entries") == 1
