"""Guessing does not pay, and nobody is locked out by somebody else's guesses more than must be."""

from __future__ import annotations

import pytest
import pytest_twisted

from mailfarm.accounts.guesses import Guesses, TooMany
from mailfarm.backends.memory import MemoryLimiter
from mailfarm.limits import Limit


@pytest_twisted.ensureDeferred
async def test_a_client_and_a_name_each_have_their_share() -> None:
    now = 1000.0
    guesses = Guesses("submission", MemoryLimiter(lambda: now), Limit(2, 100), Limit(3, 100))
    for _ in range(2):
        assert await guesses.too_many("net1", "a") is None
        await guesses.count("net1", "a")
    assert await guesses.too_many("net1", "b") == TooMany("client", 50.0)
    assert await guesses.too_many("net2", "A") is None
    await guesses.count("net2", "A")
    assert await guesses.too_many("net3", "a") == TooMany("name", pytest.approx(100 / 3)), "whatever its case"
    assert await guesses.too_many("net3", "b") is None
    now += 100
    assert await guesses.too_many("net1", "a") is None


@pytest_twisted.ensureDeferred
async def test_asking_costs_nothing_and_a_client_without_a_key_is_not_counted() -> None:
    guesses = Guesses("submission", MemoryLimiter(lambda: 1000.0), Limit(1, 100), Limit(2, 100))
    for _ in range(5):
        assert await guesses.too_many("net1", "a") is None
    for _ in range(5):
        await guesses.count("", "a")
        assert await guesses.too_many("", "a") is None
    assert await guesses.too_many("net1", "a") is None, "nor is it counted for the name"
    await guesses.count("net1", "a")
    await guesses.count("net2", "a")
    assert await guesses.too_many("net3", "a") == TooMany("name", 50.0)
    assert await guesses.too_many("", "a") is None, "nor locked out by others"


@pytest_twisted.ensureDeferred
async def test_a_full_key_does_not_spare_the_other() -> None:
    guesses = Guesses("submission", MemoryLimiter(lambda: 1000.0), Limit(1, 100), Limit(3, 100))
    for _ in range(3):
        await guesses.count("net1", "a")
    assert await guesses.too_many("net2", "a") == TooMany("name", pytest.approx(100 / 3))
