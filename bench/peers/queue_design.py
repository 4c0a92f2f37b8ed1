"""The usual design: smtp-server, BullMQ on Redis, mailparser, Postgres, Redis' pub/sub. See ``bench/node``."""

from __future__ import annotations

import json
import re
import shutil

from children import ROOT, Child, free_port
from corpus import stamp
from hearing import Hearing
from stand import Rows, Stand, process_of

from peers.base import ADDRESSES, Missing, Peer, Sent

_NODE = ROOT / "bench" / "node"
_MODULES = ROOT / ".make" / "peers"
_NUMBER = re.compile(r"<?[^-]*-(\d+)@")


class QueueDesign(Peer):
    """An accept process and a worker process, on the stores of ``stand``."""

    def __init__(self, stand: Stand, cores: list[int]) -> None:
        super().__init__("queue design", "a job in Redis, synced", keeps=True)
        self._stand = stand
        self._cores = cores
        self.hearing: Hearing
        self.rows: Rows
        self.database = ""
        self._told = 0

    def start(self) -> None:
        node = shutil.which("node")
        if node is None or not (_MODULES / "node_modules" / "bullmq").exists():
            raise Missing("the packages of bench/node are not installed: .ci/setup bench (needs node and npm)")
        stand = self._stand
        database = stand.postgres.new_database()
        self.database = database
        self.rows = Rows(database)
        self._running.callback(self.rows.close)
        self.rows.ask((_NODE / "schema.sql").read_text().replace("%", "%%"))
        self.rows.ask("insert into mailbox (address) select unnest(%s)", list(ADDRESSES))
        for name in ("accept.mjs", "worker.mjs"):  # where Node looks for packages
            shutil.copy(_NODE / name, _MODULES / name)
        stores = {"redis": stand.queue.url, "announce": stand.cache.url, "database": database}
        worker = self._child("queue-worker", node, "worker.mjs", stores)
        self.smtp = free_port()
        accept = self._child("queue-accept", node, "accept.mjs", {"port": self.smtp, **stores})
        self.parts = {
            "accept": accept.pid, "Redis, queue": process_of(stand.queue), "worker": worker.pid,
            "PostgreSQL": process_of(stand.postgres), "Redis, bus": process_of(stand.cache),
        }  # fmt: skip
        channels = [f"mailbox:{id}" for (id,) in self.rows.ask("select id from mailbox")]
        self.hearing = self._running.enter_context(Hearing(stand.cache.port, channels, self._cores))

    def _child(self, name: str, node: str, script: str, settings: dict[str, object]) -> Child:
        child = Child(name, [node, str(_MODULES / script), json.dumps(settings)], {"NODE_ENV": "production"})
        self._running.enter_context(child)
        child.first_line()
        return child

    def ready(self) -> None:
        self._told = self.hearing.count

    def settled(self, sent: Sent, seconds: float) -> float:
        wanted = self._told + len(sent.numbers) * sent.copies
        if not self.hearing.wait(wanted, seconds):
            missing = wanted - self.hearing.count
            raise SystemExit(f"the queue design acknowledged {missing} messages that were not announced in time")
        return self.hearing.last

    def check(self, sent: Sent) -> str:
        rows = self.rows.ask(
            "select m.message_id, count(*) from message m join delivery d on d.message = m.id "
            "where m.message_id like %s group by 1", f"<{sent.label}-%"
        )  # fmt: skip
        there = {int(found[1]) for text, count in rows if count == sent.copies and (found := _NUMBER.match(text))}
        missing = len(set(sent.numbers) - there)
        if missing:
            return f"{missing} acknowledged messages are not in Postgres"
        wrong = sum(self._read(sent, number) != sent.content(number) for number in sent.samples())
        return f"{wrong} messages read otherwise than they were sent" if wrong else ""

    def _read(self, sent: Sent, number: int) -> bytes:
        left = stamp(sent.label, number).decode()
        ((content,),) = self.rows.ask("select content from message where message_id like %s", f"<{left}@%")
        return bytes(content)

    def clean(self) -> None:
        self.rows.ask("truncate message, delivery")
