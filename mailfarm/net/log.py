"""The log: one JSON object a line, or short lines for a person.

JSON lines have ``time`` (RFC 3339), ``level``, ``namespace`` and ``text``, then the event's own fields; an
``events.Event`` among them stands in its one JSON form, a failure as its traceback. Python's ``logging`` and
``warnings`` arrive here too. A field whose name speaks of a secret is hidden, whatever it holds.

Nothing here waits and nothing grows without bound. A line has at most ``LONGEST_LINE`` octets. A line is only written
when the kernel says it would not block; what a stuck pipe or terminal does not take is kept up to ``BACKLOG`` octets,
and after that lines are dropped and counted: when writing works again, one line says how many are missing. Before the
process ends the backlog gets ``flush``, which waits a moment. When the reader is gone (EPIPE), lines are dropped in
silence: there is nobody to tell.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final, Literal

import orjson
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from mailfarm import events

LONGEST_LINE: Final = 16 * 1024
LONGEST_FIELD: Final = 4 * 1024
BACKLOG: Final = 1024 * 1024
PIECE: Final = 512  # what POSIX lets a pipe take at once whenever poll says it is writable (PIPE_BUF is at least this)

_PIECE: Final = getattr(select, "PIPE_BUF", PIECE)
_SECRETS: Final = ("secret", "password", "passwd", "token", "authorization", "cookie")
_EVENTS: Final = tuple(events._TYPES)
_LINE_ENDS: Final = tuple((c.encode(), b"\\u%04x" % ord(c)) for c in "\x85\u2028\u2029")
_LEVELS: Final = {LogLevel.debug: "debug", LogLevel.info: "info", LogLevel.warn: "warn", LogLevel.error: "error"}


@implementer(ILogObserver)
class LineLog:
    """An ``ILogObserver`` that writes lines to a file descriptor."""

    def __init__(self, fd: int, form: Literal["json", "text"] = "json") -> None:
        self._fd = fd
        self._form = _json if form == "json" else _text
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._octets = 0
        self.dropped = 0

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("log_failure") is None and event.get("isError") and "failure" in event:
            event = event | {"log_failure": event["failure"]}
        try:
            line = self._form(event)
        except Exception as error:  # a log line must never be the reason a session ends
            line = orjson.dumps({"level": "error", "namespace": "mailfarm.net.log", "text": f"unloggable: {error!r}"})
        self.write(line + b"\n")

    def write(self, line: bytes) -> None:
        """Write a whole line, or keep it, or drop it."""
        if self._octets + len(line) > BACKLOG:
            self.dropped += 1
        else:
            self._waiting.append(line)
            self._octets += len(line)
        self._work_off(0)

    def flush(self, seconds: float = 1.0) -> None:
        """Wait at most so long until everything is written."""
        end = time.monotonic() + seconds
        while self._waiting and self._work_off(max(0.0, end - time.monotonic())):
            pass

    def _work_off(self, wait: float) -> bool:
        """Write what can be written. Whether everything was."""
        while self._waiting:
            line = self._waiting[0]
            try:
                ready = self._poll.poll(wait * 1000)
                if not ready or not ready[0][1] & (select.POLLOUT | select.POLLERR):
                    return False
                # A regular file and a terminal take all of it; a pipe is only sure to take a piece.
                sent = os.write(self._fd, line[:_PIECE])
            except BlockingIOError:
                return False
            except OSError:
                self._waiting.popleft()  # EPIPE, EIO, ENOSPC: this line is lost, the next one tries again
                self._octets -= len(line)
                continue
            self._octets -= sent
            if sent < len(line):
                self._waiting[0] = line[sent:]
                continue
            self._waiting.popleft()
            if self.dropped and not self._waiting:
                missing, self.dropped = self.dropped, 0
                report = {"level": "warn", "namespace": "mailfarm.net.log", "text": f"{missing} log lines were dropped"}
                last = orjson.dumps(report) + b"\n"
                self._waiting.append(last)
                self._octets += len(last)
        return True


def begin(form: Literal["json", "text"], level: str, fd: int = 2) -> LineLog:
    """Send everything Twisted, ``logging`` and ``warnings`` say to ``fd``. Once a process."""
    line_log = LineLog(fd, form)
    least = LogLevel.levelWithName(level)
    # functions, which are observers and predicates to Twisted; zope's interfaces are not types to mypy
    made: Any = FilteringLogObserver
    observer = made(line_log, [LogLevelFilterPredicate(defaultLogLevel=least)])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)  # shows warnings too
    route_logging()
    return line_log


def route_logging() -> None:
    """Send what libraries say through Python's ``logging`` to Twisted's."""
    root = logging.getLogger()
    if not any(isinstance(handler, _ToTwisted) for handler in root.handlers):
        root.addHandler(_ToTwisted())
        root.setLevel(logging.INFO)


class _ToTwisted(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = (
            LogLevel.critical
            if record.levelno >= logging.CRITICAL
            else LogLevel.error
            if record.levelno >= logging.ERROR
            else LogLevel.warn
            if record.levelno >= logging.WARNING
            else LogLevel.info
            if record.levelno >= logging.INFO
            else LogLevel.debug
        )
        fields: dict[str, Any] = {}
        if record.exc_info and record.exc_info[1] is not None:
            fields["log_failure"] = Failure(record.exc_info[1], record.exc_info[0], record.exc_info[2])
        try:
            text = record.getMessage()
        except Exception as error:
            text = f"{record.msg!r} cannot be formatted: {error!r}"
        Logger(namespace=record.name).emit(level, "{message}", message=text, **fields)


def _level(event: dict[str, Any]) -> str:
    # an event without a level is looked up with None, and found not to be there
    return _LEVELS.get(event.get("log_level"), "critical" if event.get("log_level") is LogLevel.critical else "info")


def _namespace(event: dict[str, Any]) -> str:
    namespace = str(event.get("log_namespace", ""))
    return "twisted" if namespace == "log_legacy" else namespace


def _json(event: dict[str, Any]) -> bytes:
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0.0), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "level": _level(event),
        "namespace": _namespace(event),
        "text": _short(formatEvent(_hidden(event)), LONGEST_FIELD),
    }
    failure = event.get("log_failure")
    if failure is not None:
        line["failure"] = _tail(failure.getTraceback(), LONGEST_FIELD)
    for name, value in event.items():
        if name.startswith("log_") or name in ("format", "time", "system", "isError", "failure", "why", "message"):
            continue
        line[f"{name}_" if name in line else name] = _value(name, value)
    out = _dumps(line)
    if len(out) <= LONGEST_LINE:
        return out
    # the fields go before the sentence does; escaped, a character of it may have become six
    kept = {name: line[name] for name in ("time", "level", "namespace", "text", "failure") if name in line}
    short = _dumps(kept | {"cut": len(out)})
    if len(short) <= LONGEST_LINE:
        return short
    return _dumps(kept | {"text": line["text"][:1000], "failure": "", "cut": len(out)})


def _dumps(line: dict[str, Any]) -> bytes:
    out = orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS, default=_short_repr)
    # what some readers take for the end of a line, and JSON does not
    for raw, escaped in _LINE_ENDS:
        if raw in out:
            out = out.replace(raw, escaped)
    return out


def _text(event: dict[str, Any]) -> bytes:
    moment = datetime.fromtimestamp(event.get("log_time", 0.0)).astimezone().strftime("%H:%M:%S")
    namespace = _namespace(event).removeprefix("mailfarm.")
    level = _level(event)
    mark = "" if level == "info" else f"{level}: "
    text = _short(formatEvent(_hidden(event)), LONGEST_FIELD).replace("\n", "\n    ")
    line = f"{moment} {namespace}: {mark}{text}"
    failure = event.get("log_failure")
    if failure is not None:
        line += "\n" + _tail(failure.getTraceback(), LONGEST_FIELD).rstrip()
    # A terminal obeys what it is shown: no control character from a client reaches it (wire safety).
    clean = "".join(c if c.isprintable() or c == "\n" else "?" for c in line)
    return clean.encode("utf-8", "replace")[:LONGEST_LINE]


def _secret(name: str) -> bool:
    lower = name.lower()
    return any(word in lower for word in _SECRETS)


def _hidden(event: dict[str, Any]) -> dict[str, Any]:
    if any(_secret(name) for name in event):
        return {name: "(hidden)" if _secret(name) else value for name, value in event.items()}
    return event


def _value(name: str, value: Any) -> Any:
    if _secret(name):
        return "(hidden)"
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else _short_repr(value)
    if isinstance(value, str):
        return _short(value, LONGEST_FIELD)
    if isinstance(value, _EVENTS):
        return events.form(value)  # type: ignore[arg-type]  # mypy does not see what _EVENTS are
    return _short_repr(value)


def _short_repr(value: Any) -> str:
    try:
        return _short(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value), LONGEST_FIELD)
    except Exception:
        return f"<{type(value).__name__}>"


def _short(text: str, longest: int) -> str:
    # orjson refuses lone surrogates
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= longest else text[:longest] + "…"


def _tail(text: str, longest: int) -> str:
    """The end of a traceback says what happened."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= longest else "…" + text[-longest:]
