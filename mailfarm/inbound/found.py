"""Links and one-time codes, found when a message is read rather than when it is filed.

They can be found again at any time in the texts that are stored, most messages are never asked for them, and in 4 KB
they cost as much as all the rest of parsing (``bench/parse.py``). And what is learnt about codes holds for mail that
came before.
"""

from __future__ import annotations

from mailfarm.mailboxes.content import Found
from mailfarm.mailboxes.visible import visible

from .codes import codes
from .links import links


def find(subject: str, text: str, html: str) -> Found:
    """What there is in a message's texts. Linear time: about 20 ms for a megabyte, so not on the reactor then."""
    shown, html_links = visible(html) if html else ("", ())
    return Found(links(html_links, f"{text}\n{shown}"), codes((subject, text, shown)))
