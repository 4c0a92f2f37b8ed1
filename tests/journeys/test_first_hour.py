"""What a newcomer does in the first hour: each client they may have, each command we give them."""

from __future__ import annotations

import hashlib
import json
import os
import smtplib
import ssl
import subprocess
import sys
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest
from running import Running

from mailfarm.sdk import Farm

Component = Callable[[str], Path]


def a_mail(to: str, subject: str = "Your reset link", **headers: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = "Shop <noreply@shop.example>"
    mail["To"] = to
    mail["Subject"] = subject
    for name, value in headers.items():
        mail[name.replace("_", "-")] = value
    mail.set_content("Your code is 481516.\nhttps://shop.example/reset?token=abc\n")
    mail.add_alternative('<p>Code <b>481516</b> <a href="https://shop.example/reset?token=abc">Reset</a></p>', "html")
    mail.add_attachment(b"\x00\x01binary\r\n\xff", maintype="application", subtype="octet-stream", filename="a.bin")
    return mail


def mailfarm(running: Running, *words: str, code: int = 0) -> str:
    """Run a client command against it, as a person in a terminal would."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MAILFARM_")}
    environ |= {"MAILFARM_URL": running.url, "MAILFARM_SMTP": running.where["smtp"]["capture"]}
    done = subprocess.run(
        [sys.executable, "-m", "mailfarm", *words], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_ten_lines_of_the_readme(running: Running, client: Farm) -> None:
    inbox = client.create_mailbox()
    with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
        smtp.send_message(a_mail(inbox.address))
    mail = inbox.wait_for(subject="Reset", timeout=5)
    assert mail.link("reset") == "https://shop.example/reset?token=abc"
    assert mail.code() == "481516"
    assert mail.attachments[0].content == b"\x00\x01binary\r\n\xff"


def test_what_is_read_is_what_was_sent(running: Running, client: Farm) -> None:
    inbox = client.create_mailbox()
    sent = b"Subject: exact\r\nX-Odd:\t tab \r\n\r\n..dots\r\n.\xff\xfe 8 bit\r\n \r\n\r\n"
    with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
        smtp.sendmail("a@shop.example", [inbox.address], sent, mail_options=["BODY=8BITMIME"])
    raw = inbox.wait_for(subject="exact", timeout=5).raw
    assert raw.startswith(b"Received: from ")
    assert raw.endswith(sent)
    assert hashlib.sha256(raw[-len(sent) :]).digest() == hashlib.sha256(sent).digest()


@pytest.mark.parametrize(("listener", "implicit"), [("starttls", False), ("tls", True), ("capture", None)])
def test_a_mailbox_has_its_own_user_and_password(
    running: Running, client: Farm, listener: str, implicit: bool | None
) -> None:
    inbox = client.create_mailbox()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = running.port("smtp", listener)
    with smtplib.SMTP_SSL("127.0.0.1", port, context=context) if implicit else smtplib.SMTP("127.0.0.1", port) as smtp:
        if implicit is False:
            smtp.starttls(context=context)
        smtp.login(inbox.smtp.user, inbox.smtp.password)
        smtp.send_message(a_mail("someone.else@elsewhere.example"))
    mail = inbox.wait_for(timeout=5)
    assert mail.recipients == ("someone.else@elsewhere.example",)


def test_a_wrong_password_is_refused_and_says_so(running: Running, client: Farm) -> None:
    inbox = client.create_mailbox()
    answers = []
    for user in (inbox.smtp.user, "nobody"):
        with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                smtp.login(user, "not the password")
            answers.append((refused.value.smtp_code, refused.value.smtp_error))
    assert answers[0][0] == 535
    assert answers[0] == answers[1]


def test_mail_for_nobody_in_particular_is_in_the_default_mailbox(running: Running, client: Farm) -> None:
    with smtplib.SMTP("127.0.0.1", running.port("smtp", "capture")) as smtp:
        smtp.send_message(a_mail("stranger@nowhere.example", "To a stranger"))
    mail = client.mailbox("inbox@mailfarm.test").wait_for(subject="To a stranger", timeout=5)
    assert mail.recipients == ("stranger@nowhere.example",)


def test_swaks(running: Running, client: Farm, component: Component) -> None:
    inbox = client.create_mailbox()
    done = subprocess.run(
        [
            *(component("swaks"), "--server", "127.0.0.1", "--port", str(running.port("smtp", "capture"))),
            *("--to", inbox.address, "--header", "Subject: from swaks", "--pipeline"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert inbox.wait_for(subject="from swaks", timeout=5).from_ is not None


def test_nodemailer_with_its_defaults(running: Running, client: Farm, component: Component) -> None:
    nodemailer = component("nodemailer")
    inbox = client.create_mailbox()
    script = """
        const mailer = require('nodemailer').createTransport({host: '127.0.0.1', port: Number(process.argv[1])});
        mailer.sendMail({from: 'a@shop.example', to: process.argv[2], subject: 'from Nodemailer',
          html: '<a href="https://shop.example/confirm">Confirm</a>',
          attachments: [{filename: 'a.txt', content: 'hi'}]})
          .then(info => console.log(JSON.stringify(info.accepted)));
    """
    done = subprocess.run(
        [component("node"), "-e", script, str(running.port("smtp", "capture")), inbox.address],
        cwd=nodemailer.parents[1],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [inbox.address]
    mail = inbox.wait_for(subject="Nodemailer", timeout=5)
    assert mail.link("confirm") == "https://shop.example/confirm"
    assert mail.attachments[0].content == b"hi"


def test_send_wait_list_show(running: Running, client: Farm) -> None:
    inbox = client.create_mailbox()
    mailfarm(running, "send", "--to", inbox.address)
    waited = json.loads(mailfarm(running, "wait", inbox.address, "--timeout", "5", "--json"))
    assert waited["messages"] or waited["id"]
    assert inbox.wait_for(timeout=5).subject in mailfarm(running, "list", inbox.address)
    newest = inbox.messages()[0]
    shown = mailfarm(running, "show", newest.id)
    assert newest.subject in shown
    assert mailfarm(running, "show", newest.id, "--raw").startswith("Received: from ")


def test_a_wait_in_vain_says_what_came_instead(running: Running, client: Farm) -> None:
    inbox = client.create_mailbox()
    mailfarm(running, "send", "--to", inbox.address, "--subject", "Welcome")
    inbox.wait_for(subject="Welcome", timeout=5)
    with pytest.raises(AssertionError, match="Welcome"):
        inbox.wait_for(subject="Reset", timeout=0.3, after=0)
    mailfarm(running, "wait", inbox.address, "--subject", "Reset", "--timeout", "0.3", code=4)


def test_a_refusal_can_be_read_afterwards(running: Running, client: Farm) -> None:
    address = "no.such.mailbox@mailfarm.test"
    with (
        smtplib.SMTP("127.0.0.1", running.port("mx")) as smtp,
        pytest.raises(smtplib.SMTPRecipientsRefused) as refused,
    ):
        smtp.sendmail("a@shop.example", [address], b"Subject: x\r\n\r\nx\r\n")
    code, text = refused.value.recipients[address]
    assert (code, text[:5]) == (550, b"5.1.1")
    refusals = client.refusals(address)
    assert refusals[-1].code == 550
    assert any(line.upper().startswith("C: RCPT TO:") for line in refusals[-1].lines)


def test_no_server_is_one_line_that_says_what_to_start() -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MAILFARM_")}
    for words in (["list"], ["wait", "--timeout", "1"], ["send"]):
        done = subprocess.run(
            [sys.executable, "-m", "mailfarm", *words],
            env=environ | {"MAILFARM_URL": "http://127.0.0.1:9", "MAILFARM_SMTP": "127.0.0.1:9"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 3, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert "mailfarm dev" in done.stderr
