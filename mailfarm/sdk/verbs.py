"""The verbs of a farm and of a mailbox, without I/O. See ``wire`` for how they are driven, ``waits`` for the waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from . import checks
from .errors import ApiError, NoSuchMailbox, NoSuchMessage
from .plain import line, quoted
from .values import Detail, Headers, MailboxState, Refusal, Smtp, Summary
from .wire import Request, Server, Steps, segment

Order = Literal["asc", "desc"]
PAGE: Final = 1000
CAPTURE_PORT: Final = 1025


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a message must be like; an empty member is not looked at. Text is compared without case.

    ``from_`` and ``to``: a full address equals the header's or the envelope's, anything else is part of
    ``name <address>``. ``subject`` is part of the subject, ``contains`` of the subject or the text.
    """

    from_: str = ""
    to: str = ""
    subject: str = ""
    contains: str = ""

    def __post_init__(self) -> None:
        checks.text("from_", self.from_)
        checks.text("to", self.to)
        checks.text("subject", self.subject)
        checks.text("contains", self.contains)

    def query(self) -> tuple[tuple[str, str], ...]:
        """As query parameters."""
        pairs = (("from", self.from_), ("to", self.to), ("subject", self.subject), ("contains", self.contains))
        return tuple((name, value) for name, value in pairs if value)

    def __str__(self) -> str:
        return ", ".join(f"{name} {quoted(value, 80)}" for name, value in self.query())


@dataclass(frozen=True, slots=True)
class Loaded:
    """A message as far as it has been fetched."""

    summary: Summary
    detail: Detail | None = None
    headers: Headers | None = None


@dataclass(slots=True)
class Verbs:
    """The verbs of one farm. ``clock`` gives monotonic seconds; ``smtp`` is asked of the server once."""

    server: Server
    clock: Callable[[], float]
    smtp: Smtp | None = None

    # The farm

    def version(self) -> Steps[dict[str, Any]]:
        """What the server says of itself."""
        response = yield from self.server.ask(Request("GET", "/v1/version"))
        found: dict[str, Any] = response.json()
        return found

    def where_smtp(self) -> Steps[Smtp]:
        """Where the server takes mail; where it does not say, the port everyone's configuration has."""
        if self.smtp is None:
            try:
                said = (yield from self.version()).get("smtp") or {}
            except ApiError:  # an older server, or a proxy that lets only /v1/mailboxes through
                said = {}
            url = urlsplit(self.server.url)
            self.smtp = smtp_places(said, url.hostname or "127.0.0.1", public=url.scheme == "https")
        return self.smtp

    def create_mailbox(
        self, address: str | None, kind: str | None, lifetime: float | None, retention: float | None
    ) -> Steps[tuple[MailboxState, Smtp]]:
        """Make a mailbox; its SMTP password is in this answer only."""
        wanted: dict[str, Any] = {}
        if address is not None:
            wanted["address"] = address
        if kind is not None:
            wanted["kind"] = kind
        if lifetime is not None:
            checks.span("lifetime", lifetime)
            wanted["lifetime"] = ceil(lifetime)
        if retention is not None:
            checks.span("retention", retention)
            wanted["retention"] = ceil(retention)
        response = yield from self.server.ask(Request("POST", "/v1/mailboxes", json=wanted))
        form = response.json()
        where = yield from self.where_smtp()
        secret = form.get("smtp") or {}
        smtp = Smtp(
            where.host, where.port, secret.get("user"), secret.get("password"), where.starttls_port, where.tls_port
        )
        return MailboxState.of(form), smtp

    def mailboxes(self) -> Steps[list[MailboxState]]:
        """All of the account's mailboxes."""
        found: list[MailboxState] = []
        after = ""
        while True:
            query = (("limit", str(PAGE)),) + ((("after", after),) if after else ())
            response = yield from self.server.ask(Request("GET", "/v1/mailboxes", query))
            form = response.json()
            found += map(MailboxState.of, form["mailboxes"])
            after = form.get("next") or ""
            if not after:
                return found

    def mailbox(self, which: str) -> Steps[MailboxState]:
        """One mailbox, by id or by address."""
        checks.text("the mailbox", which)
        if "@" not in which:
            if not checks.is_id(which):
                wrong = f"{quoted(which)} is neither an address nor the id of a mailbox (26 letters and digits)"
                raise NoSuchMailbox(wrong, status=404, problem={})
            response = yield from self.server.ask(Request("GET", f"/v1/mailboxes/{segment(which)}"), NoSuchMailbox)
            return MailboxState.of(response.json())
        query = (("address", which), ("limit", "1"))
        response = yield from self.server.ask(Request("GET", "/v1/mailboxes", query))
        for form in response.json()["mailboxes"]:
            return MailboxState.of(form)
        others = yield from self.server.ask(Request("GET", "/v1/mailboxes", (("limit", "5"),)))
        names = [line(form["address"], 80) for form in others.json()["mailboxes"]]
        there = f"there are {', '.join(names)}{', …' if len(names) == 5 else ''}" if names else "there is none at all"
        raise NoSuchMailbox(f"no mailbox has the address {quoted(which)}; {there}", status=404, problem={})

    def delete_mailbox(self, id: str) -> Steps[None]:
        """Delete a mailbox with everything in it."""
        yield from self.server.ask(Request("DELETE", f"/v1/mailboxes/{segment(id)}"), NoSuchMailbox)

    def refusals(self, path: str, query: tuple[tuple[str, str], ...]) -> Steps[list[Refusal]]:
        """What was refused, the oldest first."""
        response = yield from self.server.ask(Request("GET", path, query), NoSuchMailbox)
        return sorted(map(Refusal.of, response.json()["refusals"]), key=lambda refusal: refusal.at)

    # A mailbox

    def messages(
        self,
        mailbox: str,
        criteria: Criteria,
        *,
        seen: bool | None = None,
        after: int | None = None,
        before: int | None = None,
        order: Order = "asc",
        limit: int | None = None,
        load: bool = False,
    ) -> Steps[list[Loaded]]:
        """The messages that meet the criteria, page by page until there are ``limit`` or no more."""
        for name, value in (("after", after), ("before", before), ("limit", limit)):
            if value is not None:
                checks.whole(name, value)
        if order not in ("asc", "desc"):
            raise ValueError(f"order must be 'asc' or 'desc', not {order!r}")
        found: list[Summary] = []
        fixed = (*criteria.query(), ("order", order))
        if seen is not None:
            fixed += (("seen", "true" if seen else "false"),)
        while limit is None or len(found) < limit:
            page = PAGE if limit is None else min(PAGE, limit - len(found))
            query = (*fixed, ("limit", str(page)))
            query += (("after", str(after)),) if after is not None else ()
            query += (("before", str(before)),) if before is not None else ()
            request = Request("GET", f"/v1/mailboxes/{segment(mailbox)}/messages", query)
            form = (yield from self.server.ask(request, NoSuchMailbox)).json()
            found += map(Summary.of, form["messages"])
            more = form.get("next")
            if more is None:
                break
            if order == "asc":
                after = more
            else:
                before = more
        if not load:
            return [Loaded(summary) for summary in found]
        return (yield from self.load_all(found))

    def clear(self, mailbox: str) -> Steps[int]:
        """Delete all messages of a mailbox; how many there were."""
        request = Request("DELETE", f"/v1/mailboxes/{segment(mailbox)}/messages", json={"all": True})
        response = yield from self.server.ask(request, NoSuchMailbox)
        return int(response.json()["deleted"])

    def mark_all_seen(self, mailbox: str, seen: bool) -> Steps[int]:
        """Mark all messages of a mailbox; how many were changed."""
        request = Request("PATCH", f"/v1/mailboxes/{segment(mailbox)}/messages", json={"all": True, "seen": seen})
        response = yield from self.server.ask(request, NoSuchMailbox)
        return int(response.json()["changed"])

    # A message

    def load_all(self, summaries: Sequence[Summary]) -> Steps[list[Loaded]]:
        """Messages with their detail and headers."""
        found: list[Loaded] = []
        for summary in summaries:
            detail = yield from self.detail(summary.id)
            found.append(Loaded(summary, detail, (yield from self.headers(summary.id))))
        return found

    def message(self, id: str) -> Steps[Loaded]:
        """One message by its id."""
        checks.text("the id", id)
        if not checks.is_id(id):
            wrong = f"{quoted(id)} is not the id of a message (26 letters and digits)"
            raise NoSuchMessage(wrong, status=404, problem={})
        response = yield from self.server.ask(Request("GET", f"/v1/messages/{segment(id)}"), NoSuchMessage)
        form = response.json()
        return Loaded(Summary.of(form), Detail.of(form), (yield from self.headers(id)))

    def detail(self, id: str) -> Steps[Detail]:
        """Texts, links, codes and parts."""
        response = yield from self.server.ask(Request("GET", f"/v1/messages/{segment(id)}"), NoSuchMessage)
        return Detail.of(response.json())

    def headers(self, id: str) -> Steps[Headers]:
        """All header fields."""
        response = yield from self.server.ask(Request("GET", f"/v1/messages/{segment(id)}/headers"), NoSuchMessage)
        return Headers([(name, value) for name, value in response.json()["headers"]])

    def octets(self, id: str, what: str) -> Steps[bytes]:
        """``raw`` or ``parts/3``."""
        request = Request("GET", f"/v1/messages/{segment(id)}/{what}", accept="*/*")
        response = yield from self.server.ask(request, NoSuchMessage)
        return response.body

    def mark_seen(self, id: str, seen: bool) -> Steps[Summary]:
        """Mark one message."""
        request = Request("PATCH", f"/v1/messages/{segment(id)}", json={"seen": seen})
        response = yield from self.server.ask(request, NoSuchMessage)
        return Summary.of(response.json())

    def delete_message(self, id: str) -> Steps[None]:
        """Delete one message."""
        yield from self.server.ask(Request("DELETE", f"/v1/messages/{segment(id)}"), NoSuchMessage)


def smtp_places(said: dict[str, Any], host: str, public: bool = False) -> Smtp:
    """The listeners as the version tells them, ``{"capture": "127.0.0.1:1025"}``. An address that means "every
    address" is reached by the name in the server's URL. A ``public`` server that tells nothing has proxies before it,
    and listens on the ports of the RFCs."""
    if public and not said:
        return Smtp(host, 25, starttls_port=587, tls_port=465)
    places = {name: _place(str(where), host) for name, where in said.items() if str(where)[-1:].isdigit()}
    here, port = places.get("capture", (host, CAPTURE_PORT))
    starttls, tls = places.get("starttls"), places.get("tls")
    return Smtp(here, port, starttls_port=starttls and starttls[1], tls_port=tls and tls[1])


def _place(where: str, host: str) -> tuple[str, int]:
    name, _, port = where.rpartition(":")
    name = name.removeprefix("[").removesuffix("]")
    return (host if name in ("", "0.0.0.0", "::") else name), int(port)


def as_time(at: datetime) -> str:
    """A time as reports show it: hours, minutes and seconds of the day, UTC."""
    return at.strftime("%H:%M:%SZ")
