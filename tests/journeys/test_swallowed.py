"""A client that never hears our 250 sends again (RFC 1047): both are kept, listed and counted, the second marked.

By every way in, on SQLite in one process and on Redis and PostgreSQL in several.
"""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from running import Cluster, Running
from servers import Postgres, queue_and_cache

from mailfarm.sdk import Farm, Inbox, UnexpectedMessage

SMALL = 1000
LARGE = 2_000_000
"""More than is filed at once where one process does all: it goes by the queue, in pieces."""


class Client:
    """An SMTP client that can go without having read."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._heard = self._socket.makefile("rb")
        self.hear()

    def say(self, line: str) -> str:
        self._socket.sendall(line.encode() + b"\r\n")
        return self.hear()

    def hear(self) -> str:
        while (line := self._heard.readline().decode())[3:4] == "-":
            pass
        return line

    def sign_in(self, inbox: Inbox) -> None:
        self.say("EHLO client.example")
        self.say("STARTTLS")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._socket = context.wrap_socket(self._socket)
        self._heard = self._socket.makefile("rb")
        self.say("EHLO client.example")
        secret = base64.b64encode(f"\0{inbox.smtp.user}\0{inbox.smtp.password}".encode()).decode()
        assert self.say(f"AUTH PLAIN {secret}").startswith("235")

    def send(self, to: str, content: bytes) -> None:
        self.say("EHLO client.example")
        assert self.say("MAIL FROM:<a@client.example>").startswith("250")
        assert self.say(f"RCPT TO:<{to}>").startswith("250")
        assert self.say("DATA").startswith("354")
        self._socket.sendall(content + b".\r\n")

    def vanish(self) -> None:
        """No QUIT, and nobody there to take the 250. What was sent still arrives: a reset would overtake it."""
        self._heard.close()
        self._socket.close()

    def quit(self) -> None:
        self.say("QUIT")
        self._heard.close()
        self._socket.close()


@pytest.fixture(scope="module", params=["sqlite", "redis and postgres"])
def farm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Farm, dict[str, int]]]:
    """A farm, and the port of each way in."""
    if request.param == "sqlite":
        with Running() as running, Farm(running.url) as client:
            yield client, {word: running.port(*name) for word, name in WAYS.items()}
        return
    component: Callable[[str], Path] = request.getfixturevalue("component")
    component("redis-server")
    postgres: Postgres = request.getfixturevalue("postgres")
    with (
        queue_and_cache() as (queue, cache),
        Cluster(tmp_path_factory.mktemp("cluster"), postgres.new_database(), [queue.url], cache.url) as services,
    ):
        services.schema()
        mx, submission, _, api = services.start("mx", "submission", "inbound", "api")
        ports = {word: (mx if word == "mx" else submission).port(*name) for word, name in WAYS.items()}
        with Farm(api.url, services.token) as client:
            yield client, ports


WAYS = {"mx": ("mx",), "submission": ("smtp", "starttls"), "capture": ("smtp", "capture")}


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("way", WAYS)
def test_both_are_kept_and_the_second_says_of_what_it_is_a_copy(
    farm: tuple[Farm, dict[str, int]], way: str, size: int
) -> None:
    client, ports = farm
    inbox = client.create_mailbox()
    lines = b"%060d\r\n" % 7 * (size // 62)
    content = b"Message-ID: <1@client.example>\r\nSubject: once or twice\r\n\r\n" + lines

    def send() -> Client:
        session = Client(ports[way])
        if way == "submission":
            session.sign_in(inbox)
        session.send(inbox.address, content)
        return session

    send().vanish()
    (first,) = inbox.wait_for_all(count=1, timeout=30)  # it was taken, and nobody was told
    again = send()
    assert again.hear().startswith("250")
    again.quit()
    (second,) = inbox.wait_for_all(count=1, timeout=30)
    assert (first.duplicate_of, second.duplicate_of) == (None, first.id)
    for message in (first, second):
        assert sha256(message.raw[-len(content) :]).digest() == sha256(content).digest()
    listed = inbox.messages()
    assert {message.id: message.duplicate_of for message in listed} == {first.id: None, second.id: first.id}
    state = inbox.refresh()
    assert (state.messages, state.unseen) == (2, 2)
    both = inbox.wait_for_all(2, exact=True, timeout=0, after=0)
    assert [message.id for message in both] == [first.id, second.id]
    with pytest.raises(UnexpectedMessage):
        inbox.wait_for_all(1, exact=True, timeout=0, after=0)
    inbox.delete()
