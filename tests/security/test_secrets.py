"""No secret is ever told: a whole farm lives a day at log level debug, with right and wrong passwords in every place a
person might put one, and then everything that can be read of it is searched for each of them.

Searched are: every log, ``/metrics``, ``/healthz`` and ``/readyz``; what it answered over SMTP, HTTP and WebSocket; the
refusals it remembers; the processes' command lines and environments; what is on the disks of its stores. Each secret is
looked for as it is and in base64 (however it is aligned), hexadecimal, URL and JSON form.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from houses import Heard, ask, bearer
from running import Cluster, Service, command, until
from servers import Postgres, Redis, free_port, server_folder
from websocket import WebSocket

SETTINGS = {
    "MAILFARM_API_FIRST_TOKEN": "mf_first+token/0123456789_of?the~farm",
    "MAILFARM_DATABASE_PASSWORD": "pg-pa55?word/of=postgres&more",
    "MAILFARM_QUEUE_PASSWORD": "redis-pa55+word/of=the#queue",
    "MAILFARM_CACHE_PASSWORD": 'redis-pa55"word%of@the;cache',
}
"""Those of an operator, in files as in a stack."""
SHORTEST = 12


class Said:
    """Everything that was answered, and the secrets it must not hold. One who is given a secret, or sends it in plain
    text, may hear it again in that very answer: that is not kept."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.answers: dict[str, str] = {}

    def secret(self, name: str, value: str) -> str:
        assert len(value) >= SHORTEST, "a short one would be found by chance"
        self.secrets[name] = value
        return value

    def heard(self, where: str, what: Any) -> None:
        text = what.everything if isinstance(what, Heard) else str(what)
        self.answers[where] = self.answers.get(where, "") + "\n" + text

    def found(self) -> list[str]:
        return [
            f"{where} holds {name} ({form})"
            for name, secret in self.secrets.items()
            for form, needle in forms(secret)
            for where, text in self.answers.items()
            if needle in text
        ]


def forms(secret: str) -> Iterator[tuple[str, str]]:
    """How a secret may be written."""
    raw = secret.encode()
    yield "as it is", secret
    yield "URL", quote(secret, safe="")
    yield "URL, as a form", quote_plus(secret)
    yield "hexadecimal", raw.hex()
    yield "HEXADECIMAL", raw.hex().upper()
    yield "JSON", json.dumps(secret)[1:-1]
    yield "Python", repr(secret)[1:-1]
    for ahead in range(3):
        # the octets at either end mix with what stands beside them
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            inside = encode(b"\0" * ahead + raw).decode().rstrip("=")
            yield f"base64, {ahead} ahead", inside[4 if ahead else 0 : len(inside) - 2]


def talk(port: int, *pieces: bytes, tls: bool = False) -> str:
    """What an SMTP server says to pieces that are sent one after the other, each once the one before was answered.
    Nothing of ours is in it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    heard = b""
    with ExitStack() as closing:
        client = closing.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        if tls:
            heard += client.recv(4096)
            client.sendall(b"EHLO a.example\r\nSTARTTLS\r\n")
            while b"220 2" not in heard and b"Ready" not in heard:
                heard += client.recv(4096)
            client = closing.enter_context(context.wrap_socket(client))
        else:
            heard += client.recv(4096)
        for piece in pieces:
            with suppress(OSError):
                client.settimeout(0.3)  # half a line is not answered
                client.sendall(piece)
                heard += client.recv(65536)
        with suppress(OSError):
            client.settimeout(20)
            if not tls:
                client.shutdown(socket.SHUT_WR)
            while data := client.recv(65536):
                heard += data
    return heard.decode("utf-8", "replace")


@pytest.fixture(scope="module")
def day(
    component: Callable[[str], Path], postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Said, Cluster]]:
    """A farm and what it has said in a day."""
    component("redis-server")
    folder, files = server_folder(), tmp_path_factory.mktemp("secrets")
    said = Said()
    stores = {}
    for name, value in SETTINGS.items():
        said.secret(name, value)
        (files / name).write_text(value + "\n")
        stores[f"{name}_FILE"] = str(files / name)
    for name in ("queue", "cache", "services", "spool"):
        (folder / name).mkdir()
    with (
        Redis(folder / "queue", "--requirepass", SETTINGS["MAILFARM_QUEUE_PASSWORD"]) as queue,
        Redis(folder / "cache", "--requirepass", SETTINGS["MAILFARM_CACHE_PASSWORD"]) as cache,
        Cluster(folder / "services", postgres.new_database(), [queue.url], cache.url, **stores) as cluster,
    ):
        del cluster.settings["MAILFARM_API_FIRST_TOKEN"]
        cluster.settings |= {"MAILFARM_LOG_LEVEL": "debug", "MAILFARM_SPOOL": str(folder / "spool")}
        cluster.schema()
        services = cluster.start("mx", "submission", "inbound", "sweep", "api", "live", "spool")
        live_a_day(said, cluster, *services[:2], *services[4:6])
        for service in services:
            for page in ("metrics", "healthz", "readyz"):
                said.heard(f"{service.word} /{page}", service.status(page))
            for page in ("cmdline", "environ"):
                text = Path(f"/proc/{service.process.pid}/{page}").read_bytes().decode("utf-8", "replace")
                said.heard(f"{service.word} {page}", text)
        key = Path(cluster.settings["MAILFARM_KEY"]).read_text().splitlines()
        said.secret("a line of the TLS key", key[3])
        mistakes(said, cluster)
        queue.stop()  # and what is lost meanwhile is logged
        talk(
            services[0].port("mx"), b"EHLO a\r\n", b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<inbox@mailfarm.test>\r\n"
        )
        cache.stop()
        until(lambda: services[0].status("readyz")[0] == 503, 30)
        said.heard("/readyz without stores", services[0].status("readyz"))
        for service in services:
            service.stop()
            said.heard(f"the log of {service.word}", service.log())
        for path in [each for at in (queue.folder, cache.folder, folder / "spool") for each in at.rglob("*")]:
            if path.is_file():
                said.heard(f"the disk ({path.name})", path.read_bytes().decode("latin-1"))
    yield said, cluster
    shutil.rmtree(folder)


def live_a_day(said: Said, cluster: Cluster, mx: Service, submission: Service, api: Service, live: Service) -> None:
    """People sign in, type wrong passwords and put right ones where they do not belong."""
    first = SETTINGS["MAILFARM_API_FIRST_TOKEN"]
    url, by = api.url, bearer(first)
    made = ask(url, "POST", "/v1/mailboxes", {}, **by).json
    user, password = made["smtp"]["user"], said.secret("a mailbox's password", made["smtp"]["password"])
    token = said.secret("a token", ask(url, "POST", "/v1/tokens", {"name": "t"}, **by).json["token"])
    begun = ask(url, "POST", "/v1/session", {"token": token}, Origin=url)
    said.secret("a session", begun.headers["set-cookie"].partition(";")[0].partition("=")[2])
    renewed = ask(url, "POST", f"/v1/mailboxes/{made['id']}/password", **by).json["password"]
    said.secret("a mailbox's new password", renewed)
    capture, starttls = submission.port("smtp", "capture"), submission.port("smtp", "starttls")

    def wrong(name: str) -> str:
        return said.secret(f"typed: {name}", f"wr0ng-{name.replace(' ', '-')}-pa55word")

    # SMTP, right and wrong, whole and in pieces
    for port, tls in ((capture, False), (starttls, True)):
        for name, secret in (("right", renewed), ("old", password), ("wrong", wrong(f"plain {port == capture}"))):
            plain = base64.b64encode(f"\0{user}\0{secret}".encode())
            hello = b"EHLO a.example\r\n"
            where = f"SMTP {name} {'TLS' if tls else 'plain'}"
            said.heard(where, talk(port, hello, b"AUTH PLAIN " + plain + b"\r\n", b"QUIT\r\n", tls=tls))
            said.heard(where, talk(port, hello, b"AUTH PLAIN\r\n", plain + b"\r\n", b"QUIT\r\n", tls=tls))
            login = [base64.b64encode(text.encode()) + b"\r\n" for text in (user, secret)]
            said.heard(where, talk(port, hello, b"AUTH LOGIN\r\n", *login, b"QUIT\r\n", tls=tls))
    odd = base64.b64encode(f"\0{user}\0{wrong('odd')}".encode())
    bare = wrong("no base64")
    user_field = wrong("as the user")
    for pieces in (
        [b"EHLO a\r\nAUTH PLAIN " + odd + b"\r\nMAIL FROM:<a@b.example>\r\nQUIT\r\n"],  # pipelined
        [b"AUTH PLAIN " + odd + b"\r\nQUIT\r\n"],  # before EHLO
        [b"EHLO a\r\nAUTH PLAIN " + odd],  # and goes
        [b"EHLO a\r\nAUTH LOGIN\r\n", odd[:20] + b"\n" + odd[20:] + b"\r\nQUIT\r\n"],
        [b"EHLO a\r\nAUTH PLAIN " + odd[:10], odd[10:30], odd[30:] + b"\r\nQUIT\r\n"],
        [b"EHLO a\r\nAUTH " + odd + b"\r\nQUIT\r\n"],  # no mechanism
        [b"EHLO a\r\nAUTH CRAM-MD5 " + odd + b"\r\nQUIT\r\n"],
        [b"EHLO a\r\nAUTH PLAIN " + bare.encode() + b"\r\nQUIT\r\n"],
        [b"EHLO a\r\nAUTH PLAIN\r\n", bare.encode() + b"\r\n", b"QUIT\r\n"],
        [b"EHLO a\r\nAUTH LOGIN " + base64.b64encode(user_field.encode()) + b"\r\n", b"eA==\r\n", b"QUIT\r\n"],
        [b"EHLO a\r\nMAIL FROM:<a@b.example> AUTH=" + odd + b"\r\n", b"QUIT\r\n"],
    ):
        for port in (capture, mx.port("mx")):
            said.heard("SMTP, odd", talk(port, *pieces))
    # the wrong door: a web browser's request to SMTP
    shown = wrong("to smtp over http")
    said.heard(
        "SMTP, HTTP", talk(capture, f"GET /?token={shown} HTTP/1.1\r\nAuthorization: Bearer {shown}\r\n\r\n".encode())
    )

    # HTTP: wrong ones, and right ones where they do not belong
    bad = wrong("bearer")
    for headers in (bearer(bad), {"Authorization": f"Basic {bad}"}, {"Cookie": f"mailfarm-session={bad}"}):
        said.heard("HTTP", ask(url, "GET", "/v1/mailboxes", **headers))
    for path in (
        f"/v1/mailboxes?token={bad}",
        f"/v1/mailboxes/{bad}",
        f"/v1/{bad}",
        f"/{bad}.html",
        f"/v1/mailboxes?limit={bad}",
    ):
        said.heard("HTTP, in the address", ask(url, "GET", path).body.decode().replace(bad, ""))
        said.heard("HTTP, in the address", ask(url, "GET", path, **by).body.decode().replace(bad, ""))
    for body in ({"token": bad}, {"token": first + "x"}, {bad: 1}, [bad], f'{{"token": "{bad}"'.encode()):
        answer = ask(url, "POST", "/v1/session", body, Origin=url).body.decode()
        said.heard("HTTP, in a body", answer.replace(bad, ""))  # an unknown member is named to who sent it
    raw = f"GET /v1/mailboxes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bad}\r\nX\0Y: {bad}\r\n\r\n"
    said.heard("HTTP, malformed", talk_http(url, raw.encode()))
    ask(url, "DELETE", "/v1/session", Cookie=begun.headers["set-cookie"].partition(";")[0], Origin=url)
    # WebSocket
    at = f"{live.where['live']}/v1/events"
    with WebSocket(at) as client:
        client.say(op="auth", token=bad)
        with pytest.raises(EOFError):
            client.hear("authenticated")
    with pytest.raises(ConnectionRefusedError) as refused:
        WebSocket(at, bad)
    said.heard("WebSocket", refused.value)
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    asked = f"GET /v1/events?token={bad} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n"
    answer = talk_http(at.replace("ws:", "http:").removesuffix("/v1/events"), asked.encode())
    assert " 400 " in answer
    said.heard("WebSocket, in the address", answer)
    with WebSocket(at, token) as client:
        client.say(op="subscribe", mailbox=made["id"])
        client.hear("subscribed")
        client.say(op=bad, token=bad)
        said.heard("WebSocket", str(client.hear("problem")).replace(bad, ""))
    for page in (f"/v1/mailboxes/{made['id']}/refusals", "/v1/refusals?address=inbox@mailfarm.test"):
        said.heard("the refusals", ask(url, "GET", page, **by))


def talk_http(url: str, octets: bytes) -> str:
    """What is answered to octets that are no good request."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 20) as client:
        client.sendall(octets)
        return client.recv(65536).decode("utf-8", "replace")


def mistakes(said: Said, cluster: Cluster) -> None:
    """What commands say that were set up wrongly."""
    pw = said.secret("in a broken setting", "br0ken-s3tting/pa55:word")
    enc = quote(pw, safe="")
    nowhere = free_port()
    wrong: tuple[dict[str, str], ...] = (
        {"MAILFARM_DATABASE_URL": f"postgresql://u:{pw}@127.0.0.1:{nowhere}/x"},
        {"MAILFARM_DATABASE_URL": f"postgresql://u:{enc}@127.0.0.1:{nowhere}/x", "MAILFARM_STORE_TIMEOUT": "1"},
        {"MAILFARM_DATABASE_URL": f"postgresql://u:{enc}@/"},
        {"MAILFARM_DATABASE_URL": f"mysql://u:{enc}@h/x"},
        {"MAILFARM_DATABASE_URL": f"u:{pw}@h"},
        {"MAILFARM_DATABASE_URL": f"postgresql://h/x?password={enc}"},
        {"MAILFARM_QUEUE_URL": f"redis://:{pw}@127.0.0.1:x"},
        {"MAILFARM_QUEUE_URL": f"redis://u:{enc}@127.0.0.1:{nowhere}/nothing"},
        {"MAILFARM_CACHE_URL": f"redis:/:{pw}@h"},
        {"MAILFARM_CACHE_URL": f"redis://:{pw} x@h"},
        {"MAILFARM_QUEUE_PASSWORD_FILE": pw},
        {"MAILFARM_QUEUE_PASSWORD": pw, "MAILFARM_QUEUE_PASSWORD_FILE": "/nowhere"},
        {"MAILFARM_QUEUE_PASWORD": pw},
        {"MAILFARM_API_FIRST_TOKEN": pw + "\n x"},
        {"MAILFARM_KEY": cluster.settings["MAILFARM_CERTIFICATE"]},
        {"MAILFARM_CERTIFICATE": cluster.settings["MAILFARM_KEY"]},
    )

    def tell(settings: dict[str, str]) -> list[tuple[str, str]]:
        mistaken = settings.keys() | {name.removesuffix("_FILE") for name in settings}
        given = {
            name: value for name, value in cluster.settings.items() if not {name, name.removesuffix("_FILE")} & mistaken
        }
        given |= settings | {"MAILFARM_MX_LISTEN": "127.0.0.1:0"}
        found = []
        for words in (("mx",), ("schema", "--wait", "0")) if "MAILFARM_DATABASE_URL" in settings else (("mx",),):
            try:
                done = command(*words, seconds=6, **given)
                told = done.stdout + done.stderr
            except subprocess.TimeoutExpired as error:  # it waits for its stores: what it said meanwhile counts
                told = str(error.stdout) + str(error.stderr)
            found.append((f"mailfarm {words[0]} with {next(iter(settings))}", told))
        return found

    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(tell, wrong):
            for where, told in found:
                assert "Traceback" not in told, (where, told)
                said.heard(where, told)


def test_no_secret_is_told(day: tuple[Said, Cluster]) -> None:
    said, _ = day
    assert len(said.secrets) > 12
    assert said.found() == []


def test_everything_was_looked_at(day: tuple[Said, Cluster]) -> None:
    """Or that nothing was found would mean nothing."""
    said, _ = day
    for where in ("the log of submission", "the log of api", "api /metrics", "SMTP wrong TLS", "mx environ"):
        assert len(said.answers[where]) > 20, where
    for word in ("mx", "submission", "inbound", "sweep", "api", "live", "spool"):
        assert '"level":"info"' in said.answers[f"the log of {word}"]
    assert "535 5.7.8" in said.answers["SMTP wrong TLS"]
    assert "235 2.7.0" in said.answers["SMTP right TLS"]
    assert any("the disk (" in where for where in said.answers)


@pytest.mark.parametrize("form", [form for form, _ in forms("x" * SHORTEST)])
def test_each_form_would_be_found(form: str) -> None:
    secret = "s3cr?t/pa55+word%20~é"
    said = Said()
    said.secret("s", secret)
    written = {
        "as it is": secret,
        "URL": quote(secret, safe=""),
        "URL, as a form": quote_plus(secret),
        "hexadecimal": secret.encode().hex(),
        "HEXADECIMAL": secret.encode().hex().upper(),
        "JSON": json.dumps({"a": secret}),
        "Python": repr({"a": secret}),
    }
    text = written.get(form) or base64.b64encode(b"u" * int(form.split()[1]) + secret.encode() + b"more").decode()
    said.heard("a log", text)
    assert said.found()
