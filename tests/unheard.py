"""No Deferred may fail unheard where a conftest has this: what nobody handles is logged only when it is collected."""

from __future__ import annotations

import gc

import pytest
from twisted.logger import globalLogPublisher


@pytest.fixture(autouse=True)
def no_unheard_failures():
    heard = []

    def hear(entry):
        if entry.get("log_namespace") == "twisted.internet.defer":
            heard.append(entry.get("log_failure"))

    globalLogPublisher.addObserver(hear)
    yield
    gc.collect(1)
    globalLogPublisher.removeObserver(hear)
    assert not heard
