"""Work for the engine of SQLite, and a way to hold its writer up: for its tests."""

from __future__ import annotations

import threading

from spooled_samples import DEADLINE


def insert(name):
    def work(db):
        db.execute("INSERT INTO filed (spool, filed_at) VALUES (?, 0)", (name,))
        return name

    return work


def count(db):
    return db.execute("SELECT count(*) FROM filed").fetchone()[0]


class Gate:
    """A job that holds the writer until it is opened."""

    def __init__(self, engine):
        self._entered, self._open = threading.Event(), threading.Event()
        self.passed = engine.write(self._work)
        assert self._entered.wait(DEADLINE)

    def _work(self, db):
        self._entered.set()
        assert self._open.wait(DEADLINE)

    def open(self):
        self._open.set()
