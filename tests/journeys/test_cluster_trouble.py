"""Services by themselves in trouble: stores that are not there yet, that go and come back, that are not for them."""

from __future__ import annotations

import json
import shutil
import signal
import smtplib
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from running import FREE_PORTS, TOKEN, Cluster, Process, Service, command, get, until
from servers import Postgres, Redis, server_folder

from mailfarm.sdk import Farm, FarmError, Inbox

NOBODY = "127.0.0.1:1"
"""Nothing listens there."""
SHARED = {
    "MAILFARM_DATABASE_URL": f"postgresql://mailfarm@{NOBODY}/mailfarm",
    "MAILFARM_QUEUE_URL": f"redis://{NOBODY}",
    "MAILFARM_CACHE_URL": f"redis://{NOBODY}",
}


@pytest.fixture
def folder(component: Callable[[str], Path]) -> Iterator[Path]:
    """A folder for servers of one's own."""
    component("redis-server")
    component("postgres")
    made = server_folder()
    for name in ("postgres", "queue", "cache", "services"):
        (made / name).mkdir(mode=0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def queue(folder: Path) -> Iterator[Redis]:
    with Redis(folder / "queue") as server:
        yield server


@pytest.fixture
def cache(folder: Path) -> Iterator[Redis]:
    with Redis(folder / "cache", "--appendonly", "no") as server:
        yield server


def send(port: int, inbox: Inbox | str, subject: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        to = inbox if isinstance(inbox, str) else inbox.address
        smtp.sendmail("a@shop.example", [to], f"Subject: {subject}\r\n\r\nx\r\n".encode())


def waits_for(service: Service, what: str) -> bool:
    code, text = service.status("healthz")
    return code == 503 and text.startswith("starting: ") and what in text


# --- refused at once -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("word", "needs"),
    [
        (
            "mx",
            "MAILFARM_QUEUE_URL, MAILFARM_CACHE_URL, MAILFARM_DATABASE_URL: mx by itself needs a queue, a cache",
        ),
        ("inbound", "MAILFARM_QUEUE_URL, MAILFARM_CACHE_URL, MAILFARM_DATABASE_URL: inbound by itself needs"),
        ("sweep", "MAILFARM_CACHE_URL, MAILFARM_DATABASE_URL: sweep by itself needs a cache and a database"),
        ("api", "MAILFARM_CACHE_URL, MAILFARM_DATABASE_URL: api by itself needs"),
    ],
)
def test_what_a_service_lacks_is_told_together(word: str, needs: str) -> None:
    done = command(word)
    assert done.returncode == 2
    assert needs in done.stderr
    assert "mailfarm dev" in done.stderr


def test_a_port_that_needs_a_certificate_says_so() -> None:
    done = command("submission", **SHARED)
    assert done.returncode == 2
    for name in ("MAILFARM_SUBMISSION_STARTTLS", "MAILFARM_SUBMISSION_TLS"):
        assert f"{name}: this needs a certificate; set MAILFARM_CERTIFICATE and MAILFARM_KEY" in done.stderr


def test_a_port_in_use_is_named_before_anything_is_waited_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = command("sweep", **SHARED, MAILFARM_STATUS_LISTEN=where)
    assert done.returncode == 1
    assert f"mailfarm sweep: cannot listen on {where}" in done.stderr
    assert "MAILFARM_STATUS_LISTEN" in done.stderr


def test_nobody_to_ask_is_not_healthy() -> None:
    done = command("health", MAILFARM_STATUS_LISTEN=NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not answer" in done.stderr


# --- not there yet ---------------------------------------------------------------------------------------------------
def test_all_begin_at_once_and_wait_for_one_another(folder: Path) -> None:
    """A service starts before its stores. It says for what it waits, and goes on by itself when that has come."""
    postgres, queue = Postgres(folder / "postgres"), Redis(folder / "queue")
    cache = Redis(folder / "cache", "--appendonly", "no")
    url = postgres.dsn("mailfarm1")
    try:
        with Cluster(folder / "services", url, [queue.url], cache.url) as cluster:
            mx, inbound, api = (cluster.service(word) for word in ("mx", "inbound", "api"))
            for service in (mx, inbound, api):
                service.begin()
            for service in (mx, inbound, api):
                until(lambda service=service: waits_for(service, "the database"), 30)
            asked = command("health", MAILFARM_STATUS_LISTEN=mx.status_at)
            assert asked.returncode == 1
            assert "starting: waiting for the database" in asked.stderr
            code, ready = mx.status("readyz")
            assert (code, json.loads(ready)["state"]) == (503, "starting")
            assert mx.status("metrics")[0] == 200
            postgres.start()
            until(lambda: waits_for(mx, "mailfarm1"), 30)  # there is no such database
            postgres.new_database()
            until(lambda: waits_for(mx, "run `mailfarm schema`"), 30)
            cluster.schema()
            until(lambda: waits_for(mx, "the queue"), 30)
            assert "waiting for the database" in mx.log()  # and in the log, for who looks there
            queue.start()
            for service in (mx, inbound, api):
                service.listens()
            code, ready = mx.status("readyz")  # the cache is a help, not a condition
            assert (code, json.loads(ready)["checks"]["cache"] != "ok") == (200, True)
            with Farm(api.url, cluster.token) as farm:
                inbox = farm.create_mailbox()
                send(mx.port("mx"), inbox, "without a cache")
                inbox.wait_for(subject="without a cache", timeout=30)
                cache.start()
                until(lambda: json.loads(mx.status("readyz")[1])["checks"]["cache"] == "ok", 30)
                send(mx.port("mx"), inbox, "with a cache")
                inbox.wait_for(subject="with a cache", timeout=30)
    finally:
        for server in (postgres, queue, cache):
            server.kill()


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, SHARED["MAILFARM_DATABASE_URL"], [SHARED["MAILFARM_QUEUE_URL"]], f"redis://{NOBODY}")
    with cluster.service("live") as live:
        live.begin()
        until(lambda: waits_for(live, "the database"), 30)
        assert live.stop() == 0
        assert "Traceback" not in live.log()


def test_a_wrong_password_is_waited_out_and_not_shown(folder: Path, postgres: Postgres) -> None:
    with Redis(folder / "queue", "--requirepass", "the-right-one") as queue:
        cluster = Cluster(
            folder / "services",
            postgres.new_database(),
            [queue.url],
            f"redis://{NOBODY}",
            MAILFARM_QUEUE_PASSWORD="the-wrong-one",
        )
        cluster.schema()
        with cluster.service("inbound") as inbound:
            inbound.begin()
            until(lambda: waits_for(inbound, "the queue"), 30)
            until(lambda: "WRONGPASS" in inbound.status("healthz")[1] + inbound.log(), 30)
            assert "the-wrong-one" not in inbound.log() + inbound.status("healthz")[1]
            inbound.stop()


def test_a_schema_newer_than_the_program_ends_it(folder: Path, postgres: Postgres, queue: Redis) -> None:
    url = postgres.new_database()
    cluster = Cluster(folder / "services", url, [queue.url], f"redis://{NOBODY}")
    assert command("schema", "--check", **cluster.settings).returncode == 1
    cluster.schema()
    assert command("schema", "--check", **cluster.settings).returncode == 0
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("insert into mailfarm_schema (version, name, checksum, compatible_from) values (999,'x','',999)")
    connection.close()
    for word in ("sweep", "api"):
        done = command(word, **cluster.settings, MAILFARM_STATUS_LISTEN="off", MAILFARM_API_LISTEN="127.0.0.1:0")
        assert done.returncode == 1
        assert "start a newer mailfarm" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_schema_waits_for_its_database_and_not_for_ever(folder: Path) -> None:
    done = command("schema", "--wait", "1", MAILFARM_DATABASE_URL=SHARED["MAILFARM_DATABASE_URL"])
    assert done.returncode == 1
    assert "waiting" in done.stderr
    assert command("schema").returncode == 2


# --- gone, and back --------------------------------------------------------------------------------------------------
def test_while_the_database_is_away_known_mailboxes_take_mail(folder: Path, queue: Redis, cache: Redis) -> None:
    with Postgres(folder / "postgres") as postgres:
        cluster = Cluster(folder / "services", postgres.new_database(), [queue.url], cache.url)
        cluster.schema()
        with cluster:
            mx, submission, inbound, api, live = cluster.start("mx", "submission", "inbound", "api", "live")
            with Farm(api.url, cluster.token) as farm:
                known, unknown = farm.create_mailbox(), farm.create_mailbox()
                send(mx.port("mx"), known, "before")
                known.wait_for(subject="before", timeout=30)
                postgres.stop()
                until(lambda: mx.status("readyz")[0] == 503, 30)
                for service in (mx, submission, inbound, api, live):
                    assert service.status("healthz")[0] == 200  # nobody ends it, nobody looks elsewhere
                send(mx.port("mx"), known, "while it was away")
                with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
                    send(mx.port("mx"), unknown, "nobody knows")
                ((code, text),) = refused.value.recipients.values()
                assert (code, text[:5]) == (451, b"4.3.0")
                with smtplib.SMTP("127.0.0.1", submission.port("smtp", "capture"), timeout=30) as smtp:
                    smtp.ehlo()
                    smtp.mail("a@shop.example")
                    assert smtp.rcpt(unknown.address)[0] == 451
                code, after = asked(f"{api.url}/v1/mailboxes", cluster.token)
                assert (code, after is not None) == (503, True)
                with pytest.raises(FarmError):
                    known.wait_for(subject="while", timeout=1)
                postgres.start()
                assert until(lambda: quiet(lambda: known.wait_for(subject="while it was away", timeout=5)), 60)
                until(lambda: mx.status("readyz")[0] == 200, 30)
                until(lambda: quiet(lambda: send(mx.port("mx"), unknown, "known again")) is not False, 30)
                assert unknown.wait_for(timeout=30).subject == "known again"


def asked(url: str, token: str) -> tuple[int, str | None]:
    """The code and Retry-After of a page."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Retry-After"]


def quiet(work: Callable[[], object]) -> object:
    """What ``work`` gives; False where it fails for now."""
    try:
        return work()
    except (FarmError, smtplib.SMTPException):
        return False


def test_while_the_queue_is_away_mail_is_put_off_within_the_timeout(
    folder: Path, postgres: Postgres, queue: Redis, cache: Redis
) -> None:
    cluster = Cluster(folder / "services", postgres.new_database(), [queue.url], cache.url)
    cluster.schema()
    with cluster:
        mx, inbound, api = cluster.start("mx", "inbound", "api")
        with Farm(api.url, cluster.token) as farm:
            inbox = farm.create_mailbox()
            for how in (signal.SIGSTOP, signal.SIGKILL):  # it does not answer; it is gone
                queue.kill() if how == signal.SIGKILL else queue.signal(how)
                began = time.monotonic()
                with pytest.raises(smtplib.SMTPException) as refused:
                    send(mx.port("mx"), inbox, "put off")
                took = time.monotonic() - began
                error = refused.value
                assert (getattr(error, "smtp_code", 0), getattr(error, "smtp_error", b"")[:5]) == (451, b"4.3.0")
                assert took < 10  # MAILFARM_STORE_TIMEOUT is 2
                assert mx.status("healthz")[0] == 200
                until(lambda: mx.status("readyz")[0] == 503, 30)
                queue.start() if how == signal.SIGKILL else queue.signal(signal.SIGCONT)
                subject = f"back after {how.name}"
                until(lambda subject=subject: quiet(lambda: send(mx.port("mx"), inbox, subject)) is not False, 30)
                assert inbox.wait_for(subject=subject, timeout=30)
            assert inbound.process.poll() is None


def test_of_two_shards_one_may_be_lost(folder: Path, postgres: Postgres, cache: Redis) -> None:
    """With passwords from a file, as in a stack. What the lost one held comes when it is back."""
    secret = folder / "services" / "secret"
    secret.write_text("of-the-queue\n")
    (folder / "other").mkdir(mode=0o755)
    with (
        Redis(folder / "queue", "--requirepass", "of-the-queue") as one,
        Redis(folder / "other", "--requirepass", "of-the-queue") as other,
        Cluster(
            folder / "services",
            postgres.new_database(),
            [one.url, other.url],
            cache.url,
            MAILFARM_QUEUE_PASSWORD_FILE=str(secret),
        ) as cluster,
    ):
        cluster.schema()
        mx, api = cluster.start("mx", "api")
        with Farm(api.url, cluster.token) as farm:
            inbox = farm.create_mailbox()
            for number in range(4):  # nobody files yet: two wait on each
                send(mx.port("mx"), inbox, f"before {number}")
            one.kill()
            for number in range(3):
                send(mx.port("mx"), inbox, f"meanwhile {number}")
            assert mx.status("healthz")[0] == 200
            cluster.start("inbound")
            for number in range(3):
                assert inbox.wait_for(subject=f"meanwhile {number}", timeout=30)
            one.start()
            until(lambda: len(inbox.messages()) == 7, 60, 0.1)


# --- tokens ----------------------------------------------------------------------------------------------------------
def test_another_first_token_ends_the_one_before(folder: Path, postgres: Postgres, queue: Redis, cache: Redis) -> None:
    cluster = Cluster(folder / "services", postgres.new_database(), [queue.url], cache.url)
    cluster.schema()
    new = "another-first-token-0123456789"
    with cluster:
        (old,) = cluster.start("api")
        page = f"{old.url}/v1/mailboxes"
        assert asked(page, TOKEN)[0] == 200
        cluster.start("api", MAILFARM_API_FIRST_TOKEN=new)
        assert asked(page, new)[0] == 200
        until(lambda: asked(page, TOKEN)[0] == 401, 10)
        old.stop()
        old.start()  # with the old one still: what was revoked stays so
        assert asked(f"{old.url}/v1/mailboxes", new)[0] == 200
        assert asked(f"{old.url}/v1/mailboxes", TOKEN)[0] == 401
        assert "MAILFARM_API_FIRST_TOKEN was revoked" in old.log()
        assert TOKEN not in old.log()


def test_replicas_that_start_together_make_one_account(
    folder: Path, postgres: Postgres, queue: Redis, cache: Redis
) -> None:
    url = postgres.new_database()
    cluster = Cluster(folder / "services", url, [queue.url], cache.url)
    cluster.schema()
    with cluster:
        cluster.start("api", "api", "mx", "mx")
        connection = psycopg2.connect(url)
        with connection, connection.cursor() as cursor:
            cursor.execute("select (select count(*) from account), (select count(*) from token), count(*) from mailbox")
            assert cursor.fetchone() == (1, 1, 1)
        connection.close()


# --- everything in one process, on shared stores ---------------------------------------------------------------------
def test_dev_on_shared_stores_works_beside_services(
    folder: Path, postgres: Postgres, queue: Redis, cache: Redis
) -> None:
    cluster = Cluster(folder / "services", postgres.new_database(), [queue.url], cache.url)
    cluster.schema()
    with cluster:
        (api,) = cluster.start("api")
        dev = Process(["dev", "--json", "--ephemeral"], cluster.settings | FREE_PORTS, folder / "services" / "dev.log")
        with dev.start(), Farm(api.url, cluster.token) as farm:
            inbox = farm.create_mailbox()
            send(dev.port("mx"), inbox, "from the one to the other")
            assert inbox.wait_for(timeout=30).subject == "from the one to the other"
            assert get(f"{dev.url}/readyz")[0] == 200
            assert dev.stop() == 0
        assert not Path(dev.where["data"]).exists()
