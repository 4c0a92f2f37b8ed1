"""What PostgreSQL's errors mean for a unit (SQLSTATE: appendix A of its manual).

============================  =====================================================================================
40001, 40P01, 23514 without   another unit was in the way: nothing of this one is kept, it is run again
a constraint's name
08xxx, 57P0x, no code at all  the connection is gone: run again, unless COMMIT was sent
53xxx, 55xxx, 58xxx, 25006,   PostgreSQL cannot do it now: DatabaseUnavailable. A right that was taken away or never
42501, 3D000, 28xxx           given (42501) concerns everything, and whoever gives it back should find the mail waiting
55P03, 57014, XXxxx           PostgreSQL cannot do this, and perhaps others: a row is locked, a statement takes too
                              long, a page is damaged: RowsUnavailable
42P01, 42703, 3F000           the schema is not the one this program was written for: DatabaseUnavailable, as mail
                              must wait for ``mailfarm schema`` and not be set aside
everything else               a rule of the schema or a mistake in the SQL: raised as it is
============================  =====================================================================================

The texts are PostgreSQL's own first lines. What follows them (DETAIL, and LINE with the statement) can hold mail and is
left out.
"""

from __future__ import annotations

import psycopg2

from mailfarm.errors import DatabaseUnavailable, RowsUnavailable

CONFLICTS = {"40001": "conflict", "40P01": "deadlock"}
_LOST = ("08", "57P0")
_PARTLY = ("55P03", "57014", "XX")
_AWAY = ("53", "55", "58", "42501", "3D000", "28")
_OLD_SCHEMA = ("42P01", "42703", "3F000")


class Again(DatabaseUnavailable):
    """The unit was not kept and may be run again. ``why`` is conflict, deadlock or lost."""

    def __init__(self, why: str, text: str) -> None:
        super().__init__(text)
        self.why = why


class ReadOnly(DatabaseUnavailable):
    """The server, or this transaction, cannot be written."""


def first_line(error: BaseException) -> str:
    """The error's own words, without the statement and its values."""
    diag = getattr(error, "diag", None)
    text = getattr(diag, "message_primary", None) or str(error).strip().partition("\nLINE ")[0].replace("\n", "; ")
    return " ".join(text.split()) or type(error).__name__


def meaning(error: psycopg2.Error, lost: bool) -> Exception:
    """The exception to raise for what psycopg2 raised. ``lost``: the connection cannot be used any more."""
    code = error.pgcode or ""
    text = first_line(error)
    if code in CONFLICTS:
        return Again(CONFLICTS[code], text)
    if code == "23514" and not error.diag.constraint_name:
        # no check of ours: a partition was made while a row for it was on its way to content_rest
        return Again("conflict", text)
    if lost or code.startswith(_LOST):
        return Again("lost", f"the connection to PostgreSQL was lost ({text})")
    if code == "25006":
        return ReadOnly(f"PostgreSQL cannot be written ({text})")
    if code.startswith(_PARTLY):
        return RowsUnavailable(f"PostgreSQL cannot do this now ({text}, SQLSTATE {code})")
    if code.startswith(_AWAY):
        return DatabaseUnavailable(f"PostgreSQL cannot do this now ({text}, SQLSTATE {code})")
    if code.startswith(_OLD_SCHEMA):
        return DatabaseUnavailable(
            f"the database's schema is not what this mailfarm needs ({text}): run `mailfarm schema`"
        )
    return error
