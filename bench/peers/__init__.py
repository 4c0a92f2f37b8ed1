"""The servers that ``make bench`` sets side by side, a module each. ``base.Peer`` is what they have in common."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]  # what is measured; servers and services of one's own
