"""Problems: what HTTP and WebSocket clients are told when something is refused (RFC 9457).

One table: name, status, title, what to do. ``type`` is ``/v1/problems/<name>``, a page that shows the row. The detail
says what was wrong with this very request; it never holds a secret or a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "2"


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table. ``advice`` is for the person who reads the page of the problem."""

    name: str
    status: int
    title: str
    advice: str


_TABLE = (
    Kind("bad-request", 400, "The request is not valid HTTP for this service", "Change what the detail names."),
    Kind("invalid-json", 400, "The body is not valid JSON", "The detail says at which line and column; send UTF-8."),
    Kind("invalid-value", 400, "A parameter or member has a value it cannot have", "The detail names it and its rule."),
    Kind("unknown-name", 400, "There is no such parameter or member", "The member known lists those there are."),
    Kind("unauthenticated", 401, "A valid token is needed", "Send the header Authorization: Bearer <token>."),
    Kind("foreign-origin", 403, "Another web site may not use this service", "Open the inbox under its own address."),
    Kind(
        "scope-missing",
        403,
        "The token does not allow this",
        "Use a token that has the scope named in the member scope.",
    ),
    Kind("not-found", 404, "There is no such thing", "Check the id. Ended and deleted things are gone."),
    Kind("no-such-route", 404, "There is nothing at this path", "See /v1/openapi.json for what there is."),
    Kind("method-not-allowed", 405, "This path does not take that method", "The Allow header lists those it takes."),
    Kind(
        "wait-timed-out",
        408,
        "The messages did not come in time",
        "The members near_misses and refusals say what did come.",
    ),
    Kind("request-timeout", 408, "The request did not come in time", "Send it whole within the seconds of the detail."),
    Kind("conflict", 409, "The address is taken", "Choose another address, or leave it out and get a free one."),
    Kind("not-set-aside", 409, "The entry was not set aside", "It is being worked on, or will be: leave it alone."),
    Kind(
        "too-many-messages",
        409,
        "More messages matched than were asked for",
        "The member messages lists those that matched.",
    ),
    Kind(
        "cursor-too-old",
        410,
        "Changes after this cursor are no longer kept",
        "List the mailbox; follow from the cursor of that list's first page.",
    ),
    Kind("body-too-large", 413, "The body is too large", "Send less at a time."),
    Kind("uri-too-long", 414, "The address of the request is too long", "Ask for less in one request."),
    Kind("not-json", 415, "The body must be application/json", "Send the header Content-Type: application/json."),
    Kind(
        "wrong-host",
        421,
        "The Host header names none of this service's names",
        "Use localhost, or add the name to MAILFARM_API_HOSTS.",
    ),
    Kind("upgrade-required", 426, "This path speaks WebSocket", "Connect to it with ws: or wss:."),
    Kind(
        "too-many-requests",
        429,
        "Too many requests",
        "Try again after the seconds in Retry-After. The limits are this farm's own: mailfarm help limits.",
    ),
    Kind("too-many-waits", 503, "Too many waits and event streams are open", "End some, or try again later."),
    Kind("busy", 503, "Too many requests wait for their turn", "Try again after the seconds in Retry-After."),
    Kind("too-many-connections", 503, "Too many connections are open", "Close some, or try again later."),
    Kind("too-many-subscriptions", 400, "Too many subscriptions on one connection", "Unsubscribe, or connect again."),
    Kind("message-invalid", 400, "The message is not one of the protocol", "The protocol is in: mailfarm help live"),
    Kind(
        "internal-error",
        500,
        "An error inside mailfarm",
        "Search the log for the member incident, and please report it.",
    ),
    Kind("unavailable", 503, "The database does not answer", "Try again after the seconds in Retry-After."),
    Kind(
        "queue-unavailable",
        503,
        "The queue does not answer",
        "Try again after the seconds in Retry-After. Where api runs by itself, it must be given MAILFARM_QUEUE_URL.",
    ),
    Kind("stopping", 503, "The service is stopping", "Connect again; another one takes over."),
)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _TABLE}


class Problem(Exception):
    """Raised to answer with a problem. ``members`` go into the document, ``headers`` into the HTTP answer."""

    def __init__(
        self, name: str, detail: str, /, *, headers: Mapping[str, str] | None = None, status: int = 0, **members: Any
    ) -> None:
        super().__init__(detail)
        self.kind = KINDS[name]
        self.detail = detail
        self.headers: Mapping[str, str] = headers or {}
        self.status = status or self.kind.status
        self.members = members

    def document(self) -> dict[str, Any]:
        """The JSON form. The standard members come first (RFC 9457 §3.1)."""
        return {
            "type": f"/v1/problems/{self.kind.name}",
            "title": self.kind.title,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }
