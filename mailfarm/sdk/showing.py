"""Messages and lists on a terminal, for the commands and for the report of a failing test.

What strangers wrote has its control characters escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .plain import line, plain_lines
from .values import Person, form_of

if TYPE_CHECKING:
    from .inbox import Message


def describe(mail: Message) -> list[str]:
    """A message as a person wants to see it: who, what, when, what there is to click and to type, the text."""
    rows = [
        ("From", line(str(mail.from_ or ""), 200)),
        ("To", _people(mail.to)),
        ("Cc", _people(mail.cc)),
        ("Subject", line(mail.subject, 300)),
        ("Received", mail.received_at.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")),
        ("Envelope", line(f"{mail.sender or '<>'} -> {', '.join(mail.recipients)}", 300)),
        ("Id", f"{mail.id}  (change {mail.seq}, {mail.size} octets)"),
        ("Code", line(", ".join(mail.codes), 200)),
    ]
    rows += [("Link", line(link, 500) + (f"  ({line(link.text, 60)})" if link.text else "")) for link in mail.links]
    rows += [
        (
            "File",
            f"{line(each.filename or '(no name)')}  ({line(each.content_type)}, {each.size} octets, part {each.n})",
        )
        for each in mail.attachments
    ]
    shown = [f"{name + ':':10}{value}" for name, value in rows if value]
    if mail.text:
        return [*shown, "", *plain_lines(mail.text).rstrip().split("\n")]
    return [*shown, "", "(no text part; the HTML begins)", line(mail.html[:2000], 500)] if mail.html else shown


def print_message(mail: Message) -> None:
    """The same on standard output."""
    print("\n".join(describe(mail)))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Columns as wide as they need; the last is not padded. ``empty`` goes to standard error when there are no rows."""
    if not rows:
        print(empty, file=sys.stderr)
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def body(text: str) -> str:
    """Text as it may be shown: as it is where the output is no terminal, else with its control characters escaped."""
    return plain_lines(text) if sys.stdout.isatty() else text


def write_octets(content: bytes) -> None:
    """Octets as they are; on a terminal as text with control characters escaped."""
    if sys.stdout.isatty():
        print(plain_lines(content.decode("utf-8", "backslashreplace")))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def message_form(mail: Message) -> dict[str, Any]:
    """Everything the API says of it, and its header fields."""
    fields = [list(each) for each in mail.headers.fields]
    form: dict[str, Any] = {**form_of(mail.summary), **form_of(mail.detail), "headers": fields}
    return form


def _people(people: Sequence[Person]) -> str:
    return line(", ".join(map(str, people)), 300)
