"""mailfarm as a cluster: mx, Redis synced always, inbound, Postgres. A listener with PROXY headers and limits, one
without; and listeners whose queue nobody drains until the end, for mx by itself."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack

import report
from hearing import Hearing
from running import Cluster, Service
from servers import Redis
from stand import Rows, Stand, process_of

from mailfarm.sdk import Farm
from peers.base import ADDRESSES, Peer, Sent

_NUMBER = re.compile(r"<?[^-]*-(\d+)@")
_MUCH = 1_000_000_000
_LIMITS = f"""
[client]
connections_per_minute = {_MUCH}
sessions = {_MUCH}
messages_per_minute = {_MUCH}

[set.default.mailbox]
messages_per_minute = {_MUCH}
messages_per_hour = {_MUCH}

[set.default.account]
messages_per_day = {_MUCH}
"""
_QUIET = {"MAILFARM_LOG_LEVEL": "warn", "MAILFARM_BACKLOG": "10000000"}
SOURCE = "198.51.100.7"
"""The client address that PROXY headers claim. Clients on loopback are not limited."""


class House:
    """One database with its mailboxes, and the services on it, shared by the peers below."""

    def __init__(self, stand: Stand, cores: list[int]) -> None:
        self.stand = stand
        self._cores = cores

    def __enter__(self) -> House:
        with ExitStack() as stack:
            stand = self.stand
            self.database = stand.postgres.new_database()
            limits = stand.folder / "limits.toml"
            limits.write_text(_LIMITS)
            self._proxied = {"MAILFARM_MX_PROXY_FROM": "127.0.0.0/8", "MAILFARM_LIMITS": str(limits)}
            self.cluster = stack.enter_context(
                Cluster(stand.folder, self.database, [stand.queue.url], stand.cache.url, **_QUIET)
            )
            self.cluster.schema()
            (self.api,) = self.cluster.start("api")
            with Farm(self.api.url, self.cluster.token) as farm:
                self.ids = [farm.create_mailbox(address=address).id for address in ADDRESSES]
            self.rows = Rows(self.database)
            stack.callback(self.rows.close)
            channels = [f"mailfarm:bus:{id}" for id in self.ids]
            self.hearing = stack.enter_context(Hearing(stand.cache.port, channels, self._cores))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def listen(self, proxied: bool, queue: Redis | None = None) -> Service:
        """An mx; ``proxied``: believes PROXY headers, and limits are charged."""
        settings = self._proxied if proxied else {}
        if queue is not None:
            settings = settings | {"MAILFARM_QUEUE_URL": queue.url}
        return self.cluster.start("mx", **settings)[0]

    def stored(self) -> int:
        """Messages in all mailboxes."""
        return int(self.rows.ask("select sum(messages)::bigint from mailbox")[0][0])

    def missing(self, sent: Sent) -> str:
        """What of ``sent`` is not in Postgres, is stored more than once, or reads otherwise than it was sent."""
        rows = self.rows.ask(
            "select message_id, min(id), count(*), count(distinct content) from message "
            "where message_id like %s group by 1", f"%{sent.label}-%",
        )  # fmt: skip
        there = {int(found[1]): row[1:] for row in rows if (found := _NUMBER.match(row[0]))}
        lost = sum(number not in there or there[number][1] != sent.copies for number in sent.numbers)
        if lost:
            return f"{lost} acknowledged messages are not in Postgres"
        if any(contents != 1 for _, _, contents in there.values()):
            return "content is stored more than once"
        wrong = sum(self._read(there[number][0]) != sent.content(number) for number in sent.samples())
        return f"{wrong} messages read otherwise than they were sent" if wrong else ""

    def _read(self, message: str) -> bytes:
        address = f"{self.api.url.rstrip('/')}/v1/messages/{message}/raw?trace=false"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {self.cluster.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            content: bytes = answer.read()
            return content


class MailfarmCluster(Peer):
    """Accepted, synced, filed in Postgres, announced."""

    def __init__(self, house: House, inbound: Service, proxied: bool) -> None:
        name, extra = ("cluster", ("--proxy-source", SOURCE)) if proxied else ("cluster, no PROXY or limits", ())
        super().__init__(f"mailfarm {name}", "in Redis, synced", keeps=True, extra=extra)
        self._house, self._inbound, self._proxied = house, inbound, proxied
        self._told = 0

    def start(self) -> None:
        stand = self._house.stand
        mx = self._house.listen(self._proxied)
        self.smtp = mx.port("mx")
        self.parts = {
            "mx": mx.process.pid, "Redis, queue": process_of(stand.queue), "inbound": self._inbound.process.pid,
            "PostgreSQL": process_of(stand.postgres), "Redis, bus": process_of(stand.cache),
        }  # fmt: skip

    def ready(self) -> None:
        self._told = self._house.hearing.count

    def settled(self, sent: Sent, seconds: float) -> float:
        hearing = self._house.hearing
        wanted = self._told + len(sent.numbers) * sent.copies
        if not hearing.wait(wanted, seconds):
            # the bus is a hint, with a cap: what it dropped is found by the feeds; here ``check`` looks for it
            report.tell(f"{wanted - hearing.count} of what was acknowledged was not announced")
        return hearing.last

    def check(self, sent: Sent) -> str:
        return self._house.missing(sent)


class MailfarmMx(Peer):
    """mx alone: synced in a queue of its own that is drained after each scenario (``drain``), and checked then."""

    def __init__(self, house: House, queue: Redis, proxied: bool) -> None:
        name, extra = ("mx", ("--proxy-source", SOURCE)) if proxied else ("mx, no PROXY or limits", ())
        super().__init__(f"mailfarm {name}", "in Redis, synced", keeps=True, extra=extra)
        self._house, self._queue, self._proxied = house, queue, proxied
        self._sent: list[Sent] = []

    def start(self) -> None:
        stand = self._house.stand
        mx = self._house.listen(self._proxied, self._queue)
        self.smtp = mx.port("mx")
        self.parts = {
            "mx": mx.process.pid, "Redis, queue": process_of(self._queue),
            "PostgreSQL": process_of(stand.postgres), "Redis, bus": process_of(stand.cache),
        }  # fmt: skip

    def settled(self, sent: Sent, seconds: float) -> float:
        self._sent.append(sent)
        return 0.0

    def unfinished(self) -> Sequence[Sent]:
        """What was sent since this was asked last: it is to be found when the queue has been drained."""
        sent, self._sent = self._sent, []
        return sent


def drain(house: House, queue: Redis, sent: Sequence[Sent], patience: float) -> str:
    """File what waits in ``queue``, and say what of it cannot be read. Gives up when nothing more comes for so many
    seconds."""
    before, wanted = house.stored(), sum(len(one.numbers) for one in sent)
    workers = [house.cluster.start("inbound", MAILFARM_QUEUE_URL=queue.url)[0] for _ in range(2)]
    there, moved = 0, time.monotonic()
    while there < wanted and time.monotonic() - moved < patience:
        time.sleep(0.5)
        if (now := house.stored() - before) > there:
            there, moved = now, time.monotonic()
    found = next((problem for one in sent if (problem := house.missing(one))), "")
    for worker in workers:
        worker.stop()
    return found
