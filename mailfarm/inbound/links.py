"""The links of a message, from its HTML and from its text, each URL once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mailfarm.mailboxes.content import Link
from mailfarm.mailboxes.visible import LONGEST_URL, MOST_LINKS

_URL = re.compile(r"[hH](?<!\w[hH])[tT][tT][pP][s\u017fS]?://[^\s<>\"'`{}|\\^\x00-\x1f]+")  # begins with what is rare
_TAIL = ".,;:!?*_~"
_PAIRS = {")": "(", "]": "[", "»": "«", "”": "“", "’": "‘"}
MOST_TRIMMED = 50


def in_text(text: str) -> Iterable[Link]:
    """The bare URLs in a text. What follows one as punctuation does not belong to it."""
    for match in _URL.finditer(text):
        if match.end() - match.start() > LONGEST_URL:
            continue
        url = _trim(match[0])
        if len(url) > len("https://"):
            yield Link(url, url)


def _trim(url: str) -> str:
    for _ in range(MOST_TRIMMED):
        last = url[-1:]
        if not (last and (last in _TAIL or (last in _PAIRS and url.count(last) > url.count(_PAIRS[last])))):
            break
        url = url[:-1]
    return url


def links(html_links: Iterable[Link], text: str) -> tuple[Link, ...]:
    """``html_links``, then those of ``text`` that are not among them."""
    found: dict[str, Link] = {}
    for link in html_links:
        # the same link is often a picture first and words later: keep the one with words
        if link.url not in found or (link.text and not found[link.url].text):
            found[link.url] = link
    for link in in_text(text):
        if len(found) >= MOST_LINKS:
            break
        found.setdefault(link.url, link)
    return tuple(found.values())[:MOST_LINKS]
