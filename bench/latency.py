"""How soon: last dot to 250, accepted to committed, accepted to announced, at a fixed rate, whatever the server does.

Committed is when a question to Postgres, asked again every millisecond, first shows the row, or when the message is
announced, if that is seen sooner: nothing is announced before it is committed. Announced is the frame of
a WebSocket for mailfarm, the message of Redis' pub/sub for the queue design. All of it counts from the moment the 250
was read. A time below zero (it was known before the sender had read its 250) counts as it is.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

from corpus import stamp
from field import Field
from generator import percentiles
from measuring import Wrong, generate
from peers.base import ADDRESSES, Sent
from peers.cluster import SOURCE
from stand import Rows
from websocket import WebSocket

RATES = (200, 800)
WAYS = ("dot_ms", "committed_ms", "announced_ms")
_TO = ADDRESSES[3]
_PATIENCE = 20.0
_LEFT = re.compile(r"[^<@]+(?=@)")


class Watch(threading.Thread):
    """Asks ``sql`` again and again; its rows are a number and a Message-ID. ``times`` has when each was there first.

    ``sql`` has one place, for a number: rows with larger ones are shown. With ``window`` numbers may come out of order
    by so many."""

    def __init__(self, url: str, sql: str, key: tuple[object, ...], window: int, cores: list[int]) -> None:
        super().__init__(daemon=True)
        self._rows = Rows(url)
        self._sql, self._key, self._window, self._cores = sql, key, window, cores
        self._ended = False
        self.times: dict[str, float] = {}
        newest = self._rows.ask(sql + " order by 1 desc limit 1", *key, 0)
        self._newest: int = newest[0][0] if newest else 0

    def run(self) -> None:
        os.sched_setaffinity(0, self._cores)
        while not self._ended:
            found = self._rows.ask(self._sql, *self._key, self._newest - self._window)
            now = time.monotonic()
            for number, text in found:
                self._newest = max(self._newest, number)
                if match := _LEFT.search(text):
                    self.times.setdefault(match[0], now)
            time.sleep(0.001)
        self._rows.close()

    def end(self) -> None:
        """Stop asking."""
        self._ended = True
        self.join()


class Frames(threading.Thread):
    """Follows a mailbox over a WebSocket; ``times`` has when each message's frame came."""

    def __init__(self, url: str, token: str, mailbox: str, cores: list[int]) -> None:
        super().__init__(daemon=True)
        self._socket = WebSocket(url, token, seconds=120)
        self._socket.say(op="subscribe", mailbox=mailbox)
        self._socket.hear("subscribed")
        self._cores = cores
        self.times: dict[str, float] = {}

    def run(self) -> None:
        os.sched_setaffinity(0, self._cores)
        while True:
            try:
                form = self._socket.hear("filed")
            except (EOFError, OSError, ValueError):
                return
            if match := _LEFT.search(form["message"]["message_id"]):
                self.times.setdefault(match[0], time.monotonic())

    def end(self) -> None:
        """Hang up."""
        self._socket._socket.shutdown(2)
        self.join(5)
        self._socket.close()


def of_mailfarm(field: Field, url: str, rate: int, seconds: float) -> dict[str, Any]:
    """With a WebSocket of ``url``, the address of a ``live``."""
    house = field.house
    mailbox = house.ids[ADDRESSES.index(_TO)]
    sql = "select seq, message_id from message where mailbox = %s and seq > %s"
    rows = Watch(house.database, sql, (mailbox,), 0, field.aside)
    frames = Frames(url, house.cluster.token, mailbox, field.aside)
    return _paced(field.peers["cluster"].smtp, ("--proxy-source", SOURCE), rate, seconds, rows, frames)


def of_queue_design(field: Field, rate: int, seconds: float) -> dict[str, Any]:
    """With Redis' pub/sub."""
    peer: Any = field.peers["queue"]
    sql = "select d.id, m.message_id from delivery d join message m on m.id = d.message where d.id > %s"
    rows = Watch(peer.database, sql, (), 1000, field.aside)
    hearing = peer.hearing
    hearing.times.clear()
    hearing.noting = True
    try:
        return _paced(peer.smtp, (), rate, seconds, rows, hearing)
    finally:
        hearing.noting = False
        peer.clean()


def _paced(port: int, extra: Sequence[str], rate: int, seconds: float, rows: Watch, told: Any) -> dict[str, Any]:
    started: list[Any] = [one for one in (rows, told) if isinstance(one, threading.Thread)]
    for thread in started:
        thread.start()
    label = os.urandom(3).hex()
    options = ("--sessions", "50", "--rate", str(rate), "--seconds", str(seconds), "--to", _TO, *extra)
    try:
        form, sent = generate(port, options, label, seconds + 90)
        deadline = time.monotonic() + _PATIENCE
        wanted = {stamp(label, number).decode() for number in sent.numbers}
        while not (wanted <= rows.times.keys() and wanted <= told.times.keys()):
            if time.monotonic() > deadline:
                raise Wrong(f"at {rate} a second not all that was acknowledged was committed and announced in time")
            time.sleep(0.01)
    finally:
        for one in started:
            one.end()
    return {
        "rate": rate,
        "messages": form["messages"],
        "dot_ms": form["dot_ms"],
        "committed_ms": _since(
            sent, {one: min(at, told.times[one]) for one, at in rows.times.items() if one in wanted}
        ),
        "announced_ms": _since(sent, told.times),
        "errors": form["errors"],
        "errors_total": form["errors_total"],
    }


def _since(sent: Sent, times: dict[str, float]) -> dict[str, float]:
    pairs = zip(sent.numbers, sent.times, strict=True)
    return percentiles([times[stamp(sent.label, number).decode()] - at for number, at in pairs])
