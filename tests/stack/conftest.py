"""The stack's tests: one lab with one deployed stack for all of them, and the table of what was measured.

It is deployed once for a whole run and is left as it was found by each test: converged, two replicas of each service.
The tests' own process is a client outside the Swarm (203.0.113.7) while they run, so that sockets it opens come from
there. Without root or Docker the tests skip, and fail where CI is set.
"""

from __future__ import annotations

import faulthandler
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine import missing
from images import build
from lab import LOCK, ROOT, Lab, turn
from leftovers import leftovers
from swarm_deployment import HOST, Deployment
from table import Table

from mailfarm.prove.follower import resolved

sys.path.append(str(Path(__file__).resolve().parents[1] / "sdk"))  # relay

Tell = Callable[[str], None]
LIMITS = Path(__file__).with_name("limits.toml")
SETTLED = 3.0
"""Seconds after which a stack that does not serve yet is said."""


@pytest.fixture(scope="session")
def tell(request: pytest.FixtureRequest) -> Tell:
    """Say a line to whoever waits, with the time since the beginning."""
    plugins = request.config.pluginmanager
    reporter, capture = plugins.get_plugin("terminalreporter"), plugins.get_plugin("capturemanager")
    began = time.monotonic()

    def say(line: str) -> None:
        if reporter is not None:
            with capture.global_and_fixture_disabled():
                reporter.ensure_newline()
                reporter.write_line(f"{time.monotonic() - began:7.1f} s  {line}")
                reporter.flush()

    return say


@pytest.fixture(scope="session")
def images(tell: Tell) -> Path:
    """The disk with the stack's images."""
    if why := missing():
        pytest.skip(why)  # which fails where CI is set
    return build(tell)


@pytest.fixture(scope="session")
def table(tell: Tell) -> Iterator[Table]:
    """What was measured; printed and kept at the end."""
    made = Table()
    yield made
    if made.rows:
        for line in made.markdown().splitlines():
            tell(line)
        made.write(ROOT / ".make" / "stack-test.md")


def _how_long(fixture_name: str, config: pytest.Config) -> str:
    """One lab for all of `make stack-test`; in a worker of `make test` for its one test of it alone."""
    return "function" if hasattr(config, "workerinput") else "session"


@pytest.fixture(scope=_how_long)
def deployed(images: Path, tell: Tell, table: Table, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The stack on three managers."""
    faulthandler.dump_traceback_later(1200, exit=True)  # instead of what a single test may take
    with turn(LOCK, tell), Lab(disk=images, tell=tell) as lab:
        deployment = Deployment(lab, tmp_path_factory.mktemp("stack"), tell)
        deployment.prepare()
        took = deployment.deploy(MAILFARM_LIMITS_FILE=str(LIMITS))
        table.fact("from `stack/deploy` to a stack that runs, three machines", f"{took} s")
        yield deployment
    assert leftovers(lab.name, lab.folder) == []


@pytest.fixture
def stack(deployed: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """The deployed stack, and the test outside it: in a client's namespace, with its name and its authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(deployed.authority))
    with resolved(HOST, deployed.addresses), deployed.lab.near.there():
        began = time.monotonic()
        deployed.until(deployed.serves, 180, "a Swarm with a leader, and an API that answers")
        if (took := time.monotonic() - began) > SETTLED:  # managers elect a leader while one comes back
            deployed.tell(f"the Swarm and its API were there after {took:.0f} s\n{deployed.lab.tails()}")
        yield deployed


QUIET = ("readme", "lab", "journey", "clients", "programs", "backup")
LOUD = ("updates", "failures", "spool", "prove", "bad_start")
"""The README's commands want a fresh lab, and there is only one at a time; the rest goes from quiet to loud."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which the stack's tests run."""
    here = Path(__file__).parent
    ours = [item for item in items if item.path.parent == here]
    names = [f"test_stack_{word}.py" for word in QUIET + LOUD]
    ours.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else -1)
    places = [place for place, item in enumerate(items) if item.path.parent == here]
    for place, item in zip(places, ours, strict=True):
        items[place] = item
