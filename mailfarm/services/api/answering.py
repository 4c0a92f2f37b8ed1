"""Answers: JSON, text and problems, with their caching headers, ETags and gzip.

Gzip is done here and not by twisted.web's encoder, which decides before it knows type and length: it would compress
40 octets, event streams and pictures alike.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import orjson
from twisted.web.server import Request

from mailfarm.net.problems import MEDIA_TYPE, Problem

JSON = "application/json"
GZIP_FROM = 1024
GZIP_TO = 2 << 20
"""Octets above which an answer goes out as it is: compressing it would keep all others waiting."""
NO_STORE = "no-store"
REVALIDATE = "private, no-cache"
_GZIP_LEVEL = 4  # 1 MB of JSON in some 12 ms; level 9 takes four times that for 3 % less


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route gives back. ``body`` is any value JSON can say when the type is JSON, else bytes.

    ``etag`` without quotes; it must change whenever the body may.
    """

    body: Any = b""
    status: int = 200
    type: str = JSON
    cache: str = NO_STORE
    etag: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def write(request: Request, answer: Answer) -> None:
    """Write ``answer``, whole. The caller finishes the request."""
    body = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)
    for name, value in answer.headers.items():
        request.setHeader(name, value)
    request.setHeader("Cache-Control", answer.cache)
    if answer.etag:
        # weak (RFC 9110 §8.8.1): the same tag stands for the plain and the compressed form
        request.setHeader("ETag", f'W/"{answer.etag}"')
        if matches(request.getHeader("if-none-match"), answer.etag):
            request.setResponseCode(304)
            request.write(b"")
            return
    request.setResponseCode(answer.status)
    if answer.status == 204:
        request.write(b"")
        return
    request.setHeader("Content-Type", answer.type)
    if compressible(answer.type):
        request.setHeader("Vary", "Accept-Encoding")
        if GZIP_FROM <= len(body) <= GZIP_TO and accepts_gzip(request.getHeader("accept-encoding")):
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            request.setHeader("Content-Encoding", "gzip")
    request.setHeader("Content-Length", str(len(body)))
    request.write(body)


def write_problem(request: Request, problem: Problem) -> None:
    """Write a problem, if nothing was written yet; else end the connection, so that nobody takes half for whole."""
    if request.startedWriting:
        request.loseConnection()
        return
    # what a route had set for its own answer does not hold for this one
    for name in ("ETag", "Content-Disposition", "Content-Encoding", "Content-Security-Policy", "Location"):
        request.responseHeaders.removeHeader(name)
    write(request, Answer(problem.document(), problem.status, MEDIA_TYPE, headers=problem.headers))


def compressible(media_type: str) -> bool:
    """Whether gzip makes it smaller."""
    kind = media_type.partition(";")[0]
    return kind.startswith("text/") or kind in (JSON, MEDIA_TYPE, "image/svg+xml", "application/javascript")


def accepts_gzip(header: str | None) -> bool:
    """Whether an Accept-Encoding header asks for gzip (RFC 9110 §12.5.3)."""
    wanted = False
    for part in (header or "").lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() in ("gzip", "x-gzip", "*"):
            if name.strip() != "*":
                return not refused(weight)
            wanted = not refused(weight)
    return wanted


def refused(parameters: str) -> bool:
    """Whether what stands behind a name in an Accept header says ``q=0`` (RFC 9110 §12.4.2)."""
    return any(re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", one) for one in parameters.split(";"))


def matches(header: str | None, etag: str) -> bool:
    """Whether If-None-Match holds this tag, compared weakly (RFC 9110 §13.1.2)."""
    if header is None:
        return False
    return header.strip() == "*" or any(tag.strip().removeprefix("W/").strip('"') == etag for tag in header.split(","))


def tag_of(body: bytes) -> str:
    """An ETag for these bytes."""
    return sha256(body).hexdigest()[:32]


def attachment(filename: str, *, inline: bool = False) -> str:
    """A Content-Disposition (RFC 6266) for a name that a stranger chose.

    The plain form holds ASCII letters, digits and a few marks only; the whole name goes into the RFC 8187 form, without
    its folders, control characters and direction overrides.
    """
    kind = "inline" if inline else "attachment"
    name = "".join(c for c in filename if c.isprintable()).replace("\\", "/").rpartition("/")[2].strip(" .")[-150:]
    if not name:
        return kind
    plain = re.sub(r"[^A-Za-z0-9 ._-]", "_", name)
    if plain == name:
        return f'{kind}; filename="{plain}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name.encode('utf-8', 'replace'), safe='')}"
