"""The farm of the commands: from the environment, and what is asked of it where a command line does not say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from . import checks, sending, trust
from .errors import ApiError, CannotConnect
from .telling import MAILBOX

if TYPE_CHECKING:
    from .client import Farm

URL: Final = "http://127.0.0.1:8025"
SOON: Final = 3.0
"""Seconds a server may take to say where it takes mail, before we try the usual port."""


def open_farm(timeout: float | None = None) -> Farm:
    """The farm that MAILFARM_URL, MAILFARM_TOKEN or MAILFARM_TOKEN_FILE, and MAILFARM_CA name. Raises Unusable."""
    from .client import TIMEOUT, Farm  # late: --help needs no HTTP

    name, token = "MAILFARM_TOKEN", os.environ.get("MAILFARM_TOKEN")
    if path := os.environ.get("MAILFARM_TOKEN_FILE"):
        name, token = "MAILFARM_TOKEN_FILE", sending.read(Path(path)).decode("utf-8", "replace").strip()
    try:
        checks.token(token)
    except ValueError as error:
        raise sending.Unusable(f"{name}: {error}") from None
    authority = authorities()
    try:
        return Farm(os.environ.get("MAILFARM_URL") or URL, token, timeout=timeout or TIMEOUT, ca=authority)
    except ValueError as error:
        raise sending.Unusable(f"MAILFARM_URL: {error}") from None


def authorities() -> str | None:
    """The file that MAILFARM_CA names, if it does. Raises Unusable."""
    path = os.environ.get("MAILFARM_CA") or None
    try:
        trust.context(path)
    except ValueError as error:
        raise sending.Unusable(f"MAILFARM_CA: {error}") from None
    return path


def default_mailbox(farm: Farm) -> str:
    """The address of the default mailbox, as the server says. Raises CannotConnect."""
    try:
        said = farm.version().get("inbox")
    except ApiError:  # an older server, or one that tells nothing without a token
        said = None
    return said if isinstance(said, str) and said else MAILBOX


def where_to_send() -> tuple[str, str]:
    """The URL of the capture port and the default mailbox, as the server at MAILFARM_URL says; else the usual ones."""
    from .verbs import smtp_places

    version: dict[str, object] = {}
    with open_farm(SOON) as farm:
        try:
            version = farm.version()
        except CannotConnect:
            return sending.CAPTURE, MAILBOX
        except ApiError:  # it may take mail all the same
            pass
    url = urlsplit(farm.url)
    said, inbox = version.get("smtp"), version.get("inbox")
    listeners = said if isinstance(said, dict) else {}
    places = smtp_places(listeners, url.hostname or "127.0.0.1", public=url.scheme == "https")
    shown = f"[{places.host}]" if ":" in places.host else places.host
    return f"smtp://{shown}:{places.port}", inbox if isinstance(inbox, str) and inbox else MAILBOX
