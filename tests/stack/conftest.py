"""The stack's tests: what they share, and where the parts they use lie."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "sdk"))  # relay
