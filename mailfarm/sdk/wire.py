"""HTTP without I/O: what a verb asks for, what comes back, and when it is asked again.

A verb is a generator of *steps*. It yields a ``Request`` and is sent the ``Response``, or has a ``Failure`` thrown at
it; it yields a ``Pause`` and is sent None once that time has passed. What it returns is the verb's value, what it
raises the verb's error. Each client drives the same generators with its own kind of I/O, so that all three do and
raise the same::

    def read_message(id):
        response = yield from ask(Request("GET", f"/v1/messages/{id}"))
        return Detail.of(response.json())
"""

from __future__ import annotations

import json as _json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from . import checks
from .errors import ApiError, CannotConnect, problem_error

T = TypeVar("T")

RETRIES = 4
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
BUSY = frozenset({429, 502, 503, 504})
"""Answers that say to try again: too much asked, or a server, or a proxy before one, that is restarting."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. ``timeout`` is the seconds its answer may take; None: as long as the client allows."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    json: Any = None
    timeout: float | None = None
    accept: str = "application/json"

    @property
    def target(self) -> str:
        """The path with its query."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path

    @property
    def body(self) -> bytes | None:
        """The JSON as octets."""
        return None if self.json is None else _json.dumps(self.json).encode()

    def headers(self, token: str | None) -> dict[str, str]:
        """The header fields to send."""
        fields = {"Accept": self.accept, "User-Agent": "mailfarm-sdk"}
        if self.json is not None:
            fields["Content-Type"] = "application/json"
        if token:
            fields["Authorization"] = f"Bearer {token}"
        return fields

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer, read whole. Names of header fields are in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """The JSON object of the body. Raises ApiError on anything else, and later for a member it lacks: then this is
        not a mailfarm."""
        try:
            found = _json.loads(self.body, object_hook=_Form)
        except ValueError:
            found = None
        if not isinstance(found, _Form):
            start = self.body[:60].decode("utf-8", "replace")
            text = f"the answer is not a JSON object but begins {start!r}; is this the URL of a mailfarm?"
            raise ApiError(text, status=self.status)
        return found

    def problem(self) -> Mapping[str, Any]:
        """The problem document, empty where the answer is none."""
        try:
            found = _json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def retry_after(self, default: float) -> float:
        """The seconds the server asks us to wait, if it does."""
        try:
            return min(max(float(self.headers.get("retry-after", default)), 0.01), 60.0)
        except ValueError:
            return default


class _Form(dict[str, Any]):
    """A JSON object that says so when it lacks what the API promises."""

    def __missing__(self, name: str) -> Any:
        raise ApiError(f"the answer has no member {name!r}; is this the URL of a mailfarm?", status=200)


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


class Failure(Exception):
    """No answer came. ``sent`` says whether the server may have seen the request."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


Steps = Generator[Request | Pause, Any, T]


@dataclass(slots=True)
class Server:
    """What is known of the server. ``reached`` once it has answered at all."""

    url: str
    reached: bool = False

    def unreachable(self, failure: Failure) -> CannotConnect:
        """The error that says what to do."""
        if self.reached:
            return CannotConnect(f"the mailfarm at {self.url} went away: {failure}")
        if "certificate verify failed" in str(failure):
            return CannotConnect(
                f"the certificate of {self.url} is not trusted ({failure}): give the file of its authority, as ca= or "
                "in MAILFARM_CA."
            )
        return CannotConnect(f"no mailfarm answers at {self.url} ({failure}): is `mailfarm dev` running?")

    def ask(self, request: Request, missing: type[ApiError] = ApiError) -> Steps[Response]:
        """Ask until there is an answer of 2xx. ``missing`` is the error for 404.

        What may be done twice (GET, DELETE, PATCH with fixed values) is asked again when the connection is cut or
        the server is busy, a few times, with growing pauses. POST makes something: it is asked again only when it
        surely did nothing.
        """
        pause = FIRST_PAUSE
        for left in range(RETRIES, -1, -1):
            try:
                response: Response = yield request
            except Failure as failure:
                if not left or not self.reached or (failure.sent and request.method == "POST"):
                    raise self.unreachable(failure) from failure
            else:
                self.reached = True
                if 200 <= response.status < 300:
                    return response
                again = response.status == 429 or (response.status in BUSY and request.method != "POST")
                if not left or not again:
                    raise problem_error(response.status, response.problem(), str(request), missing)
                pause = response.retry_after(pause)
            yield Pause(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        raise AssertionError("not reached")


def base_url(url: str) -> str:
    """``url`` without a slash or ``/v1`` at its end. Raises ValueError with what is wrong with it."""
    checks.text("the URL", url)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of a mailfarm; write for example http://127.0.0.1:8025")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a query or fragment; write for example http://127.0.0.1:8025")
    try:
        _ = parts.port
    except ValueError:
        wrong = (
            f"the port of {url!r} is not a number up to {checks.LARGEST_PORT}; write for example http://127.0.0.1:8025"
        )
        raise ValueError(wrong) from None
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def segment(text: str) -> str:
    """``text`` as one segment of a path."""
    return quote(text, safe="")
