"""``mailfarm send``: its options, and what it says."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import parseaddr
from pathlib import Path
from typing import Final

from . import sending
from .asking import authorities, where_to_send
from .plain import line, quoted
from .telling import DONE, FAILED, port, positive, tell

SEND: Final = """\
Send a test mail through SMTP. Without options: one with text, HTML, a link, a one-time code and an attachment, to the
default mailbox of a `mailfarm dev` on this machine.

examples:
  mailfarm send
  mailfarm send --to alice@mailfarm.test --subject "Hello" --text "How are you?"
  mailfarm send --html page.html --attach report.pdf
  mailfarm send --eml saved.eml --to alice@mailfarm.test
  mailfarm send --smtp smtps://127.0.0.1:1465 --insecure --user 01k... --password-file secret
  mailfarm send --smtp smtp+starttls://mail.example.org:587 --user 01k... --password-file secret

environment:
  MAILFARM_SMTP        where to send to; without it the server at MAILFARM_URL is asked, and if none answers there
                       it is smtp://127.0.0.1:1025
  MAILFARM_CA          the authority of its certificate, as for the other commands
  MAILFARM_URL, MAILFARM_TOKEN, MAILFARM_TOKEN_FILE   as for the other commands
exit codes:
  0 accepted, 1 refused by the server, in whole or in part, 2 wrong usage, 3 cannot connect
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    mail = parser.add_argument_group("the mail")
    mail.add_argument(
        "--to", action="append", metavar="ADDRESS", help="a recipient; may be repeated (the default mailbox)"
    )
    mail.add_argument(
        "--from", dest="from_", default="Example App <app@example.org>", metavar="ADDRESS", help="the sender"
    )
    mail.add_argument("--subject", default="Reset your password", help="the subject")
    mail.add_argument("--text", metavar="TEXT", help="the text; @FILE reads it from a file")
    mail.add_argument("--html", metavar="FILE", type=Path, help="a file with the HTML")
    mail.add_argument(
        "--attach", metavar="FILE", type=Path, action="append", default=[], help="attach a file; may be repeated"
    )
    mail.add_argument("--eml", metavar="FILE", type=Path, help="send this file as it is instead")
    mail.add_argument("--count", type=positive, default=1, metavar="N", help="send so many")
    where = parser.add_argument_group("the server")
    where.add_argument("--smtp", metavar="URL", help="smtp://, smtp+starttls:// or smtps:// with host and port")
    where.add_argument("--host", help="its host only")
    where.add_argument("--port", type=port, help="its port only")
    where.add_argument("--user", help="sign in as this user")
    where.add_argument("--password-file", metavar="FILE", type=Path, help="a file that holds the password")
    where.add_argument("--insecure", action="store_true", help="trust any certificate, such as the one dev makes")
    parser.add_argument("--json", action="store_true", help="print one JSON object a mail")


def run(args: argparse.Namespace) -> int:
    url = args.smtp or os.environ.get("MAILFARM_SMTP")
    found, inbox = where_to_send() if not (url and args.to) else ("", "")
    where = _where(args, url or found)
    to = args.to or [inbox]
    if args.eml is None:
        _compose(args, to, 1)  # a mistake in it is told before anything is sent
    else:
        sending.read(args.eml)
    try:
        smtp = sending.connect(where)
    except smtplib.SMTPException as error:
        return tell("send", f"{where} refuses: {'; '.join(map(line, sending.refusal_lines(error)))}", FAILED)
    except ssl.SSLCertVerificationError as error:
        text = f"the certificate of {where} is not trusted ({error.verify_message}); set MAILFARM_CA, or --insecure"
        return tell("send", text, FAILED)
    except OSError as error:
        reason = error.strerror or str(error)
        return tell("send", f"cannot connect to {where} ({reason}): is `mailfarm dev` running? or set MAILFARM_SMTP", 3)
    failed = 0
    with smtp:
        for number in range(1, args.count + 1):
            refused = _send_one(smtp, args, to, number)
            failed += bool(refused)
            for said in refused:
                tell("send", f"refused: {said}", FAILED)
    if failed and args.count > 1:
        tell("send", f"{failed} of {args.count} mails were refused", FAILED)
    return FAILED if failed else DONE


def _send_one(smtp: smtplib.SMTP, args: argparse.Namespace, to: Sequence[str], number: int) -> list[str]:
    """Send one mail, say so, and return what was refused of it."""
    subject = args.subject
    refused: dict[str, tuple[int, bytes]] = {}
    said: list[str] = []
    message_id = ""
    try:
        if args.eml is not None:
            sender = parseaddr(args.from_)[1]
            content = sending.with_crlf(sending.read(args.eml))
            refused = smtp.sendmail(sender, [parseaddr(each)[1] for each in to], content)
            subject = args.eml.name
        else:
            mail = _compose(args, to, number)
            subject = str(mail["Subject"])
            message_id = str(mail["Message-ID"])
            refused = smtp.send_message(mail)
    except smtplib.SMTPException as error:
        said = sending.refusal_lines(error)
    except UnicodeEncodeError:
        raise sending.Unusable("the server does not take addresses outside ASCII (SMTPUTF8)") from None
    except OSError as error:
        said = [f"the connection was lost: {error.strerror or error}"]
    else:
        said = [f"{address}: {sending.reply(*answer)}" for address, answer in refused.items()]
    accepted = [each for each in to if parseaddr(each)[1] not in refused] if not said or refused else []
    if args.json:
        print(json.dumps({"message_id": message_id, "subject": subject, "accepted": accepted, "refused": said}))
    elif accepted:
        print(f"sent {quoted(subject)} to {line(', '.join(accepted))}")
    return said


def _compose(args: argparse.Namespace, to: Sequence[str], number: int) -> EmailMessage:
    return sending.compose(
        to=to,
        from_=args.from_,
        subject=args.subject if args.count == 1 else f"{args.subject} ({number} of {args.count})",
        text=_text(args.text),
        html=None if args.html is None else sending.read_text(args.html),
        attach=args.attach,
        code=f"{secrets.randbelow(1_000_000):06d}",
        now=datetime.now(UTC),
        number=number,
    )


def _where(args: argparse.Namespace, url: str) -> sending.Server:
    where = sending.server(url)
    if args.host:
        where = replace(where, host=args.host)
    if args.port:
        where = replace(where, port=args.port)
    if args.user:
        where = replace(where, user=args.user)
    if args.password_file:
        where = replace(where, password=sending.read_text(args.password_file).rstrip("\r\n"))
    if where.user and not where.password:
        raise sending.Unusable("--user needs --password-file")
    return replace(where, verify=not args.insecure, ca=authorities())


def _text(given: str | None) -> str | None:
    return sending.read_text(Path(given[1:])) if given is not None and given.startswith("@") else given
