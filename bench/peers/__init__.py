"""The servers that ``make bench`` sets side by side, a module each. ``base.Peer`` is what they have in common."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))  # servers and services of one's own
