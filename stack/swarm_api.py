"""The way from Traefik to a manager's Docker socket: six GET requests, and nothing else.

Whoever reaches the socket is root on that node, so the process that faces the internet must not. Traefik asks for
/version, /info, /services, /tasks, /networks and /nodes/ID; only these are passed on, each as a new request of our own
making: method, path and query alone come from the caller, and both are of plain letters. Docker shows no secret of
mailfarm's there (its services have theirs in files), but every stack's environments and command lines: of containers
only the names of the fields are left, so that no password that somebody put there gets out.

    python3 swarm_api.py [SOCKET] [PORT]

Runs as root without any capability, as the owner of the socket, on a network that only Traefik shares. It keeps
nothing, and several may run: Traefik takes the next one when a manager is gone. /healthz is the engine's /_ping: where
that does not answer, we are of no use. After SIGTERM it answers for two
seconds more and ends each connection with its answer, so that nobody's request is cut.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Timer
from typing import Any
from urllib.parse import urlsplit

ALLOWED = re.compile(r"(/v1\.[0-9]{1,3})?/(_ping|version|info|services|tasks|networks|nodes/[a-z0-9]{1,64})")
WITHOUT_CONTAINERS = re.compile(r"(/v1\.[0-9]{1,3})?/(services|tasks)")
QUERY = re.compile(r"[A-Za-z0-9=&%_.:+-]{0,2048}")
HEALTH = urlsplit("/healthz")
LARGEST = 64 << 20  # octets of an answer: thousands of tasks
AT_ONCE = 32
SECONDS = 5.0
LINGER = 2.0


class ToSocket(HTTPConnection):
    """A connection to the Docker socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


class Gate(BaseHTTPRequestHandler):
    """Lets through what is allowed; everything else is 403."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "swarm-api", ""
    timeout = 60
    socket_path = "/var/run/docker.sock"
    places = BoundedSemaphore(AT_ONCE)
    stopping = False

    def do_GET(self) -> None:
        self.pass_on()

    def do_HEAD(self) -> None:
        self.pass_on()

    def pass_on(self) -> None:
        try:
            target = urlsplit(self.path)
        except ValueError:  # as in http://[::1/
            target = urlsplit("")
        if target == HEALTH:
            target = target._replace(path="/_ping")
        if not (ALLOWED.fullmatch(target.path) and QUERY.fullmatch(target.query)) or target.fragment or target.netloc:
            self.answer(403, b"only what Traefik asks of a Swarm\n")
            return
        if "content-length" in self.headers or "transfer-encoding" in self.headers:
            self.close_connection = True
            self.answer(400, b"these requests have no body\n")
            return
        if not self.places.acquire(timeout=SECONDS):
            self.answer(503, b"too many requests at once\n")
            return
        docker = ToSocket(self.socket_path)
        try:
            docker.request(self.command, target.path + (f"?{target.query}" if target.query else ""))
            reply = docker.getresponse()
            body = reply.read(LARGEST + 1)
            if len(body) > LARGEST:
                self.answer(502, b"the answer is too long\n")
                return
            if WITHOUT_CONTAINERS.fullmatch(target.path) and self.command == "GET":
                body = without_containers(body)
            kept = {name: value for name in KEPT if (value := reply.getheader(name))}
            self.answer(reply.status, body, kept)
        except ValueError:
            self.answer(502, b"the Docker socket answers with what is no JSON\n")
        except (OSError, HTTPException) as error:
            self.log_error("the Docker socket: %s", error)
            self.answer(502, b"the Docker socket does not answer\n")
        finally:
            docker.close()
            self.places.release()

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {"Content-Type": "text/plain"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.stopping:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if str(code) not in ("200", "304"):
            super().log_request(code, size)


def without_containers(body: bytes) -> bytes:
    """The answer without what runs in containers and how: each ``ContainerSpec`` and the task's ``Spec`` of a plugin or
    a network attachment is emptied, wherever it is. Raises ValueError where it is no JSON."""

    def emptied(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: {} if name in HIDDEN and value else value for name, value in fields.items()}

    return json.dumps(json.loads(body, object_hook=emptied)).encode()


HIDDEN = ("ContainerSpec", "PluginSpec", "NetworkAttachmentSpec")
KEPT = ("Content-Type", "Api-Version", "Ostype", "Docker-Experimental", "Server", "Swarm")


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6  # IPv4 comes mapped
    daemon_threads = True
    request_queue_size = 64


def main(arguments: list[str]) -> int:
    if arguments:
        Gate.socket_path = arguments[0]
    server = Server(("::", int(arguments[1]) if len(arguments) > 1 else 2375), Gate)

    def stop(number: int, frame: object) -> None:
        Gate.stopping = True
        Timer(LINGER, server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever(poll_interval=0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
