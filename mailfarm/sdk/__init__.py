"""The client library: wait for mail in a test, instead of sleeping and hoping.

    from mailfarm.sdk import Farm

    with Farm("http://127.0.0.1:8025") as farm:
        inbox = farm.create_mailbox()            # its own address, and its own SMTP user and password
        ...                                      # the app under test sends to inbox.address
        mail = inbox.wait_for(subject="Reset", timeout=5)
        mail.link("reset"); mail.code(); mail.attachments[0].content

Three clients with the same verbs and the same errors: ``Farm`` blocks, ``AsyncFarm`` is for asyncio, and
``mailfarm.sdk.twisted.TwistedFarm`` gives Deferreds. What differs is only how the parts of a message are fetched:

=====================  ===============================  ==================================================
``Farm``               ``mail.text``                    fetched when first asked for
``AsyncFarm``,         ``mail.text``                    there, for messages from a wait; for those from
``TwistedFarm``                                         ``messages()`` and events, ``await mail.load()``
all                    ``attachment.read()``,           the bytes; to be awaited in the latter two
                       ``mail.read_raw()``
=====================  ===============================  ==================================================

With pytest the fixtures ``farm`` and ``inbox`` are there without an import; see ``mailfarm.sdk.pytest_plugin``.
Nothing is imported until it is used, and nothing of mailfarm outside this folder ever is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    AddressTaken,
    ApiError,
    CannotConnect,
    FarmError,
    NoSuchMailbox,
    NoSuchMessage,
    NotAllowed,
    NotInMessage,
    NotLoaded,
    UnexpectedMessage,
    WaitTimeout,
)

if TYPE_CHECKING:
    from .aio import AsyncFarm
    from .aio_inbox import AsyncInbox, AsyncMessage
    from .client import Farm
    from .inbox import Inbox, Message

__all__ = [
    "AddressTaken",
    "ApiError",
    "AsyncFarm",
    "AsyncInbox",
    "AsyncMessage",
    "CannotConnect",
    "Farm",
    "FarmError",
    "Inbox",
    "Message",
    "NoSuchMailbox",
    "NoSuchMessage",
    "NotAllowed",
    "NotInMessage",
    "NotLoaded",
    "UnexpectedMessage",
    "WaitTimeout",
]

_LATE = {
    "AsyncFarm": ".aio",
    "AsyncInbox": ".aio_inbox",
    "AsyncMessage": ".aio_inbox",
    "Farm": ".client",
    "Inbox": ".inbox",
    "Message": ".inbox",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name], __name__), name)
