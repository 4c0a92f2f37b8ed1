"""The web inbox: the files of ``mailfarm/web`` at ``/``. It holds nothing of anybody's and needs no token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from klein import Klein
from twisted.web.server import Request

from mailfarm.net.problems import Problem

from .answering import REVALIDATE, Answer, tag_of, write

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class _Read:
    stamp: tuple[int, int]
    body: bytes
    etag: str


class Static:
    """Files below ``folder`` of the types above; nothing hidden, nothing outside, no listing."""

    app = Klein()

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._read: dict[str, _Read] = {}

    @app.route("/", methods=["GET"], endpoint="index")
    @app.route("/<path:name>", methods=["GET"], endpoint="file")
    def file(self, request: Request, name: str = "index.html") -> None:
        """Answer with one file."""
        steps = name.split("/")
        media_type = _TYPES.get(Path(name).suffix)
        if media_type is None or "\0" in name or "\\" in name or any(not s or s.startswith(".") for s in steps):
            raise Problem("no-such-route", "there is nothing at this path")
        read = self._load(name)
        request.setHeader("Content-Security-Policy", POLICY)
        write(request, Answer(read.body, type=media_type, cache=REVALIDATE, etag=read.etag))

    def _load(self, name: str) -> _Read:
        path = self._folder / name
        try:
            # a link may not lead outside
            if not path.resolve().is_relative_to(self._folder) or not path.is_file():
                raise FileNotFoundError
            about = path.stat()
            stamp = (about.st_mtime_ns, about.st_size)
            kept = self._read.get(name)
            if kept is None or kept.stamp != stamp:
                body = path.read_bytes()
                kept = self._read[name] = _Read(stamp, body, tag_of(body))
        except (OSError, ValueError):
            raise Problem("no-such-route", "there is nothing at this path") from None
        return kept
