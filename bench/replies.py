"""Is this the reply that was waited for? Replies of one line or many, held against the command they answer."""

from __future__ import annotations

from smtp_dialog import EXPECTED, SUBJECTS

_LONGEST = 4096


def end_of(data: bytes, start: int = 0) -> int:
    """Where the reply that begins at ``start`` ends; 0 if it is not whole yet."""
    while end := data.find(b"\n", start) + 1:
        if data[start + 3 : start + 4] != b"-":
            return end
        start = end
    return 0


def fault(kind: str, reply: bytes, whole: bool = True) -> str:
    """What is wrong with a reply to a command of this kind, or nothing. See ``dialog`` for what is checked. Of one that
    is not whole yet only the lines that are."""
    lines = reply.splitlines(keepends=True)
    part = b"" if whole or not lines or lines[-1].endswith(b"\n") else lines.pop()
    if len(part) > _LONGEST:
        return f"a reply line of more than {_LONGEST:,} octets"
    for line in lines:
        if line[:3] != EXPECTED[kind] or line[3:4] not in (b" ", b"-", b"\r", b"\n"):
            return f"wrong code in answer to {kind}: {line[:80]!r}"
        if not line.endswith(b"\r\n"):
            return f"a reply line without CR LF in answer to {kind}: {line[:80]!r}"
        if line[4:6] == b"2." and kind in SUBJECTS and not line[4:].startswith(SUBJECTS[kind]):
            return f"out of order, in answer to {kind}: {line[:80]!r}"
    return ""


def offers(reply: bytes) -> set[str]:
    """The keywords an answer to EHLO offers."""
    lines = reply.decode("ascii", "replace").upper().splitlines()
    return {words[0] for line in lines if (words := line[4:].split())}
