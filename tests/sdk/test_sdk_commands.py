"""The client's verbs on the command line, against a real server."""

from __future__ import annotations

import argparse
import io
import json
import os
import smtplib
import subprocess
import sys
from collections.abc import Callable, Iterator
from email import message_from_bytes
from pathlib import Path

import pytest
from running import Running
from scenarios import a_mail, send

from mailfarm.sdk import Farm, Inbox
from mailfarm.sdk.commands import add_parsers
from mailfarm.sdk.plain import line, plain, plain_lines, quoted

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mailfarm(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process: its exit code, output and errors."""

    def run(*words: str, terminal: bool = False) -> tuple[int, str, str]:
        class Stream(io.TextIOWrapper):
            def isatty(self) -> bool:
                return terminal

        parser = argparse.ArgumentParser(prog="mailfarm")
        add_parsers(parser.add_subparsers())

        class Errors(io.StringIO):
            def isatty(self) -> bool:
                return terminal

        out, err = Stream(io.BytesIO(), "utf-8", newline=""), Errors()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            try:
                args = parser.parse_args(words)
                code = args.run(args)
            except SystemExit as exit:
                code = int(exit.code or 0)
            out.flush()
        return code, out.buffer.getvalue().decode("utf-8", "backslashreplace"), err.getvalue()

    return run


@pytest.fixture
def inbox(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """A mailbox, with the environment set for the server it is on."""
    monkeypatch.setenv("MAILFARM_URL", running.url)
    monkeypatch.setenv("MAILFARM_SMTP", running.where["smtp"]["capture"])
    with Farm(running.url) as farm:
        yield farm.create_mailbox()


def test_the_default_mail_shows_everything_off(mailfarm: Run, inbox: Inbox) -> None:
    code, out, err = mailfarm("send", "--to", inbox.address)
    assert (code, err) == (0, "")
    assert out == f"sent 'Reset your password' to {inbox.address}\n"
    mail = inbox.wait_for(timeout=10)
    assert mail.code() in mail.text
    assert mail.link("reset").startswith("https://app.example/reset?token=")
    assert "<h1" in mail.html
    assert mail.attachments[0].filename == "hello.csv"


def test_a_mail_of_ones_own(mailfarm: Run, inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>grüß dich</p>", "utf-8")
    (tmp_path / "report.pdf").write_bytes(b"%PDF\x00")
    (tmp_path / "text").write_text("from a file")
    code, *_ = mailfarm(
        *("send", "--to", inbox.address, "--to", "other@else.example", "--from", "Ünal <u@else.example>"),
        *("--subject", "grüß dich", "--text", f"@{tmp_path / 'text'}", "--html", str(tmp_path / "page.html")),
        *("--attach", str(tmp_path / "report.pdf")),
    )
    assert code == 0
    mail = inbox.wait_for(timeout=10)
    assert (mail.subject, str(mail.from_)) == ("grüß dich", "Ünal <u@else.example>")
    assert (mail.text.strip(), mail.html.strip()) == ("from a file", "<p>grüß dich</p>")
    assert (mail.attachments[0].content, mail.attachments[0].content_type) == (b"%PDF\x00", "application/pdf")
    assert [each.address for each in mail.to] == [inbox.address, "other@else.example"]


def test_a_file_as_it_is(mailfarm: Run, inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "saved.eml").write_bytes(b"Subject: saved\nX-Odd:  tab\t\n\n.dot\nend\n")
    assert mailfarm("send", "--to", inbox.address, "--eml", str(tmp_path / "saved.eml"))[0] == 0
    mail = inbox.wait_for(timeout=10)
    assert mail.raw.endswith(b"Subject: saved\r\nX-Odd:  tab\t\r\n\r\n.dot\r\nend\r\n")


def test_many(mailfarm: Run, inbox: Inbox) -> None:
    code, out, _ = mailfarm("send", "--to", inbox.address, "--count", "3", "--json")
    assert code == 0
    said = [json.loads(each) for each in out.splitlines()]
    found = inbox.wait_for_all(3, timeout=10)
    assert [each["subject"] for each in said] == [mail.subject for mail in found]
    assert found[2].subject == "Reset your password (3 of 3)"
    assert [each["message_id"].strip("<>") for each in said] == [mail.message_id.strip("<>") for mail in found]
    assert said[0]["accepted"] == [inbox.address]


def test_with_a_password(mailfarm: Run, inbox: Inbox, running: Running, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{inbox.smtp.password}\n")
    credential = ("--user", str(inbox.smtp.user), "--password-file", str(tmp_path / "secret"))
    for name, scheme in (("starttls", "smtp+starttls"), ("tls", "smtps")):
        where = f"{scheme}://{running.where['smtp'][name]}"
        code, _, err = mailfarm("send", "--smtp", where, "--subject", name, *credential, "--insecure")
        assert (code, err) == (0, "")
        assert inbox.wait_for(timeout=10).subject == name
        code, _, err = mailfarm("send", "--smtp", where, *credential)
        assert code == 1
        assert "certificate" in err.lower()
    (tmp_path / "secret").write_text("xyzzy-plugh")
    code, _, err = mailfarm("send", *credential)
    assert code == 1
    assert "535" in err
    assert "xyzzy" not in err


def test_a_refusal_is_shown_in_full(mailfarm: Run, inbox: Inbox, running: Running) -> None:
    code, out, err = mailfarm(
        *("send", "--smtp", running.where["mx"], "--to", inbox.address, "--to", "nobody.here@mailfarm.test")
    )
    assert code == 1
    assert err.startswith("mailfarm send: refused: nobody.here@mailfarm.test: 550 5.1.1 ")
    assert out == f"sent 'Reset your password' to {inbox.address}\n"
    code, out, err = mailfarm("send", "--smtp", running.where["mx"], "--to", "nobody.here@mailfarm.test", "--json")
    assert code == 1
    assert json.loads(out)["refused"][0].startswith("nobody.here@mailfarm.test: 550 5.1.1")


def test_wait_shows_what_came(mailfarm: Run, inbox: Inbox, running: Running) -> None:
    send(running, inbox.address, "Reset", "Welcome")
    code, out, _ = mailfarm("wait", inbox.address, "--subject", "welcome", "--timeout", "10")
    assert code == 0
    assert "Subject:  Welcome\n" in out
    assert "Code:     481516\n" in out
    assert "Link:     https://shop.example/reset?token=abc" in out
    assert "File:     a.bin  (application/octet-stream, 11 octets, part " in out
    assert mailfarm("wait", inbox.address, "--code")[1] == "481516\n"
    assert mailfarm("wait", inbox.id, "--link", "help")[1] == "https://shop.example/help\n"
    assert mailfarm("wait", inbox.address, "--id")[1].strip() == inbox.messages()[0].id
    form = json.loads(mailfarm("wait", inbox.address, "--count", "2", "--json")[1])
    assert [each["subject"] for each in form["messages"]] == ["Reset", "Welcome"]
    assert form["messages"][0]["codes"] == ["481516"]
    after = form["cursor"]
    assert mailfarm("wait", inbox.address, "--after", str(after), "--timeout", "0")[0] == 4


def test_wait_in_vain(mailfarm: Run, inbox: Inbox, running: Running) -> None:
    send(running, inbox.address, "Welcome")
    inbox.wait_for(timeout=10)
    code, out, err = mailfarm("wait", inbox.address, "--subject", "Reset", "--timeout", "0.1")
    assert (code, out) == (4, "")
    assert err.startswith(f"mailfarm wait: no message with subject 'Reset' reached {inbox.address} within 0.1 s\n")
    assert "'Welcome'" in err
    assert mailfarm("wait", inbox.address, "--new", "--timeout", "0.1")[0] == 4
    code, _, err = mailfarm("wait", inbox.address, "--link", "nothing")
    assert code == 1
    assert "https://shop.example/reset" in err


def test_lists(mailfarm: Run, inbox: Inbox, running: Running) -> None:
    code, out, err = mailfarm("list", inbox.address)
    assert (code, out, err) == (0, "", f"no messages in {inbox.address}\n")
    send(running, inbox.address, "one", "two")
    inbox.wait_for_all(2, timeout=10)[0].mark_seen()
    _, out, _ = mailfarm("list", inbox.address)
    head, one, two = out.splitlines()
    assert head.split() == ["ID", "RECEIVED", "FROM", "SUBJECT"]
    assert one.endswith("Shop <noreply@shop.example>  one  [1]")
    assert " * " in two
    assert " * " not in one
    assert len(mailfarm("list", inbox.address, "--unseen")[1].splitlines()) == 2
    assert mailfarm("list", inbox.address, "--limit", "1")[1].endswith("two  [1]\n")
    form = json.loads(mailfarm("list", inbox.address, "--subject", "one", "--json")[1])
    assert [each["subject"] for each in form["messages"]] == ["one"]
    _, out, _ = mailfarm("list")
    assert any(row.split() == [inbox.id, "2", "1", "sandbox", inbox.address] for row in out.splitlines())
    boxes = json.loads(mailfarm("list", "--json")[1])["mailboxes"]
    assert inbox.address in [each["address"] for each in boxes]
    assert len(json.loads(mailfarm("list", "--limit", "1", "--json")[1])["mailboxes"]) == 1
    code, _, err = mailfarm("list", "--unseen")
    assert (code, err.startswith("mailfarm list: --unseen chooses among messages, not mailboxes: ")) == (2, True)
    code, _, err = mailfarm("list", "--subject", "x", "--from", "y")
    assert (code, "--from, --subject choose among messages" in err) == (2, True)
    code, _, err = mailfarm("list", "a/b")
    assert (code, err.startswith("mailfarm list: 'a/b' is neither an address nor the id")) == (1, True)


def test_shows(mailfarm: Run, inbox: Inbox, running: Running) -> None:
    send(running, inbox.address, "one", "two")
    mail = inbox.wait_for_all(2, timeout=10)[1]
    latest = ("show", "latest", "--mailbox", inbox.address)
    assert "Subject:  two\n" in mailfarm(*latest)[1]
    assert mailfarm("show", mail.id, "--text")[1].startswith("Your code is 481516.")
    assert "<b>481516</b>" in mailfarm(*latest, "--html")[1]
    assert "\nX-Tag: one\n" in mailfarm(*latest, "--headers")[1]
    assert message_from_bytes(mailfarm(*latest, "--raw")[1].encode())["X-Tag"] == "one"
    part = str(mail.attachments[0].n)
    assert mailfarm(*latest, "--part", part)[1] == "\x00\x01binary\r\n\\xff"
    assert mailfarm(*latest, "--part", part, terminal=True)[1] == "\\x00\\x01binary\n\\xff\n"
    form = json.loads(mailfarm(*latest, "--json")[1])
    assert form["id"] == mail.id
    assert [each["encoding"] for each in form["parts"] if each["attachment"]] == ["base64"]
    assert ["X-Tag", "one"] in form["headers"]
    assert form["from"] == {"name": "Shop", "address": "noreply@shop.example"}
    code, _, err = mailfarm("show", "nonsense")
    assert (code, err) == (1, "mailfarm show: 'nonsense' is not the id of a message (26 letters and digits)\n")
    assert mailfarm("show", "0" * 26)[2] == f"mailfarm show: there is no message {'0' * 26}\n"
    assert mailfarm(*latest, "--part", "99")[0] == 1


def test_nothing_to_show(mailfarm: Run, inbox: Inbox) -> None:
    code, _, err = mailfarm("show", "latest", "--mailbox", inbox.address)
    assert code == 1
    assert f"mailfarm send --to {inbox.address}" in err
    code, _, err = mailfarm("wait", "nobody@mailfarm.test")
    assert code == 1
    assert "no mailbox has the address 'nobody@mailfarm.test'; there are" in err


def test_strangers_cannot_write_to_the_terminal(mailfarm: Run, inbox: Inbox, running: Running) -> None:
    evil = "=?utf-8?q?=1B]0;owned=07=E2=80=AEhello=0D=0AForged:_line?="
    with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
        raw = f'From: "{evil}" <a@x.example>\r\nSubject: {evil}\r\n\r\ntext \x1b[31m\x9b\u202e\r\n'.encode()
        smtp.sendmail("a@x.example", [inbox.address], raw)
    inbox.wait_for(timeout=10)
    latest = ("show", "latest", "--mailbox", inbox.address)
    for words in (
        ("list", inbox.address),
        ("wait", inbox.address),
        ("wait", inbox.address, "--subject", "Reset", "--timeout", "0"),
        latest,
        *((*latest, option) for option in ("--text", "--html", "--headers", "--raw", "--json")),
    ):
        _, out, err = mailfarm(*words, terminal=True)
        said = out + err
        assert all(c.isprintable() or c in "\n\t" for c in said), words
        assert not any(each.startswith("Forged:") for each in said.splitlines()), words


def test_nobody_there(mailfarm: Run, monkeypatch: pytest.MonkeyPatch, nobody: str) -> None:
    monkeypatch.setenv("MAILFARM_URL", nobody)
    monkeypatch.setenv("MAILFARM_SMTP", nobody.removeprefix("http://"))
    for words in (("list",), ("wait",), ("show", "latest"), ("send",)):
        code, out, err = mailfarm(*words)
        assert (code, out) == (3, "")
        assert len(err.splitlines()) == 1
        assert "mailfarm dev" in err


@pytest.mark.parametrize(
    "words",
    [
        ("wait", "--timeout", "-1"),
        ("wait", "--count", "0"),
        ("wait", "--count", "\u00b2"),
        ("send", "--port", "99999"),
        ("send", "--port", "0"),
        ("wait", "--link", "--code"),
        ("list", "--limit", "x"),
        ("show",),
        ("send", "--smtp", "imap://x"),
        ("send", "--smtp", "127.0.0.1:99999"),
        ("send", "--attach", "/no/such/file"),
        ("send", "--html", "/no/such/file"),
        ("send", "--eml", "/no/such/file"),
        ("send", "--text", "@/no/such/file"),
        ("send", "--subject", "two\nlines"),
        ("send", "--to", "a@b\r\nc"),
        ("send", "--to", ""),
        ("send", "--to", "<"),
        ("send", "--from", "nobody"),
        ("send", "--user", "u"),
    ],
)
def test_wrong_usage_is_told_before_anything_happens(mailfarm: Run, words: tuple[str, ...]) -> None:
    code, out, err = mailfarm(*words)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"mailfarm {words[0]}: ")


def test_the_default_mailbox_is_the_servers(
    mailfarm: Run, running: Running, monkeypatch: pytest.MonkeyPatch, nobody: str
) -> None:
    monkeypatch.delenv("MAILFARM_SMTP", raising=False)
    with Running(MAILFARM_DOMAINS="qa.example") as other, Farm(other.url) as farm:
        (inbox,) = farm.mailboxes()
        told = farm.version() | {"inbox": inbox.address}
        monkeypatch.setattr("mailfarm.sdk.client.Farm.version", lambda farm: told)
        monkeypatch.setenv("MAILFARM_URL", other.url)
        code, out, err = mailfarm("send", "--subject", "to the default")
        assert (code, out, err) == (0, "sent 'to the default' to inbox@qa.example\n", "")
        assert "to the default" in mailfarm("wait", "--timeout", "10")[1]
        assert "to the default" in mailfarm("show", "latest")[1]
        code, _, err = mailfarm("wait", "--subject", "no", "--timeout", "0.1", terminal=True)
        assert code == 4
        assert err.startswith(
            "waiting for a message with subject 'no' in the default mailbox, inbox@qa.example, for at most 0.1 s\n"
        )
        assert "waiting" not in mailfarm("wait", "--timeout", "0.1", "--json", "--new", terminal=True)[2]


def test_without_a_server_the_usual_port_is_tried(mailfarm: Run, monkeypatch: pytest.MonkeyPatch, nobody: str) -> None:
    monkeypatch.setenv("MAILFARM_URL", nobody)
    monkeypatch.delenv("MAILFARM_SMTP", raising=False)
    monkeypatch.setattr("mailfarm.sdk.sending.CAPTURE", f"smtp://{nobody.removeprefix('http://')}")
    code, out, err = mailfarm("send")
    assert (code, out) == (3, "")
    assert err.startswith(f"mailfarm send: cannot connect to {nobody.removeprefix('http://')} (Connection refused)")


def test_a_wait_in_vain_as_json(mailfarm: Run, inbox: Inbox) -> None:
    code, out, err = mailfarm("wait", inbox.address, "--timeout", "0.1", "--json")
    assert code == 4
    assert json.loads(out)["type"] == "/v1/problems/wait-timed-out"
    assert json.loads(out)["near_misses"] == []
    assert "no message reached" in err


def test_a_token_that_no_header_can_hold(mailfarm: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAILFARM_TOKEN", "secr\net")
    said = "the token has characters that a header cannot hold\n"
    assert mailfarm("list") == (2, "", f"mailfarm list: MAILFARM_TOKEN: {said}")
    (tmp_path / "token").write_bytes(b"s\xe9cret\n")
    monkeypatch.setenv("MAILFARM_TOKEN_FILE", str(tmp_path / "token"))
    assert mailfarm("list") == (2, "", f"mailfarm list: MAILFARM_TOKEN_FILE: {said}")


ODD_OUTPUTS = {
    "ascii": ("{}", 0, r"gr\xfc\xdf dich \u2603"),
    "full": ("{} >/dev/full", 1, "mailfarm {}: cannot write to standard output: No space left on device\n"),
    "closed": ("{} >&-", 1, "mailfarm {}: standard output is closed\n"),
    "no errors": ("{} 2>&-", 0, "gr"),
}


@pytest.mark.parametrize("odd", ODD_OUTPUTS)
@pytest.mark.parametrize("words", ["show {}", "show {} --raw", "list {}", "wait {} --json"])
def test_odd_outputs_leave_no_traceback(running: Running, inbox: Inbox, odd: str, words: str) -> None:
    with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
        smtp.send_message(a_mail(inbox.address, "grüß dich \u2603"))
    mail = inbox.wait_for(timeout=10)
    line_, code, said = ODD_OUTPUTS[odd]
    command = line_.format(f"{sys.executable} -m mailfarm {words.format(mail.id if 'show' in words else inbox.id)}")
    environ = os.environ | {"PYTHONIOENCODING": "", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr == said.format(words.split()[0])
    elif words in ("show {}", "list {}"):
        assert said in done.stdout
    elif odd == "no errors":
        assert done.stdout


def test_a_url_that_is_none(mailfarm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILFARM_URL", "127.0.0.1:8025")
    code, _, err = mailfarm("list")
    assert code == 2
    assert "MAILFARM_URL: '127.0.0.1:8025' is not the URL of a mailfarm; write for example http://" in err


@pytest.mark.parametrize("verb", ["send", "wait", "list", "show"])
def test_help_has_examples_and_exit_codes(mailfarm: Run, verb: str) -> None:
    code, out, _ = mailfarm(verb, "--help")
    assert code == 0
    assert f"  mailfarm {verb}" in out
    assert "exit codes:" in out
    assert "environment:" in out


def test_plain_text() -> None:
    assert plain("Hello\x1b[2J\u202e") == "Hello\\x1b[2J\\u202e"
    assert plain("no\u00a0break \U0001f469\u200d\U0001f469\u2028") == "no break \U0001f469\u200d\U0001f469\\u2028"
    assert plain_lines("a\r\nb\tc\rd\x00") == "a\nb\tc\\rd\\x00"
    assert line("  a\n b \x07", 100) == "a b \\x07"
    assert line("x" * 20, 10) == "x" * 9 + "…"
    assert quoted("it's\x07\n so") == '"it\'s\\x07 so"'
