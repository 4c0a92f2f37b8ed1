"""Requests that stay open, waits and event streams, last no longer than the token or session they came with.

Its revocation is heard on the bus and ends them at once; should the bus have lost it, or should it simply expire, a
look every ``RECHECK`` seconds does. While the database does not answer nothing ends: as everywhere, who is known stays
so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from twisted.internet.defer import DeferredList
from twisted.internet.task import LoopingCall

from mailfarm.accounts.bearer import Caller
from mailfarm.net.lookups import Lookups
from mailfarm.net.problems import Problem

RECHECK: Final = 5.0
AT_ONCE: Final = 100
"""Tokens asked for at once in a look."""


class Lasting:
    """Who is waiting, by the digest of what each has shown. ``tokens`` says whether one still holds."""

    def __init__(self, tokens: Lookups[bytes, Caller | None], reactor: Any) -> None:
        self._tokens = tokens
        self._open: dict[bytes, dict[Callable[[], None], Caller]] = {}
        self._recheck = LoopingCall(self._look)
        self._recheck.clock = reactor

    def start(self) -> None:
        """Begin to look."""
        self._recheck.start(RECHECK, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._recheck.running:
            self._recheck.stop()

    @contextmanager
    def until_ended(self, digest: bytes, caller: Caller, end: Callable[[], None]) -> Iterator[None]:
        """``end`` is called when the token with this digest, which is ``caller``'s, has ended; perhaps twice."""
        together = self._open.setdefault(digest, {})
        together[end] = caller
        try:
            yield
        finally:
            del together[end]
            if not together and self._open.get(digest) is together:
                del self._open[digest]

    def revoked(self, id: str) -> None:
        """The token or session with this id has ended."""
        for together in tuple(self._open.values()):
            for end, caller in tuple(together.items()):
                if id in (caller.token, caller.session):
                    end()

    async def _look(self) -> None:
        """A look that fails is not the last one."""
        digests = tuple(self._open)
        for start in range(0, len(digests), AT_ONCE):
            some = digests[start : start + AT_ONCE]
            answers = await DeferredList([self._tokens.ask(digest) for digest in some], consumeErrors=True)
            for digest, (answered, caller) in zip(some, answers, strict=True):
                if answered and caller is None:
                    for end in tuple(self._open.get(digest, ())):
                        end()


def ended() -> Problem:
    """What is told to those whose wait the end of their token has ended."""
    return Problem(
        "unauthenticated", "the token has ended", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
    )
