"""Values: compared and hashed by their fields, with slots, and frozen where the type checker looks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import field, replace
from pathlib import Path

import pytest

from mailfarm.values import value


@value
class Pair:
    left: int
    right: str = field(default="", repr=False)


def test_a_value_is_its_fields() -> None:
    assert Pair(1, "a") == Pair(left=1, right="a") != Pair(1)
    assert len({Pair(1, "a"), Pair(1, "a"), Pair(2, "a")}) == 2
    assert replace(Pair(1, "a"), left=2) == Pair(2, "a")
    assert repr(Pair(1, "a")) == "Pair(left=1)"


def test_a_value_has_slots_alone() -> None:
    with pytest.raises(AttributeError):
        Pair(1).other = 2


def test_the_type_checker_refuses_an_assignment(tmp_path: Path) -> None:
    file = tmp_path / "changes.py"
    file.write_text('from mailfarm.events import Person\n\nPerson("A. User", "a@example.org").name = "B. User"\n')
    cache = str(tmp_path / "cache")
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "--cache-dir", cache, str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert 'Property "name" defined in "Person" is read-only' in found.stdout
    assert "Found 1 error" in found.stdout
