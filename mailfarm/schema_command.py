"""``mailfarm schema``: bring the database's schema up to date, or say where it stands.

A database that is away is waited for, as at the first start of a cluster all begins at once. Exit codes: 0 the schema
is one this version can work with, 1 it is not or the database did not come, 2 the URL is wrong.
"""

from __future__ import annotations

import sys
import time
from functools import partial

from .backends.postgres_schema import look
from .backends.postgres_schema import migrate as run
from .config import FarmSettings
from .errors import ConfigurationError, DatabaseUnavailable, MailfarmError

SAY = 5.0
"""Seconds between two lines while it waits."""
AGAIN = 0.5

_say = partial(print, flush=True)


def check(farm: FarmSettings) -> int:
    """Say where it stands."""
    try:
        standing = look(farm.database_url, farm.database_password)
    except MailfarmError as error:
        return _tell(error)
    _say(standing.text)
    return 0 if standing.state == "ready" else 1


def migrate(farm: FarmSettings, wait: float) -> int:
    """Bring it up to date; wait for at most so many seconds until the database answers."""
    until = time.monotonic() + wait
    said = 0.0
    while True:
        try:
            run(farm.database_url, farm.database_password, _say)
            return 0
        except DatabaseUnavailable as error:
            now = time.monotonic()
            if now >= until:
                return _tell(error)
            if now - said >= SAY:
                said = now
                print(f"mailfarm schema: waiting: {error}", file=sys.stderr, flush=True)
            time.sleep(AGAIN)
        except MailfarmError as error:
            return _tell(error)


def _tell(error: MailfarmError) -> int:
    print(f"mailfarm schema: {error}", file=sys.stderr)
    return 2 if isinstance(error, ConfigurationError) else 1
