"""Processes that end with the one that started them.

Each is started by way of ``setpriv --pdeathsig KILL`` (util-linux), which asks the kernel to kill it when its parent
dies, however the parent dies (prctl(2), PR_SET_PDEATHSIG). The kernel goes by the *thread* that started it, so one that
is started by any thread but the main one does without.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def _opener(*context: ssl.SSLContext) -> urllib.request.OpenerDirector:
    """Without a proxy that the environment names: what we ask is on this machine, or in its network."""
    https = [urllib.request.HTTPSHandler(context=each) for each in context]
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), *https)


_DIRECT = _opener()


def guard() -> list[str]:
    """What stands in front of a command that shall end with us; nothing where that cannot be had."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "KILL"]


def guarded(command: Sequence[str], before: Sequence[str] = ()) -> list[str]:
    """The command line for ``command`` behind ``before``, a tracer for example. Both end with us."""
    return [*guard(), *before, *(guard() if before else ()), *command]


def innermost(process: subprocess.Popen[bytes], before: Sequence[str]) -> int:
    """The process id of the command itself, behind ``before``, also where that stays in front of it as strace does."""
    found = process.pid
    passed = {os.path.realpath(shutil.which(name) or name) for name in ("setpriv", *before[:1])}
    while True:
        try:
            if os.readlink(f"/proc/{found}/exe") not in passed:
                return found
            children = Path(f"/proc/{found}/task/{found}/children").read_text().split()
        except OSError:
            return found
        if not children:
            return found
        found = int(children[0])


def runs(pid: int) -> bool:
    """Whether it has not ended; one that its parent has not waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def clean_environ() -> dict[str, str]:
    """The environment without settings of mailfarm's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MAILFARM_")}


def get(url: str, headers: Mapping[str, str] | None = None, timeout: float = 10, cafile: str = "") -> tuple[int, str]:
    """The code and text of a page; the code is 0 where nobody answers whom we believe. ``cafile`` has the authority
    that is believed, in place of the system's."""
    opener = _opener(ssl.create_default_context(cafile=cafile)) if cafile else _DIRECT
    try:
        with opener.open(urllib.request.Request(url, headers=dict(headers or {})), timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def until(condition: Callable[[], T], seconds: float = 10, every: float = 0.01) -> T:
    """Wait until ``condition()`` is true and return what it gave; TimeoutError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {seconds} s: {condition}")
        time.sleep(every)
    return value
