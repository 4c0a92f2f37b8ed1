"""How mailboxes and messages read in JSON; `mailfarm.events` has the form of a summary."""

from __future__ import annotations

from typing import Any

from mailfarm.events import person_form, rfc3339, summary_form

from .content import Found, StoredMessage
from .mailbox import Mailbox


def mailbox_form(mailbox: Mailbox) -> dict[str, Any]:
    """The JSON form of a mailbox."""
    return {
        "id": mailbox.id,
        "address": mailbox.address,
        "kind": mailbox.kind,
        "cursor": mailbox.cursor,
        "messages": mailbox.messages,
        "unseen": mailbox.unseen,
        "created_at": rfc3339(mailbox.created_at),
        "starts_at": rfc3339(mailbox.starts_at),
        "ends_at": None if mailbox.ends_at is None else rfc3339(mailbox.ends_at),
        "retention": mailbox.retention,
    }


def message_form(message: StoredMessage, found: Found) -> dict[str, Any]:
    """The JSON form of a message: its summary and everything but its bytes."""
    head, envelope, origin = message.head, message.envelope, message.origin
    return {
        **summary_form(message.summary),
        "reply_to": [person_form(person) for person in head.reply_to],
        "date": None if head.date is None else _date(head.date),
        "text": message.text,
        "html": message.html,
        "text_truncated": head.text_truncated,
        "html_truncated": head.html_truncated,
        "links": [{"url": link.url, "text": link.text} for link in found.links],
        "codes": list(found.codes),
        "parts": [
            {
                "n": part.n,
                "parent": part.parent,
                "content_type": part.content_type,
                "charset": part.charset,
                "filename": part.filename,
                "disposition": part.disposition,
                "content_id": part.content_id,
                "encoding": part.encoding,
                "size": part.size,
                "attachment": part.attachment,
            }
            for part in message.parts
        ],
        "envelope": {
            "sender": envelope.sender,
            "recipients": [
                {"address": one.address, "notify": list(one.notify), "orcpt": one.orcpt} for one in envelope.recipients
            ],
            "body": envelope.body,
            "smtputf8": envelope.smtputf8,
            "ret": envelope.ret,
            "envid": envelope.envid,
        },
        "origin": {
            "service": origin.service,
            "client": origin.client,
            "port": origin.port,
            "helo": origin.helo,
            "protocol": origin.protocol,
            "tls": origin.tls,
            "credential": origin.credential,
        },
        "findings": list(head.findings),
    }


def _date(microseconds: int) -> str | None:
    # a Date header may name a year that no calendar of ours has
    try:
        return rfc3339(microseconds)
    except OverflowError:
        return None
