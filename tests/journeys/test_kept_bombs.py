"""Messages made to break a reader, through the whole house: each is kept, listed, counted and read back as it was sent,
or refused with a reason before it is taken. None holds up the next.

What reading them costs, and what is shown of them, is in ``tests/inbound/test_bombs.py``.
"""

from __future__ import annotations

import gzip
import io
import smtplib
import struct
import zipfile
import zlib
from base64 import encodebytes
from hashlib import sha256

import pytest
from running import Running

from mailfarm.sdk import Farm


def mail(*fields: bytes, body: bytes = b"body\r\n") -> bytes:
    return b"Subject: bomb\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def nested(levels: int) -> bytes:
    heads = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) for level in range(levels)
    )
    return b"Subject: bomb\r\n" + heads + b"\r\nleaf\r\n"


def attached(name: bytes, data: bytes, kind: bytes = b"application/octet-stream") -> bytes:
    encoded = encodebytes(data).replace(b"\n", b"\r\n")
    return mail(
        b"Content-Type: multipart/mixed; boundary=b",
        body=b"--b\r\nContent-Type: %b\r\nContent-Disposition: attachment; filename=%b\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n%b--b--\r\n" % (kind, name, encoded),
    )


def zip_bomb() -> bytes:
    """40 MB of zeros in a zip file in a zip file."""
    data = b"\0" * 40_000_000
    for _ in range(2):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x", data)
        data = file.getvalue()
    return data


def image_bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels, all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * 1_000_000, 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack("!IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
    )


BOMBS = {
    **{f"{levels} multiparts": lambda levels=levels: nested(levels) for levels in (10, 10_000)},
    **{
        f"{levels} messages": lambda levels=levels: b"Subject: bomb\r\n"
        + b"Content-Type: message/rfc822\r\n\r\n" * levels
        + b"\r\nleaf\r\n"
        for levels in (10, 10_000)
    },
    "one boundary for all": lambda: nested(1).replace(b"b0", b"b") * 1000,
    "boundaries that begin alike": lambda: b"Subject: bomb\r\n"
    + b"".join(
        b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n--%b\r\n" % (b"b" * n, b"b" * n) for n in range(1, 70)
    )
    + b"\r\n",
    "100,000 parts": lambda: mail(
        b"Content-Type: multipart/mixed; boundary=b", body=b"--b\r\n\r\nx\r\n" * 100_000 + b"--b--\r\n"
    ),
    "one header of 10 MB": lambda: mail(b"X:" + (b" " + b"a" * 900 + b"\r\n") * 11_000 + b" end"),
    "a million headers": lambda: mail(*[b"X: a"] * 1_000_000),
    "continuations with gaps": lambda: mail(
        b"Content-Type: a/b" + b"".join(b";\r\n name*%d*=%%41" % n for n in range(0, 60_000, 3))
    ),
    "base64 with no line ends": lambda: mail(b"Content-Transfer-Encoding: base64", body=b"QUJD" * 250_000 + b"\r\n"),
    "a million nested comments": lambda: mail(b"From:" + (b" " + b"(" * 900 + b"\r\n") * 1_112 + b" a@x.test"),
    "quadratic HTML": lambda: mail(b"Content-Type: text/html", body=b"<a href=<table><!-- </a>\r\n" * 40_000),
    "a zip bomb": lambda: attached(b"bomb.zip", zip_bomb(), b"application/zip"),
    "a gzip bomb": lambda: attached(b"bomb.gz", gzip.compress(b"\0" * 40_000_000), b"application/gzip"),
    "an image bomb": lambda: attached(b"bomb.png", image_bomb(), b"image/png"),
    **{
        f"an attachment named {name!r}": lambda name=name: attached(name, b"x")
        for name in (
            b'"../../etc/passwd"', b'"/etc/passwd"', b'"..\\\\..\\\\boot.ini"', b'"C:\\\\boot.ini"',
            b"utf-8''a%00.txt", b'"=?utf-8?q?=E2=80=AEtxt.exe?="', b'".."',
        )
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def port(running: Running) -> int:
    return running.port("smtp", "capture")


@pytest.mark.parametrize("name", BOMBS)
def test_it_is_kept_listed_and_read_back_as_it_was_sent(running: Running, port: int, name: str) -> None:
    content = BOMBS[name]()
    with Farm(running.url) as farm, smtplib.SMTP("127.0.0.1", port, timeout=60) as smtp:
        inbox = farm.create_mailbox()
        smtp.ehlo()
        for each in (content, mail(body=b"the next one\r\n")):
            assert smtp.mail("a@client.example")[0] == 250
            assert smtp.rcpt(inbox.address)[0] == 250
            assert smtp.data(each)[0] == 250
        bomb, after = inbox.wait_for_all(2, timeout=60)
        if "next one" in bomb.text:
            bomb, after = after, bomb
        assert bomb.subject.startswith("bomb")
        assert after.text.startswith("the next one")
        assert len(inbox.messages()) == inbox.refresh().messages == 2
        assert sha256(bomb.read_raw()[-len(content) :]).digest() == sha256(content).digest()
        for attachment in bomb.attachments:
            assert not set(attachment.filename) & set("/\\\0\u202e")
            assert attachment.filename not in ("..", ".")
        inbox.delete()


def test_a_header_that_is_one_line_of_10_megabytes_is_refused_and_says_why(running: Running, port: int) -> None:
    with Farm(running.url) as farm, smtplib.SMTP("127.0.0.1", port, timeout=60) as smtp:
        inbox = farm.create_mailbox()
        smtp.ehlo()
        smtp.mail("a@client.example")
        smtp.rcpt(inbox.address)
        code, text = smtp.data(mail(b"X: " + b"a" * 10_000_000))
        assert (code, text) == (500, b"5.5.2 A line of the content is too long")
        assert inbox.messages() == []
