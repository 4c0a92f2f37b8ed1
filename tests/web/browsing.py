"""What the tests of the web inbox use: a browser with a thread of its own, a tab, mail to send, a server to watch."""

from __future__ import annotations

import re
import smtplib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright
from running import Running

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PATIENCE = 20_000
WORKING = "error: .*ERR_CONNECTION|error: .*WebSocket|error: .*Failed to load resource"
"""What a browser says by itself of a server that is away or refuses."""


class Chromium:
    """The browser and its thread."""

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1, "browser")
        self._path = path
        self.browser: Browser = self.run(self._start)

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._thread.submit(work, *args, **kwargs).result()

    def _start(self) -> Browser:
        self._playwright = sync_playwright().start()
        expect.set_options(timeout=PATIENCE)
        return self._playwright.chromium.launch(executable_path=self._path, args=list(ARGUMENTS))

    def _stop(self) -> None:
        self.browser.close()
        self._playwright.stop()

    def close(self) -> None:
        self.run(self._stop)
        self._thread.shutdown()


class Tab:
    """A page of the inbox in a browser profile of its own, and everything the browser complained of."""

    def __init__(self, browser: Browser, running: Running, **options: Any) -> None:
        self.running = running
        self.context = browser.new_context(**{"viewport": {"width": 1360, "height": 820}, **options})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=running.url)
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.expected: str | None = None
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def open(self, path: str = "/") -> Page:
        """Go there, and wait until mailboxes are listed and the live connection stands."""
        self.page.goto(self.running.url + path)
        expect(self.page.locator("#boxes .box").first).to_be_visible()
        expect(self.page.locator("#state.up")).to_be_visible()
        return self.page

    def row(self, subject: str) -> Locator:
        return self.page.locator(".row", has_text=subject)

    def select(self, subject: str) -> Page:
        """Open a message of the list."""
        self.row(subject).first.click()
        expect(self.page.locator("#reader .subject")).to_contain_text(subject)
        return self.page

    def unexpected(self) -> list[str]:
        return [one for one in self.complaints if not (self.expected and re.search(self.expected, one))]


def post(
    running: Running, to: str, subject: str, text: str = "Hello.\n", html: str = "", sender: str = "", **more: Any
) -> None:
    """Send one mail. ``pictures`` (Content-ID to PNG) go with the HTML; ``files`` (name to octets) are attached."""
    message = EmailMessage()
    message["From"] = sender or "Ada Lovelace <ada@analytical.example>"
    message["To"] = to
    message["Subject"] = subject
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
        for cid, data in more.get("pictures", {}).items():
            message.get_payload()[1].add_related(data, "image", "png", cid=f"<{cid}>")
    for name, data in more.get("files", {}).items():
        message.add_attachment(data, "application", "octet-stream", filename=name)
    with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture"), timeout=30) as smtp:
        smtp.send_message(message, "bounce@analytical.example", [to])


def fill(running: Running, to: str, numbers: range) -> None:
    """Send many small mails: a hundred transactions a write, with BDAT (RFC 3030) and PIPELINING."""
    with (
        socket.create_connection(("127.0.0.1", running.port("smtp", "capture")), timeout=60) as wire,
        wire.makefile("rb") as answers,
    ):

        def answered(lines: int, code: bytes) -> None:
            for _ in range(lines):
                while (line := answers.readline())[3:4] == b"-":
                    pass
                assert line.startswith(code), line

        answered(1, b"220")
        wire.sendall(b"EHLO test.example\r\n")
        answered(1, b"250")
        for start in numbers[::100]:
            some = range(start, min(start + 100, numbers.stop))
            for number in some:
                mail = f"From: a@x.example\r\nSubject: Mail {number}\r\n\r\nBody {number}\r\n"
                wire.sendall(f"MAIL FROM:<a@x.example>\r\nRCPT TO:<{to}>\r\nBDAT {len(mail)} LAST\r\n{mail}".encode())
            answered(3 * len(some), b"250")


class Canary:
    """A web server nobody should call. ``calls`` are the paths that were asked for."""

    def __init__(self) -> None:
        calls = self.calls = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                calls.append(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "image/png")
                self.end_headers()
                self.wfile.write(PIXEL)

            def log_message(self, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
