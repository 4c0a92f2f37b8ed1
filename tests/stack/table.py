"""The table of what was measured: updates and failures under steady traffic, and facts beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_REMARKED = ("busy", "cut", "unknown", "refused", "moved", "next", "again")
_HEAD = (
    "what happened",
    "seconds",
    "connects",
    "lost",
    "acknowledged",
    "lost mail",
    "unsent",
    "longest gap s",
    "remarks",
)


class Table:
    """Rows are events under traffic, in the order they happened."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []
        self.facts: list[tuple[str, str]] = []

    def event(self, what: str, seconds: float, traffic: Mapping[str, Any], lost: int, remarks: str = "") -> str:
        """An event, what ``traffic.py`` counted meanwhile, and how many acknowledged messages were lost."""
        counts = (traffic["connects"], traffic["lost"], traffic["acknowledged"], lost, traffic["unsent"])
        also = [f"{traffic[name]} {name}" for name in _REMARKED if traffic[name]]
        told = "; ".join([*([remarks] if remarks else []), *also])
        self.rows.append((what, f"{seconds:.1f}", *map(str, counts), str(traffic["longest_gap"]), told))
        return ", ".join(f"{name} {value}" for name, value in zip(_HEAD, self.rows[-1], strict=True))

    def fact(self, what: str, value: str) -> str:
        """Something else that was measured."""
        self.facts.append((what, value))
        return f"{what}: {value}"

    def markdown(self) -> str:
        """Both, as Markdown."""
        lines = [_line(_HEAD), _line(["---"] * len(_HEAD)), *map(_line, self.rows)] if self.rows else []
        facts = [_line(("what", "measured")), _line(("---", "---")), *map(_line, self.facts)] if self.facts else []
        return "\n".join([*lines, "", *facts]) + "\n"

    def write(self, path: Path) -> None:
        """Keep it."""
        path.write_text(self.markdown())


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
