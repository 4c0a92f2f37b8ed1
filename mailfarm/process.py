"""The process of ``mailfarm dev`` and of each service: what it says at its start, the signals it hears, how it ends.

======================  ===============================================================================
SIGTERM, SIGINT         stop: /healthz says 503, everything is still accepted for MAILFARM_LINGER, then
                        running transactions finish within MAILFARM_GRACE
one of them once more   stop, and wait for nobody
SIGHUP                  read the certificate again
======================  ===============================================================================

At its start it takes as many open files as the system lets it (the hard limit of RLIMIT_NOFILE), since a connection is
one and the usual soft limit is 1,024. Where the settings allow more connections than that, the log says so.

Exit codes: 0 it was told to stop, 1 it could not start, or a message hangs in it, 2 the settings are wrong. One line on
standard output says where it listens once it does, as JSON with ``--json``; the log goes to standard error.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from .assembly import Farm, spawn
from .config import Settings
from .errors import MailfarmError
from .net import log

_log = Logger()

_TURN = 120.0
"""Seconds of CPU time in which the loop must have had a turn."""
_OTHER_FILES = 256
"""Open files besides clients' connections: stores, spilled content, the program itself."""


def run(settings: Settings, folder: Path | None, services: Collection[str], *, name: str, announce_json: bool) -> int:
    """Run ``services`` until told to stop; ``name`` is the command's. ``folder`` keeps the data; None keeps nothing.
    The exit code."""
    if settings.farm.poll == "lean" and sys.platform == "linux":
        from .net import lean_poll  # late: there is no epoll elsewhere

        lean_poll.install()
    from twisted.internet import reactor  # late: importing it installs it

    lines = log.begin("json" if settings.farm.log == "json" else "text", settings.farm.log_level)
    files, wanted = open_files(), connections(settings, services)
    if wanted + _OTHER_FILES > files:
        say = _log.info if name == "dev" else _log.warn
        text = (
            "the settings allow {wanted} connections, and this process may open {files} files: raise the limit "
            "(ulimit -n, LimitNOFILE, ulimits), or lower MAILFARM_..._MAX_CONNECTIONS"
        )
        say(text, wanted=wanted, files=files)
    loop: Any = reactor
    farm: Farm | None = None
    reasons: list[str] = []
    """Why it could not start, or go on: said last, below whatever the log says."""
    hangs = False

    def ended() -> int:
        lines.flush()
        for line in "\n".join(reasons).splitlines():
            print(f"mailfarm {name}: {line}", file=sys.stderr)
        return 1 if reasons else 0

    try:
        farm = Farm(settings, folder, loop, services)
    except MailfarmError as error:
        reasons.append(str(error))
        return ended()
    except OSError as error:
        reasons.append(_of_the_system(error))
        return ended()

    def halt() -> None:
        """A start that fails and a signal may come together: the second finds it ending."""
        with suppress(ReactorNotRunning):
            loop.stop()

    async def start() -> None:
        assert farm is not None
        try:
            started = await farm.start()
        except MailfarmError as error:
            reasons.append(str(error))
            halt()
        except OSError as error:
            reasons.append(_of_the_system(error))
            halt()
        except BaseException:
            _log.failure("mailfarm {name} could not start", name=name)
            reasons.append("it could not start; the reason is in the log above. This is a fault of mailfarm's")
            halt()
        else:
            _collect_less()
            if started:
                where = farm.where()
                text = _welcome(where, folder is None) if name == "dev" else _one_line(name, where)
                print(orjson.dumps(where).decode() if announce_json else text, flush=True)

    stopping = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopping
        if not announce_json and name == "dev":
            print("\nmailfarm dev: stopping" + (" at once" if stopping else "; once more to wait for nobody"))
        loop.callFromThread(farm.hurry if stopping else halt)
        stopping = True

    def stuck(why: str) -> None:
        nonlocal hangs
        if not hangs:
            hangs = True
            _log.error("{why}", why=why)
            reasons.append(why)
            halt()

    async def leave() -> None:
        assert farm is not None
        await farm.stop()
        if hangs:
            os._exit(ended())  # the thread would be waited for, for ever

    farm.stuck = stuck

    def begin() -> None:
        _watch()
        signal.signal(signal.SIGHUP, lambda *_: loop.callFromThread(farm.reload))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        spawn(start())

    loop.callWhenRunning(begin)
    loop.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(leave()))
    try:
        loop.run()
    except Exception as error:  # not even the loop would begin
        reasons.append(f"it could not run: {error!r}")
    return ended()


def open_files() -> int:
    """Allow this process as many open files as the system lets it; how many that is."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):  # a hard limit without end, or above the kernel's own: the soft one stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def connections(settings: Settings, services: Collection[str]) -> int:
    """How many clients may be connected to these services at once, by the settings."""
    submission, live = settings.submission, settings.live
    ports = (submission.capture, submission.starttls, submission.tls)
    most = {
        "mx": settings.mx.max_connections,
        "submission": submission.max_connections * sum(port is not None for port in ports),
        "api": settings.api.max_connections,
        "live": live.max_connections,
    }
    return sum(most.get(service, 0) for service in services)


def _watch() -> None:
    """Have the kernel end this process, and say in the log where each thread is, when it has computed for ``_TURN``
    seconds and the loop never had its turn: a parser hangs, and nothing in here could end it. It is CPU time, so that
    a process which was stopped for long, or waits, is not meant."""
    faulthandler.register(signal.SIGPROF, chain=True)
    LoopingCall(lambda: signal.setitimer(signal.ITIMER_PROF, _TURN)).start(_TURN / 10)


def _collect_less() -> None:
    """Have the garbage collector pass over what was made at the start, for good, and look at the rest less often: what
    a message leaves behind is freed by its reference count, and the default costs some 4 % of a busy process. What is
    still there after that is looked at once more in small lots: nobody waits for the 400,000 objects of twenty thousand
    new sessions (120 ms)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 2, 50)


def _of_the_system(error: OSError) -> str:
    return f"{error.filename or ''}: {error.strerror}".removeprefix(": ")


def _one_line(name: str, where: dict[str, Any]) -> str:
    """What a service by itself says."""
    at = [f"{word} {address}" for word, address in where["smtp"].items()]
    at += [str(where[word]) for word in ("mx", "http", "live") if where[word]]
    status = f"; status at {where['status']}" if where["status"] else ""
    return f"mailfarm {name} is running" + (f" at {', '.join(at)}" if at else "") + status


def _welcome(where: dict[str, Any], ephemeral: bool) -> str:
    smtp = where["smtp"]
    lines = ["mailfarm is running", ""]
    names = {
        "capture": "SMTP, takes anything",
        "starttls": "SMTP, STARTTLS and password",
        "tls": "SMTP, TLS and password",
    }
    if where["http"]:
        lines.append(f"  web inbox and API           {where['http']}/")
    lines += [f"  {names[word]:<27} {address}" for word, address in smtp.items()]
    if where["mx"]:
        lines.append(f"  mx, for mailboxes that are  {where['mx']}")
    lines += ["", "  mail is gone when this ends" if ephemeral else f"  mail is kept in {where['data']}", ""]
    if "capture" in smtp:
        elsewhere = "" if smtp["capture"] == "127.0.0.1:1025" else f" --smtp {smtp['capture']}"
        lines += [
            f"Send a first mail:  {_command()} send{elsewhere}",
            f"             or:  swaks --server {smtp['capture']} --to you@example.org",
        ]
    return "\n".join([*lines, "Stop:               Ctrl-C"])


def _command() -> str:
    """How this program was called, to be typed again."""
    name = sys.argv[0]
    if name.endswith("__main__.py"):
        return "python -m mailfarm"
    return os.path.relpath(name) if os.sep in name else name
