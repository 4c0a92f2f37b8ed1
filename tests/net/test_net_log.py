"""The log: one object a line, no secrets, bounded, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from mailfarm.events import Deleted
from mailfarm.net import log as log_module
from mailfarm.net.log import BACKLOG, LONGEST_LINE, LineLog, route_logging


class Reading:
    """A log that writes into a file we read."""

    def __init__(self, path: Path, form: Any) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        self.log = LineLog(self.fd, form)

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        (line,) = self.lines
        return line


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Reading]:
    made = Reading(tmp_path / "log", "json")
    globalLogPublisher.addObserver(made.log)
    yield made
    globalLogPublisher.removeObserver(made.log)
    os.close(made.fd)


@pytest.fixture
def text(tmp_path: Path) -> Iterator[Reading]:
    made = Reading(tmp_path / "log", "text")
    globalLogPublisher.addObserver(made.log)
    yield made
    globalLogPublisher.removeObserver(made.log)
    os.close(made.fd)


log = Logger(namespace="mailfarm.test")


def test_a_line_has_its_time_level_place_text_and_fields(reading: Reading) -> None:
    log.warn("{count} of {what} went wrong", count=3, what="all", ratio=0.5, none=None, flag=True)
    line = reading.line
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warn",
        "namespace": "mailfarm.test",
        "text": "3 of all went wrong",
        "count": 3,
        "what": "all",
        "ratio": 0.5,
        "none": None,
        "flag": True,
    }


def test_a_failure_has_its_traceback(reading: Reading) -> None:
    try:
        raise ValueError("no such thing")
    except ValueError:
        log.failure("it broke")
    line = reading.line
    assert line["level"] == "critical"
    assert "no such thing" in line["failure"]
    assert "test_net_log.py" in line["failure"]


def test_an_event_stands_in_its_one_json_form(reading: Reading) -> None:
    log.info("told {event}", event=Deleted("id", "acc", "box", 7, 1_769_860_800_000_000, ("m1",)))
    assert reading.line["event"] == {
        "type": "deleted",
        "id": "id",
        "account": "acc",
        "mailbox": "box",
        "seq": 7,
        "at": "2026-01-31T12:00:00.000000Z",
        "messages": ["m1"],
    }


def test_secrets_are_hidden_also_in_the_sentence(reading: Reading) -> None:
    log.info(
        "{password} {user_token} {Authorization}", password="hunter2", user_token="hunter2", Authorization="hunter2"
    )
    assert "hunter2" not in reading.text
    assert reading.line["password"] == "(hidden)"


def test_nothing_from_a_client_breaks_out_of_its_line(reading: Reading) -> None:
    log.info("from {who}", who='x\r\n{"level":"critical"}\u2028\x1b[2J', text="mine")
    assert len(reading.text.splitlines()) == 1, "and splitlines knows many line ends"
    assert json.loads(reading.text)["text_"] == "mine"


def test_nothing_from_a_client_reaches_the_terminal(text: Reading) -> None:
    log.info("from {who}", who="x\x1b[2J\r\x07")
    assert text.text.rstrip("\n").isprintable()
    log.failure("broken", Failure(ValueError("\x1b[2J")))
    assert "\x1b" not in text.text


def test_text_lines_are_short(text: Reading) -> None:
    log.info("listening")
    log.error("it broke")
    first, second = text.text.splitlines()
    assert first.endswith(" test: listening")
    assert second.endswith(" test: error: it broke")


@pytest.mark.parametrize(
    "value",
    ["x" * 1_000_000, b"\xff" * 1_000_000, ["y"] * 1_000_000, 10**5000, "\ud800" * 9000, "\x01" * 9000],
    ids=["text", "octets", "a list", "a number", "no characters", "characters that are escaped"],
)
def test_a_line_is_bounded(reading: Reading, value: Any) -> None:
    log.info("a {value} that is long", value=value, **{f"more{n}": "z" * 4000 for n in range(20)})
    assert len(reading.path.read_bytes()) <= LONGEST_LINE + 1
    assert reading.line["namespace"] == "mailfarm.test"
    assert reading.line["cut"] > LONGEST_LINE


def test_what_cannot_be_shown_is_still_a_line(reading: Reading) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no")

    log.info("an {odd} one", odd=Odd())
    assert reading.line["odd"] == "<Odd>"
    log.info("{missing")
    assert len(reading.lines) == 2


def test_python_logging_arrives_too(reading: Reading) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        route_logging()
        route_logging()
        logging.getLogger("some.library").warning("%d things", 3)
        (handler,) = [handler for handler in root.handlers if handler not in before]
        # not through the logger: pytest's own handler takes offence
        handler.emit(logging.LogRecord("some.library", logging.ERROR, __file__, 1, "bad %d", ("format",), None))
        try:
            raise KeyError("x")
        except KeyError:
            logging.getLogger("some.library").exception("with {braces} and a traceback")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    first, second, third = reading.lines
    assert (first["level"], first["namespace"], first["text"]) == ("warn", "some.library", "3 things")
    assert "cannot be formatted" in second["text"]
    assert third["text"] == "with {braces} and a traceback"
    assert "KeyError" in third["failure"]


def drained(fd: int) -> bytes:
    data = b""
    while select.select([fd], [], [], 0)[0]:
        piece = os.read(fd, 65536)
        if not piece:
            break
        data += piece
    return data


def test_a_stuck_pipe_blocks_nobody_and_grows_no_further_than_its_backlog() -> None:
    read, write = os.pipe()
    line_log = LineLog(write, "json")
    line = b"x" * 999 + b"\n"
    written = 5000
    for _ in range(written):
        line_log.write(line)
    assert line_log._octets <= BACKLOG
    kept = BACKLOG // len(line) + 64
    assert line_log.dropped >= written - kept - 70
    got = b""
    while True:
        got += drained(read)
        before = line_log._octets
        line_log.flush(0.1)
        if not before:
            break
    got += drained(read)
    lines = got.splitlines()
    report = json.loads(lines[-1])
    missing = int(report["text"].split()[0])
    assert lines[:-1] == [line[:-1]] * (written - missing), "no line is cut or glued to another"
    assert report["level"] == "warn"
    os.close(read)
    line_log.write(b"after the reader is gone\n")
    line_log.write(b"and again\n")
    assert line_log._octets == 0
    os.close(write)


def test_a_broken_form_does_not_end_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(event: Any) -> bytes:
        raise RuntimeError("bug")

    monkeypatch.setattr(log_module, "_json", broken)
    reading = Reading(tmp_path / "log", "json")
    reading.log({"log_format": "x"})
    assert "unloggable" in reading.line["text"]
    os.close(reading.fd)
