"""Told of a message before its summary is read: that it cannot meet the criteria.

A summary is stored as JSON text. Each word of a criterion that looks for a part (``match.fold``) must stand somewhere
in that text, folded: reading a summary and holding the matcher against it takes forty times as long as looking for
that. What passes the sieve is judged; a word that JSON would write otherwise, or that may stand across two members, is
not looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .match import Criteria, fold


class Sieve:
    """For ``criteria``; true if it can keep anything back."""

    __slots__ = ("_words",)

    def __init__(self, criteria: Criteria) -> None:
        parts = [criteria.subject]
        parts += [who for who, key in ((criteria.from_, criteria.from_key), (criteria.to, criteria.to_key)) if not key]
        words = {word for part in parts for word in fold(part).split(" ") if word and _plain(word)}
        self._words = tuple(sorted(words, key=len, reverse=True))  # the longest is the rarest

    def __bool__(self) -> bool:
        return bool(self._words)

    def passes(self, summary: str) -> bool:
        """Whether the message of this summary may meet the criteria."""
        folded = summary.casefold()
        return all(word in folded for word in self._words)

    def passed(self, rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
        """Those rows that may; their last column is the summary. The longest word alone keeps most of them back."""
        longest = self._words[0]
        some = [row for row in rows if longest in row[-1].casefold()]
        return some if len(self._words) == 1 else [row for row in some if self.passes(row[-1])]


def _plain(word: str) -> bool:
    """Whether JSON writes it as it is, and the matcher finds it in one member alone: ``name <address>`` is two."""
    return not any(character in '<>"\\' or character < " " for character in word)
