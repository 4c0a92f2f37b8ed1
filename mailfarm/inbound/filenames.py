"""Attachment names as something to save under: one name in one folder on any system, whatever the sender wrote."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 255
"""Octets in UTF-8: the limit of most file systems."""

_DRIVE = re.compile(r"^[A-Za-z]:")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_BAD = re.compile(r'[<>:"|?*]')


def safe(name: str) -> str:
    """``name`` without folders, drive letters, control and direction characters, or dots in front; perhaps empty."""
    name = name[:4096].replace("\\", "/").rpartition("/")[2]
    # Cf holds the right-to-left override, which shows exe.txt where txt.exe is
    name = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    name = _BAD.sub("_", _DRIVE.sub("", name)).strip(". ")
    if _RESERVED.fullmatch(name):
        name = "_" + name
    if len(name.encode()) > LONGEST:
        stem, dot, ending = name.rpartition(".")
        tail = (dot + ending).encode() if stem and len(ending.encode()) <= 20 else b""
        stem = stem if tail else name
        name = (stem.encode()[: LONGEST - len(tail)] + tail).decode("utf-8", "ignore")
    return name
