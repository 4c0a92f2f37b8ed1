"""The JSON forms the API answers with, as JSON Schema (draft 2020-12), by name.

The tests check every answer they get against these.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
MOMENT: Schema = {"type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00.000000Z"]}
ID: Schema = {"type": "string", "pattern": "^[0-9a-z]{26}$", "examples": ["01kf7w2m9xq4t6z8b0c2d4e6f8"]}
CURSOR: Schema = {**COUNT, "description": "The last change considered for this answer: give it as `after`."}


def named(name: str) -> Schema:
    """A reference to a schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def maybe(schema: Schema) -> Schema:
    """This, or null."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def many(schema: Schema) -> Schema:
    """A list of these."""
    return {"type": "array", "items": schema}


def thing(about: str = "", optional: tuple[str, ...] = (), more: bool = False, /, **members: Schema) -> Schema:
    """An object with these members, all of them unless they are optional. A final ``_`` is dropped from names."""
    names = {name.rstrip("_"): schema for name, schema in members.items()}
    found: Schema = {"type": "object", "properties": names}
    found["required"] = [name for name in names if name not in optional]
    if not more:
        found["additionalProperties"] = False
    if about:
        found["description"] = about
    return found


def joined(first: Schema, about: str, **members: Schema) -> Schema:
    """``first`` with more members."""
    second = thing(about, **members)
    return {
        **second,
        "properties": {**first["properties"], **second["properties"]},
        "required": [*first["required"], *second["required"]],
    }


def more_members(problem: Schema, about: str, **members: Schema) -> Schema:
    """A problem with members of its own; others may be there, too."""
    found = joined(problem, about, **members)
    del found["additionalProperties"]
    return found


_PERSON = thing("A name, perhaps empty, and an address, as a header gives them.", name=TEXT, address=TEXT)

_SUMMARY = thing(
    "What a list shows of a message. `sender` and `recipients` are the envelope's, the rest the headers'.",
    id=ID,
    mailbox=ID,
    seq={**COUNT, "description": "The change number at which it was filed."},
    received_at=MOMENT,
    sender=TEXT,
    recipients=many(TEXT),
    from_=maybe(named("Person")),
    to=many(named("Person")),
    cc=many(named("Person")),
    subject=TEXT,
    snippet=TEXT,
    message_id=TEXT,
    size={**COUNT, "description": "Octets of the content as it was sent."},
    attachments=COUNT,
    seen=FLAG,
    duplicate_of=maybe(ID),
)

_MAILBOX = thing(
    "Where messages are kept.",
    id=ID,
    address=TEXT,
    kind={"type": "string", "enum": ["sandbox", "disposable", "permanent"]},
    cursor={**COUNT, "description": "The last change number given out."},
    messages=COUNT,
    unseen=COUNT,
    created_at=MOMENT,
    starts_at=MOMENT,
    ends_at=maybe(MOMENT),
    retention=maybe({**COUNT, "description": "Seconds a message is kept; null: as long as the mailbox."}),
)

_REFUSED = thing(
    "A recipient or message that was refused, with the last SMTP lines that led to it. Sampled, not durable. `mailbox`:"
    " where the mail would have gone, empty if that is not known. `address`: the recipient, empty if MAIL was refused.",
    type={"const": "refused"},
    id=ID,
    account=TEXT,
    at=MOMENT,
    service=TEXT,
    client=TEXT,
    address=TEXT,
    sender=TEXT,
    code={"type": "integer"},
    enhanced=TEXT,
    text=TEXT,
    lines=many(TEXT),
    mailbox=TEXT,
)

_PART = thing(
    "A MIME part. `n` is its number in `/v1/messages/{id}/parts/{n}`.",
    (),
    n=COUNT,
    parent=maybe(COUNT),
    content_type=TEXT,
    charset=TEXT,
    filename=TEXT,
    disposition=TEXT,
    content_id=TEXT,
    encoding=TEXT,
    size=maybe(COUNT),
    attachment=FLAG,
)

_ENVELOPE = thing(
    "Sender and recipients as SMTP said them.",
    sender=TEXT,
    recipients=many(thing(address=TEXT, notify=many(TEXT), orcpt=maybe(TEXT))),
    body={"type": "string", "enum": ["7BIT", "8BITMIME", "BINARYMIME"]},
    smtputf8=FLAG,
    ret=maybe(TEXT),
    envid=maybe(TEXT),
)

_ORIGIN = thing(
    "Where the message came from.",
    service=TEXT,
    client=TEXT,
    port=COUNT,
    helo=TEXT,
    protocol=TEXT,
    tls=TEXT,
    credential=TEXT,
)

_DEPTH: dict[str, Schema] = {
    "waiting": COUNT,
    "leased": COUNT,
    "aside": COUNT,
    "oldest_seconds": maybe(
        {"type": "number", "minimum": 0, "description": "For how long the oldest that waits has waited."}
    ),
}

_ENTRY = thing(
    "Mail between its 250 and its mailbox. `lease_ends_at`: until when a worker has it to itself, and the work of one "
    "that died begins again. `waits_until`: before then it is not tried again. `reason`: of the last failure. "
    "`holder` (host/process) and `shard` are empty without the scope queue:all.",
    id=ID,
    state={"type": "string", "enum": ["waiting", "leased", "aside"]},
    account=TEXT,
    put_at=MOMENT,
    age_seconds={"type": "number", "minimum": 0},
    tries=COUNT,
    size={**COUNT, "description": "Octets of the content as it was sent."},
    sender=TEXT,
    recipients=many(TEXT),
    reason=TEXT,
    lease_ends_at=maybe(MOMENT),
    waits_until=maybe(MOMENT),
    holder=TEXT,
    shard=TEXT,
)

_CHANGE = {"id": ID, "account": TEXT, "mailbox": ID, "seq": COUNT, "at": MOMENT}

_PROBLEM = thing(
    "A problem (RFC 9457). `type` is a page that says more.",
    (),
    True,
    type=TEXT,
    title=TEXT,
    status={"type": "integer", "minimum": 400, "maximum": 599},
    detail=TEXT,
)

_CRITERIA = thing(
    "What was waited for: what was given, one of `count`, `exact` and `none`, and `after` and `timeout` always.",
    ("from", "to", "subject", "contains", "count", "exact", "none"),
    from_=TEXT,
    to=TEXT,
    subject=TEXT,
    contains=TEXT,
    count=COUNT,
    exact=COUNT,
    none={"const": True},
    after=COUNT,
    timeout={"type": "number", "description": "Seconds."},
)

_TOKEN = thing(
    "A token without its text.",
    id=ID,
    name=TEXT,
    scopes=many(TEXT),
    created_at=MOMENT,
    expires_at=maybe(MOMENT),
    revoked_at=maybe(MOMENT),
)

SCHEMAS: dict[str, Schema] = {
    "Person": _PERSON,
    "Summary": _SUMMARY,
    "Mailbox": _MAILBOX,
    "NewMailbox": joined(
        _MAILBOX,
        "A mailbox just made, with its own SMTP user and password. The password is shown this once.",
        smtp=named("SmtpLogin"),
    ),
    "SmtpLogin": thing("An SMTP user and password. The password is shown this once.", user=TEXT, password=TEXT),
    "MailboxPage": thing(mailboxes=many(named("Mailbox")), next=maybe(ID)),
    "MessagePage": thing(messages=many(named("Summary")), cursor=CURSOR, next=maybe(COUNT)),
    "Message": joined(
        _SUMMARY,
        "A message with its texts, parts, links, codes, envelope and origin.",
        reply_to=many(named("Person")),
        date=maybe(TEXT),
        text=TEXT,
        html={**TEXT, "description": "As it came: never show it unsanitised."},
        text_truncated=FLAG,
        html_truncated=FLAG,
        links=many(thing(url=TEXT, text=TEXT)),
        codes=many(TEXT),
        parts=many(named("Part")),
        envelope=named("Envelope"),
        origin=named("Origin"),
        findings=many(TEXT),
    ),
    "Part": _PART,
    "Envelope": _ENVELOPE,
    "Origin": _ORIGIN,
    "Headers": thing(headers=many({"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2})),
    "Changed": thing(changed=COUNT, cursor=CURSOR),
    "Gone": thing(deleted=COUNT, cursor=CURSOR),
    "Filed": thing(
        "`gone`: the message has been deleted since; of `message` only `id`, `mailbox` and `seq` are true then.",
        ("gone",),
        type={"const": "filed"},
        message=named("Summary"),
        gone={"const": True},
        **_CHANGE,
    ),
    "Seen": thing(type={"const": "seen"}, messages=many(ID), seen=FLAG, **_CHANGE),
    "Deleted": thing(type={"const": "deleted"}, messages=many(ID), **_CHANGE),
    "Expired": thing(type={"const": "expired"}, messages=many(ID), **_CHANGE),
    "Event": {"oneOf": [named("Filed"), named("Seen"), named("Deleted"), named("Expired")]},
    "EventPage": thing(events=many(named("Event")), cursor=CURSOR),
    "Found": thing(messages=many(named("Summary")), cursor=CURSOR),
    "Refused": _REFUSED,
    "Refusals": thing(refusals=many(named("Refused"))),
    "QueueDepth": thing(
        "How much is in the queue, of all accounts. `shards`: of each server; one that does not answer is not counted "
        "in the whole, and `why` says why.",
        shards=many(joined(thing(**{name: maybe(schema) for name, schema in _DEPTH.items()}), "", name=TEXT, why=TEXT)),
        **_DEPTH,
    ),
    "QueueEntry": _ENTRY,
    "QueueEntries": thing(
        "`more`: there are more in this state.",
        entries=many(named("QueueEntry")),
        more=FLAG,
    ),
    "Session": thing(
        "`auth`: whether anybody has to sign in. `name`, `scopes` and `expires_at` are the session's, if there is one.",
        auth={"type": "string", "enum": ["none", "token"]},
        signed_in=FLAG,
        name=maybe(TEXT),
        scopes=many(TEXT),
        expires_at=maybe(MOMENT),
    ),
    "Token": _TOKEN,
    "NewToken": joined(_TOKEN, "A token just made. Its text is shown this once.", token=TEXT),
    "TokenPage": thing(tokens=many(named("Token")), next=maybe(ID)),
    "Health": thing(status={"type": "string", "enum": ["ok", "stopping"]}),
    "Version": thing(
        "`smtp`: where mail is taken to be captured, `host:port` by kind of listener. `inbox`: the address of the "
        "mailbox for mail that is for no other.",
        ("smtp", "inbox"),
        name=TEXT,
        version=TEXT,
        smtp={"type": "object", "additionalProperties": TEXT},
        inbox=TEXT,
    ),
    "ProblemKind": thing(type=TEXT, title=TEXT, status={"type": "integer"}, advice=TEXT),
    "ProblemKinds": thing(problems=many(named("ProblemKind"))),
    "OpenApi": thing("This document.", (), True, openapi=TEXT, info={"type": "object"}, paths={"type": "object"}),
    "Problem": _PROBLEM,
    "Criteria": _CRITERIA,
    "NearMiss": thing(
        "A message that came and did not match. `failed`: the criteria it does not meet.",
        message=named("Summary"),
        failed=many({"type": "string", "enum": ["from", "to", "subject", "contains"]}),
    ),
    "WaitProblem": more_members(
        _PROBLEM,
        "How a wait ended that was not met: `messages` are those that matched, `near_misses` those of the newest 200 "
        "that came nearest, `refusals` what was refused (empty without the scope refusals:read). To wait again, go on "
        "after `cursor`.",
        criteria=named("Criteria"),
        cursor=CURSOR,
        messages=many(named("Summary")),
        near_misses=many(named("NearMiss")),
        refusals=many(named("Refused")),
    ),
    "CursorProblem": more_members(
        _PROBLEM,
        "Changes after the cursor given are no longer kept. List the mailbox and follow from the `cursor` of the first "
        "page of that list.",
        oldest={**COUNT, "description": "The first change still kept."},
        cursor={**COUNT, "description": "The last change number given out."},
    ),
    "Readiness": thing(
        "`checks`: `ok`, or what is wrong, by what was checked. `waiting`: for what, while it starts.",
        ("waiting",),
        ready=FLAG,
        state={"type": "string", "enum": ["starting", "serving", "stopping"]},
        waiting=TEXT,
        checks={"type": "object", "additionalProperties": TEXT},
    ),
}
