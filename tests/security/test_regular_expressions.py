"""No regular expression takes longer than in proportion to what a stranger gives it (CWE-1333).

Every pattern that the services and the SDK compile is found by importing it, how it is used (``match``, ``search``, …)
by reading the source, and each is fed texts that make a matcher go back: one or two pieces repeated, behind a beginning
and before an end that fits nothing.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import mailfarm

HOUSE = Path(mailfarm.__file__).parent
USES: dict[str, Callable[[re.Pattern[Any], Any], object]] = {
    "match": lambda pattern, text: pattern.match(text),
    "fullmatch": lambda pattern, text: pattern.fullmatch(text),
    "search": lambda pattern, text: pattern.search(text),
    "finditer": lambda pattern, text: sum(1 for _ in pattern.finditer(text)),
    "findall": lambda pattern, text: pattern.findall(text),
    "sub": lambda pattern, text: pattern.sub(text[:0], text),
    "split": lambda pattern, text: pattern.split(text),
}
PIECES = (
    " ", "a", "1", "A", "\n", "\r\n", '"', "'", "<", "(", ";", "=", "?", "@", ".", "/*", "\\", "=?a?q?", "&", "url(",
    "<a ", "-", "://", ":", "[", "{", ",", "\t", "<style", "+", "%", "_", "http://", "code ", "é",
)  # fmt: skip
BEGINNINGS = ("", "<", '"', '<a "', "a=", 'a="', "<style>", "/*", "http://", "a@", ";a=", "RCPT TO:<", "FROM:<")
SHORT, LONG = 600, 30_000
"""Characters: those that are slow for the first are tried with the second."""
SLOW = 0.1
"""Seconds of the processor for the long text: quadratic ones take twice that at least, linear ones a tenth at most."""


class _TooLongError(Exception):
    """It took longer than we wait."""


def patterns() -> dict[str, re.Pattern[Any]]:
    """Every compiled pattern that a module of the house keeps, by its name."""
    found: dict[str, re.Pattern[Any]] = {}
    for module in pkgutil.walk_packages(mailfarm.__path__, "mailfarm."):
        if module.name.endswith("__main__") or module.name.startswith("mailfarm.prove"):
            continue  # prove reads what it has made itself
        for name, value in vars(importlib.import_module(module.name)).items():
            values = (
                value if isinstance(value, (tuple, list)) else value.values() if isinstance(value, dict) else (value,)
            )
            for number, each in enumerate(values):
                if isinstance(each, re.Pattern):
                    found.setdefault(f"{module.name}.{name}" + f"[{number}]" * (each is not value), each)
    return found


@lru_cache
def uses() -> dict[str, set[str]]:
    """How patterns are used, by the last word of their name: ``{"_NAME": {"match"}}``."""
    found: dict[str, set[str]] = {}
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in USES:
                for inner in ast.walk(node.value):
                    if isinstance(inner, ast.Name):
                        found.setdefault(inner.id, set()).add(node.attr)
    return found


@lru_cache
def texts(size: int) -> tuple[str, ...]:
    """Repeated pieces, so many characters of them."""
    return tuple(_texts(size, "\0"))


def _texts(size: int, end: str) -> Iterator[str]:
    for first in PIECES:
        for second in ("", *PIECES):
            piece = first + second
            yield piece * (size // len(piece)) + end
    for beginning in BEGINNINGS:
        for piece in PIECES:
            yield beginning + piece * (size // len(piece)) + end


@contextmanager
def at_most(limit: float) -> Iterator[None]:
    """So many seconds of the processor, and no more: sre looks for signals now and then."""

    def stop(*_: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def worst(pattern: re.Pattern[Any], use: str) -> tuple[float, str]:
    """The longest time for a long text, of those that were worst while short."""
    run = USES[use]

    def seconds(text: str) -> float:
        given = text.encode("utf-8") if isinstance(pattern.pattern, bytes) else text
        began = time.process_time()
        run(pattern, given)
        return time.process_time() - began

    tried: list[tuple[float, int]] = []
    try:
        with at_most(20 * SLOW):
            for number, text in enumerate(texts(SHORT)):
                tried.append((seconds(text), number))
    except _TooLongError:
        return 20 * SLOW, texts(SHORT)[len(tried)][:20]
    found = (0.0, "")
    for _, number in sorted(tried, reverse=True)[:6]:
        text = texts(LONG)[number]
        try:
            with at_most(6 * SLOW):
                took = seconds(text)
                if took >= SLOW:  # perhaps it was something else that took it
                    took = min(took, seconds(text))
                found = max(found, (took, text[:20]))
        except _TooLongError:
            return 6 * SLOW, text[:20]
    return found


ALL = patterns()


@pytest.mark.parametrize("name", sorted(ALL))
def test_it_takes_time_in_proportion(name: str) -> None:
    pattern = ALL[name]
    word = name.rpartition(".")[2].partition("[")[0]
    for use in sorted(uses().get(word, set(USES))):
        took, text = worst(pattern, use)
        assert took < SLOW, f"{name}.{use}: {took:.2f} s for {text!r}…"


def test_the_judge_finds_what_is_slow() -> None:
    for slow, use in ((r"\s+$", "search"), (r"[ a]+1+$", "search"), (r"<[^>]*>", "sub")):
        assert worst(re.compile(slow), use)[0] >= SLOW, slow
    assert worst(re.compile(r"[a-z]+@"), "match")[0] < SLOW / 10


def test_every_pattern_is_found() -> None:
    assert len(ALL) > 80
    assert {"mailfarm.net.hosts._HOST", "mailfarm.inbound.headers._PARAMETER", "mailfarm.mail.address._QUOTED"} <= set(
        ALL
    )
