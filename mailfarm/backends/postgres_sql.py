"""The SQL of the house, with ``?`` for each parameter, as psycopg2 takes it.

psycopg2 writes values into the statement's text (there are no bound parameters in its protocol), bytes as two hex
digits each. What is many goes in binary (``postgres_pipeline``, ``postgres_copy``). A text that PostgreSQL cannot store
is found out: U+0000 and lone surrogates become U+FFFD. Nothing that must stay byte for byte is ever text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_PIECES = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*")|(\?)|(%)""")
_SURROGATES = re.compile("[\x00\ud800-\udfff]")


@lru_cache(1024)
def translated(sql: str) -> str:
    """``sql`` with ``%s`` for each ``?`` outside quotes, and every other percent sign doubled."""

    def piece(match: re.Match[str]) -> str:
        quoted, mark, _ = match.groups()
        if quoted:
            return quoted.replace("%", "%%")
        return "%s" if mark else "%%"

    return _PIECES.sub(piece, sql)


def clean(value: Any) -> Any:
    """The value, if it is text without what PostgreSQL cannot store."""
    return _SURROGATES.sub("\ufffd", value) if isinstance(value, str) else value
