"""The pytest plugin: mail for tests without any set-up. Installed with mailfarm, it needs no import.

    def test_reset(inbox, app):
        app.request_reset(inbox.address)
        mail = inbox.wait_for(subject="Reset", timeout=5)
        app.open(mail.link("reset"))

============  =======  =============================================================================================
``inbox``     test     an ``Inbox`` of its own with a new address, deleted after the test
``farm``      session  the ``Farm``: more mailboxes, refusals. Mailboxes made in a test are the test's to delete
``mailfarm_url``  session  where the server is, for ``AsyncFarm``, ``TwistedFarm`` or a browser
============  =======  =============================================================================================

Which server: ``--mailfarm-url``, else the variable MAILFARM_URL, else the ini value ``mailfarm_url``; MAILFARM_TOKEN or
MAILFARM_TOKEN_FILE gives its token, if it asks for one, and MAILFARM_CA a file with the authority of its certificate,
if the system does not know it. Where none is given, the first test that wants one starts a ``mailfarm dev --ephemeral``
on free ports, which ends with the session, however that ends; with pytest-xdist all workers share it. ``inbox.smtp``
says where and as whom to send.

When a test fails, the messages of the mailboxes it made are shown in its report. On a server that was there before,
the ``inbox`` of a failed test is kept for a day, so that it can be looked at in the browser.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # nothing else is imported in test runs that do not use this
    from .client import Farm
    from .inbox import Inbox
    from .keeper import Owner

KEPT = 24 * 3600
SHOWN = 10
LINES = 30

_OWNER = pytest.StashKey["Owner"]()
_MADE = pytest.StashKey[list["Inbox"]]()
_FAILED = pytest.StashKey[bool]()
_ITEM = pytest.StashKey[pytest.Item]()
_FOLDER = "mailfarm_folder"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mailfarm")
    group.addoption("--mailfarm-url", metavar="URL", help="use this mailfarm instead of starting one for the session")
    parser.addini("mailfarm_url", "use this mailfarm, unless --mailfarm-url or MAILFARM_URL says another", default="")


@pytest.fixture(scope="session")
def mailfarm_url(pytestconfig: pytest.Config) -> str:
    """The URL of the mailfarm of this session."""
    return _given(pytestconfig) or str(_server(pytestconfig)["http"])


@pytest.fixture(scope="session")
def farm(pytestconfig: pytest.Config, mailfarm_url: str) -> Iterator[Farm]:
    """The mailfarm of this session."""
    from .client import Farm
    from .verbs import smtp_places

    smtp = None if _given(pytestconfig) else smtp_places(_server(pytestconfig)["smtp"], "127.0.0.1")
    with Farm(mailfarm_url, _token(), smtp=smtp, ca=os.environ.get("MAILFARM_CA") or None) as farm:
        farm._on_made = lambda inbox: pytestconfig.stash[_ITEM].stash[_MADE].append(inbox)
        yield farm


@pytest.fixture
def inbox(request: pytest.FixtureRequest, farm: Farm) -> Iterator[Inbox]:
    """A mailbox of this test's own."""
    inbox = farm.create_mailbox(lifetime=KEPT)
    yield inbox
    if not (request.node.stash.get(_FAILED, False) and _given(request.config)):
        inbox.__exit__(None, None, None)


def _token() -> str | None:
    if path := os.environ.get("MAILFARM_TOKEN_FILE"):
        return Path(path).read_text("utf-8").strip()
    return os.environ.get("MAILFARM_TOKEN")


def _given(config: pytest.Config) -> str:
    return (
        config.getoption("--mailfarm-url") or os.environ.get("MAILFARM_URL") or str(config.getini("mailfarm_url"))
    ).rstrip("/")


def _server(config: pytest.Config) -> dict[str, Any]:
    """Where the server of this session listens; the first one to ask starts it."""
    from .keeper import CannotStart, server

    shared = getattr(config, "workerinput", {}).get(_FOLDER)
    try:
        return server(Path(shared) if shared else _owner(config).folder)
    except CannotStart as error:
        text = f"mailfarm dev did not start; set MAILFARM_URL to use one that runs. It said:\n{error}"
    except (ImportError, FileNotFoundError) as error:
        text = f"a mailfarm cannot be started from here ({error}); set MAILFARM_URL to use one that runs"
    pytest.fail(text, pytrace=False)


def _owner(config: pytest.Config) -> Owner:
    from .keeper import Owner

    if _OWNER not in config.stash:
        config.stash[_OWNER] = Owner()
    return config.stash[_OWNER]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist's controller owns the server that its workers share."""
    if not _given(node.config) and os.name == "posix":
        node.workerinput[_FOLDER] = str(_owner(node.config).folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _OWNER in config.stash:
        config.stash[_OWNER].end()
        del config.stash[_OWNER]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_MADE] = []
    item.config.stash[_ITEM] = item


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    made = item.stash.get(_MADE, [])
    if report.failed and report.when != "teardown" and made:
        item.stash[_FAILED] = True
        url = _given(item.config)
        report.sections += [(f"mailfarm: {inbox.address}", _described(inbox, url)) for inbox in made]
    return report


def _described(inbox: Inbox, url: str) -> str:
    """What is in a mailbox, and what was refused for it. A report never fails for want of it."""
    from .errors import FarmError
    from .plain import line
    from .showing import describe

    try:
        messages = inbox.messages(order="desc", limit=SHOWN)
        refusals = inbox.refusals()[-3:]
        count = inbox.refresh().messages
        blocks = [f"{count} message{'' if count == 1 else 's'}" + (f", the newest {SHOWN}:" if count > SHOWN else "")]
        for mail in reversed(messages):
            lines = describe(mail)
            lines = lines[:LINES] + ([f"… {len(lines) - LINES} lines more"] if len(lines) > LINES else [])
            # a server that was there before the session is there after it too
            blocks.append("\n".join([*lines, f"{url}/#/messages/{mail.id}"] if url else lines))
        for refusal in refusals:
            blocks.append(
                "\n".join([f"refused: {refusal}", *(f"    {line(said, 200)}" for said in refusal.lines[-8:])])
            )
    except FarmError as error:
        return f"its messages could not be read: {line(str(error), 300)}"
    return "\n\n".join(blocks)
