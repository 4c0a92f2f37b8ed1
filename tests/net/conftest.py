"""What tests of the network share."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import globalLogPublisher


@pytest.fixture
def said() -> Any:
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)
