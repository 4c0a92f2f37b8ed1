"""A real browser on a real ``mailfarm dev``.

Playwright's blocking API runs an event loop in its thread, which must not be the one other tests run theirs in. So the
browser has a thread of its own, and a test that asks for ``tab`` or ``tabs`` runs there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Canary, Chromium, Tab
from running import Running

from mailfarm.sdk import Farm


@pytest.fixture(scope="module")
def chromium(component: Callable[[str], Path]) -> Iterator[Chromium]:
    """Debian's Chromium, once for a file of tests."""
    chromium = Chromium(
        component(next((name for name in ("chromium", "chromium-browser") if shutil.which(name)), "chromium"))
    )
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with Running() as process:
        yield process


@pytest.fixture
def tabs(chromium: Chromium, running: Running) -> Iterator[Callable[..., Tab]]:
    """Makes tabs. None of them may have complained of anything unexpected in the end."""
    made: list[Tab] = []

    def make(on: Running | None = None, **options: Any) -> Tab:
        tab = Tab(chromium.browser, on or running, **options)
        made.append(tab)
        return tab

    yield make
    for tab in made:
        chromium.run(tab.context.close)
    assert [tab.unexpected() for tab in made] == [[] for _ in made]


@pytest.fixture
def tab(chromium: Chromium, tabs: Callable[..., Tab]) -> Tab:
    return chromium.run(tabs)


@pytest.fixture
def farm(running: Running) -> Iterator[Farm]:
    with Farm(running.url) as farm:
        yield farm


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run what asks for a tab in the browser's thread."""
    names = pyfuncitem._fixtureinfo.argnames
    if "tab" not in names and "tabs" not in names:
        return None
    pyfuncitem.funcargs["chromium"].run(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names})
    return True


@pytest.fixture
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    canary.close()
