"""Journeys use a real ``mailfarm dev``, from outside, as its users do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Running

from mailfarm.sdk import Farm


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One that keeps nothing, for all tests of a module."""
    with Running() as process:
        yield process


@pytest.fixture
def client(running: Running) -> Iterator[Farm]:
    """The SDK's blocking client for it."""
    with Farm(running.url) as farm:
        yield farm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder that outlives a process."""
    return tmp_path / "data"
