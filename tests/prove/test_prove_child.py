"""What is started or stopped ends with the one who did it, and whom we believe."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from running import until

from mailfarm.prove.certificate import write_certificate
from mailfarm.prove.child import get, runs
from mailfarm.prove.watcher import Watcher

TRACES = """
import sys
from pathlib import Path
from mailfarm.prove.trace import Trace
traced = Trace([int(sys.argv[1])], Path(sys.argv[2]))
print(traced._process.pid, flush=True)
sys.stdin.read()
"""


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"said")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asleep() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_an_authority_of_ones_own_is_believed_when_it_is_named(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{server.server_port}/"
        assert get(url, cafile=str(certificate)) == (200, "said")
        assert get(url)[0] == 0
        server.shutdown()


def test_a_tracer_ends_with_us_and_lets_go(
    component: Callable[[str], Path], asleep: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    component("strace"), component("setpriv")
    command = [sys.executable, "-c", TRACES, str(asleep.pid), str(tmp_path / "trace")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        tracer = int(run.stdout.readline())
        run.kill()
    until(lambda: not runs(tracer), 10)
    assert asleep.poll() is None


def test_what_is_held_is_killed_when_the_watcher_is_let_go_and_what_goes_on_is_not(
    asleep: subprocess.Popen[bytes],
) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        os.kill(asleep.pid, signal.SIGSTOP)
        watcher = Watcher()
        watcher.hold([asleep.pid, other.pid])
        watcher.release([other.pid])
        watcher.close()
        assert asleep.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()
