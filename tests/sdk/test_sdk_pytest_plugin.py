"""The pytest plugin, in test sessions of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from running import Running, until

from mailfarm.sdk import Farm, NoSuchMailbox

pytest_plugins = "pytester"

SUITE = """
    import pathlib, smtplib

    NOTES = pathlib.Path(__file__).parent / "notes"

    def send(inbox, subject, user=None):
        with smtplib.SMTP(inbox.smtp.host, inbox.smtp.port) as smtp:
            if user:
                smtp.login(inbox.smtp.user, inbox.smtp.password)
            mail = f"Subject: {subject}\\r\\n\\r\\nYour code is 481516.\\r\\n"
            smtp.sendmail("app@example.org", [inbox.address], mail)
        with NOTES.open("a") as notes:
            print(inbox.farm.url, inbox.address, file=notes)
"""
PASSES = (
    SUITE
    + """
    def test_one(inbox):
        send(inbox, "One")
        assert inbox.wait_for(subject="One").code() == "481516"

    def test_two(inbox, farm, mailfarm_url):
        assert farm.url == mailfarm_url
        assert inbox.messages() == []
        send(inbox, "Two", inbox.smtp.user)
        inbox.wait_for(subject="Two")
"""
)
FAILS = (
    SUITE
    + """
    def test_fails(inbox, farm):
        other = farm.create_mailbox()
        send(inbox, "Welcome \\x1b[2J")
        send(other, "Elsewhere")
        inbox.wait_for(subject="Welcome"), other.wait_for()
        assert inbox.wait_for(subject="Reset", timeout=0.1)
"""
)


@pytest.fixture(autouse=True)
def no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAILFARM_URL", "MAILFARM_TOKEN", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(name, raising=False)


def notes(pytester: pytest.Pytester) -> list[list[str]]:
    return [line.split() for line in (pytester.path / "notes").read_text().splitlines()]


def refuses(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((parts.hostname, parts.port)) != 0


def test_a_server_is_started_and_ended(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PASSES)
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=2)
    (url, first), (same, second) = notes(pytester)
    assert url == same
    assert first != second
    assert refuses(url)


def test_the_workers_of_xdist_share_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a=PASSES, test_b=PASSES, test_c=PASSES)
    pytester.runpytest_subprocess("-n", "3", "-W", "error").assert_outcomes(passed=6)
    said = notes(pytester)
    assert len({url for url, _ in said}) == 1
    assert len({address for _, address in said}) == 6
    assert refuses(said[0][0])


def test_it_ends_when_the_session_is_killed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        SUITE
        + """
    def test_hangs(inbox):
        send(inbox, "x")
        import signal
        signal.pause()
"""
    )
    session = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=pytester.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: (pytester.path / "notes").exists() and notes(pytester), 60)
        ((url, _),) = notes(pytester)
        assert not refuses(url)
    finally:
        session.send_signal(signal.SIGKILL)
        session.wait(10)
    until(lambda: refuses(url), 30)


def test_a_failing_test_shows_its_messages(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILS)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    addresses = [address for _, address in notes(pytester)]
    result.stdout.fnmatch_lines(
        [
            "*WaitTimeout: no message with subject 'Reset' reached*",
            f"*- mailfarm: {addresses[0]} -*",
            "1 message",
            "Subject: *Welcome*",
            "Your code is 481516.",
            f"*- mailfarm: {addresses[1]} -*",
            "Subject: *Elsewhere",
        ]
    )
    assert "\x1b[2J" not in result.stdout.str()
    assert "#/messages/" not in result.stdout.str()  # it is gone by now


def test_a_server_that_was_there(pytester: pytest.Pytester, running: Running) -> None:
    pytester.makepyfile(test_passes=PASSES, test_zfails=FAILS)
    result = pytester.runpytest_subprocess("--mailfarm-url", running.url + "/")
    result.assert_outcomes(passed=2, failed=1)
    said = notes(pytester)
    assert {url for url, _ in said} == {running.url}
    with Farm(running.url) as farm:
        for _, deleted in said[:2]:
            with pytest.raises(NoSuchMailbox):
                farm.mailbox(deleted)
        kept = farm.mailbox(said[2][1])
        assert kept.state.ends_at is not None
        result.stdout.fnmatch_lines([f"{running.url}/#/messages/{kept.messages()[0].id}"])


@pytest.mark.parametrize("how", ["environment", "ini"])
def test_other_ways_to_name_a_server(
    pytester: pytest.Pytester, running: Running, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "ini":
        pytester.makeini(f"[pytest]\nmailfarm_url = {running.url}")
    else:
        pytester.makeini("[pytest]\nmailfarm_url = http://127.0.0.1:1")
        monkeypatch.setenv("MAILFARM_URL", running.url)
    pytester.makepyfile("def test_url(farm): farm.version()\ndef test_value(mailfarm_url): print(mailfarm_url)")
    result = pytester.runpytest_subprocess("-s")
    result.assert_outcomes(passed=2)
    assert running.url in result.stdout.str()


def test_a_server_that_is_not_there(pytester: pytest.Pytester, nobody: str) -> None:
    pytester.makepyfile("def test_it(inbox): pass")
    result = pytester.runpytest_subprocess("--mailfarm-url", nobody)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*CannotConnect: no mailfarm answers at {nobody} *is `mailfarm dev` running?*"])


def test_a_server_that_does_not_start_says_why(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """An interpreter that finds no mailfarm stands for whatever keeps it from starting."""
    pytester.makeconftest(
        f"""
        import sys
        sys.executable = {str(_broken_python(tmp_path))!r}
        """
    )
    pytester.makepyfile("def test_it(inbox): pass\ndef test_again(inbox): pass")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ["*mailfarm dev did not start; set MAILFARM_URL to use one that runs. It said:", "no luck"]
    )


def _broken_python(folder: Path) -> Path:
    path = folder / "python"
    path.write_text('#!/bin/sh\necho "no luck"\nexit 1\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_a_session_that_does_not_use_it_pays_nothing(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    folder = pytester.path / "temporary"
    folder.mkdir()
    pytester.makepyfile(
        """
        import sys

        def test_it():
            assert "mailfarm.sdk.pytest_plugin" in sys.modules
            assert "mailfarm.sdk.client" not in sys.modules

        def test_fails():
            assert "mailfarm.sdk.showing" in sys.modules
        """
    )
    environ = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=pytester.path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout
    assert "mailfarm: " not in done.stdout
    assert list(folder.glob("mailfarm-*")) == []
