"""``mailfarm send``: a test mail through SMTP, as an application would send it.

Standard library only: what this sends, any Python program can.
"""

from __future__ import annotations

import mimetypes
import re
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from . import trust

CAPTURE: Final = "smtp://127.0.0.1:1025"
TIMEOUT: Final = 60.0
OURSELVES: Final = "localhost"  # for EHLO: smtplib would ask the DNS, which may take long
SCHEMES: Final = {"smtp": 1025, "smtp+starttls": 1587, "smtps": 1465}

TEXT: Final = """\
Hello,

somebody asked to reset the password of your account.

    Your code:  {code}
    Your link:  https://app.example/reset?token={token}

The link is good for one hour. If it was not you, do nothing.

This is a test mail from `mailfarm send`.
"""
HTML: Final = """\
<!doctype html>
<html lang="en">
<body style="margin:0;background:#f4f5f7;font:16px/1.5 system-ui,sans-serif;color:#1f2430">
<div style="max-width:32rem;margin:2rem auto;padding:2rem;background:#fff;border-radius:12px">
<h1 style="margin-top:0;font-size:1.4rem">Reset your password</h1>
<p>Hello,</p>
<p>somebody asked to reset the password of your account. Your code:</p>
<p style="font:600 2rem/1 ui-monospace,monospace;letter-spacing:.2em;color:#3450d8">{code}</p>
<p><a href="https://app.example/reset?token={token}"
 style="display:inline-block;padding:.7rem 1.4rem;background:#3450d8;color:#fff;border-radius:8px;text-decoration:none"
>Reset password</a></p>
<p style="color:#6b7280">The link is good for one hour. If it was not you, do nothing.</p>
<p style="color:#6b7280;font-size:.85rem">This is a test mail from <code>mailfarm send</code>.</p>
</div>
</body>
</html>
"""
ATTACHMENT: Final = "name,value\nhello,world\n"


class Unusable(ValueError):
    """Something given on the command line cannot be used; the text says what, and what to write."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to send to. ``tls`` is none, starttls or implicit; ``verify`` whether its certificate must be trusted, and
    ``ca`` the file of the authority that signed it, if the system does not know that one."""

    host: str
    port: int
    tls: str = "none"
    user: str = ""
    password: str = ""
    verify: bool = True
    ca: str | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def server(url: str) -> Server:
    """``127.0.0.1:1025``, ``smtp://host:port``, ``smtp+starttls://user:password@host:1587``, ``smtps://…:1465``."""
    parts = urlsplit(url if "://" in url else f"smtp://{url}")
    try:
        port = parts.port or SCHEMES[parts.scheme]
    except ValueError:
        raise Unusable(f"the port of {url!r} is not a number up to 65535; write for example {CAPTURE}") from None
    except KeyError:
        raise Unusable(f"{url!r} is no SMTP URL; write for example {CAPTURE}") from None
    if not parts.hostname or parts.path.strip("/") or parts.query:
        raise Unusable(f"{url!r} is no SMTP URL; write for example {CAPTURE}")
    tls = {"smtps": "implicit", "smtp+starttls": "starttls"}.get(parts.scheme, "none")
    return Server(parts.hostname, port, tls, unquote(parts.username or ""), unquote(parts.password or ""))


def compose(
    *,
    to: Sequence[str],
    from_: str,
    subject: str,
    text: str | None,
    html: str | None,
    attach: Sequence[Path],
    code: str,
    now: datetime,
    number: int = 1,
) -> EmailMessage:
    """A mail. With neither text nor HTML nor attachments given: one with a link, a one-time code and an attachment.

    Raises Unusable for an address or subject that cannot stand in a header, and for a file that cannot be read.
    """
    mail = EmailMessage()
    for each in (from_, *to):
        if not re.fullmatch(r"[^\s<>@,]+@[^\s<>@,]+", parseaddr(each)[1]):
            raise Unusable(f"{each!r} is no address; write for example someone@example.org")
    try:
        mail["From"] = from_
        mail["To"] = ", ".join(to)
        mail["Subject"] = subject
    except ValueError as error:
        raise Unusable(f"{error}: give one line, and addresses such as someone@example.org") from None
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = make_msgid(domain=parseaddr(from_)[1].rpartition("@")[2] or "localhost")
    given = text is not None or html is not None or bool(attach)
    token = f"{code}{number:04d}"
    if not given:
        text, html = TEXT.format(code=code, token=token), HTML.format(code=code, token=token)
    if text is not None or html is None:
        mail.set_content(text or "")
    if html is not None:
        if text is None:
            mail.set_content(html, subtype="html")
        else:
            mail.add_alternative(html, subtype="html")
    if not given:
        mail.add_attachment(ATTACHMENT.encode(), maintype="text", subtype="csv", filename="hello.csv")
    for path in attach:
        main, _, sub = (mimetypes.guess_type(path.name)[0] or "application/octet-stream").partition("/")
        mail.add_attachment(read(path), maintype=main, subtype=sub, filename=path.name)
    return mail


def read(path: Path) -> bytes:
    """A file's octets. Raises Unusable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror}") from None


def read_text(path: Path) -> str:
    """A file's text, which must be UTF-8. Raises Unusable."""
    try:
        return read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise Unusable(f"{path} is not UTF-8 text; give it with --attach") from None


def with_crlf(content: bytes) -> bytes:
    """Line ends as SMTP wants them; content that has a CR already is left as it is."""
    return content if b"\r" in content else content.replace(b"\n", b"\r\n")


def connect(where: Server) -> smtplib.SMTP:
    """A session that has said EHLO, turned on TLS and signed in, as ``where`` says. Raises what smtplib raises."""
    context = trust.context(where.ca)
    if not where.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    smtp: smtplib.SMTP
    if where.tls == "implicit":
        smtp = smtplib.SMTP_SSL(where.host, where.port, OURSELVES, timeout=TIMEOUT, context=context)
    else:
        smtp = smtplib.SMTP(where.host, where.port, OURSELVES, timeout=TIMEOUT)
    try:
        if where.tls == "starttls":
            smtp.starttls(context=context)
        if where.user:
            smtp.login(where.user, where.password)
    except BaseException:
        smtp.close()
        raise
    return smtp


def refusal_lines(error: smtplib.SMTPException) -> list[str]:
    """What the server said, in full, a line for each recipient it refused."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return [f"{address}: {reply(*answer)}" for address, answer in error.recipients.items()]
    if isinstance(error, smtplib.SMTPSenderRefused):
        return [f"sender {error.sender}: {reply(error.smtp_code, error.smtp_error)}"]
    if isinstance(error, smtplib.SMTPResponseException):
        return [reply(error.smtp_code, error.smtp_error)]
    return [str(error) or type(error).__name__]


def reply(code: int, text: bytes | str) -> str:
    """An SMTP reply in one line, or in several as it came."""
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {shown}"
