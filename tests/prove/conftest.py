"""The page of a report is looked at in the browser of the inbox's tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "web"))  # browsing
