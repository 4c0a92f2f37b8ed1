"""Mail to send under load: realistic, of many sizes, and the same for the same seed.

Bodies of one letter compress to nothing and flatter every server, so these have words in the proportions of a
language, HTML as products write it, and attachments that do not compress. Content is 7-bit with CR LF, dot-stuffed once
beforehand (RFC 5321 §4.5.2), so that sending costs the generator nothing.
"""

from __future__ import annotations

import base64
import quopri
import random
from dataclasses import dataclass

_LANGUAGE = (
    "the of and to in a is that for it was on are as with be at by this have from or one had not but what all were "
    "when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more two like him see time could no make than first been its who now people my made over did "
    "down only way find use may water long little very after words called just where most know get through back much "
    "before go good new write our used me man too any day same right look think also around another came come work "
    "three word must because does part even place well such here take why things help put years different away again "
    "off went old number great tell men say small every found still between name should home big give air line set own "
    "under read last never us left end along while might next sound below saw something thought both few those always "
    "looked show large often together asked house world going want school important until form food keep children feet "
    "land side without boy once animals life enough took sometimes four head above kind began almost live page got "
    "earth need far hand high year mother light parts country father let night following picture being study second "
    "account order invoice payment customer delivery address confirm password reset link subscription receipt "
    "grüße façade naïve résumé Straße ångström smörgåsbord crème señor"
)
_WORDS = _LANGUAGE.split()
_WEIGHTS = [1 / (rank + 2) for rank in range(len(_WORDS))]
_SUBJECTS = ("Your order", "Reset your password", "Invoice", "Weekly report", "Welcome", "Build failed", "Re: meeting")
_SIZES = ((2_000, 6_000, 40), (6_000, 20_000, 30), (20_000, 80_000, 20), (80_000, 300_000, 10))
"""What "mixed" draws from: from, to, and how many in a hundred. The mean is about 30 KB."""


@dataclass(frozen=True, slots=True)
class Mail:
    """One message: its content as it will be stored, and as it crosses the wire with the closing dot."""

    content: bytes
    wire: bytes


def make(size: int, dice: random.Random) -> Mail:
    """A message of about ``size`` octets (never less than about 1,300): text, HTML and, when large, attachments."""
    boundary, inner = f"=_{dice.getrandbits(96):024x}", f"=_{dice.getrandbits(96):024x}"
    room = max(size - 900, 400)
    written = min(room, 24_000)
    text, html = _text(written * 3 // 10, dice), _html(written * 7 // 10, dice)
    body = (
        f'--{inner}\r\nContent-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n'
        f"{text}\r\n--{inner}\r\n"
        f'Content-Type: text/html; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n'
        f"{html}\r\n--{inner}--\r\n"
    )
    top = f'multipart/alternative; boundary="{inner}"'
    rest = room - written
    if rest > 1_000:
        body = f"--{boundary}\r\nContent-Type: {top}\r\n\r\n{body}"
        top = f'multipart/mixed; boundary="{boundary}"'
        number = 0
        while rest > 1_000:
            number += 1
            piece = rest if rest < 200_000 else dice.randrange(100_000, min(rest, 800_000))
            body += f"\r\n--{boundary}\r\n{_attachment(piece, number, dice)}"
            rest -= piece
        body += f"\r\n--{boundary}--\r\n"
    content = (_head(top, dice) + "\r\n" + body).encode("ascii")
    return Mail(content, dot_stuffed(content))


def corpus(kind: str, count: int = 200, seed: int = 5321) -> list[Mail]:
    """``count`` messages: of ``kind`` "mixed", or about as many octets each as ``kind`` says ("4000")."""
    dice = random.Random(f"{seed} {kind}")
    if kind != "mixed":
        size = int(kind)
        return [make(int(size * dice.uniform(0.97, 1.03)), dice) for _ in range(min(count, max(4, 20_000_000 // size)))]
    spans = dice.choices(_SIZES, [span[2] for span in _SIZES], k=count)
    return [make(dice.randrange(span[0], span[1]), dice) for span in spans]


_MARK = b"Message-ID: <"
_DIGITS = 20


def halves(wire: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the left side of the Message-ID, to make a message of its own with ``stamp``."""
    at = wire.index(_MARK) + len(_MARK)
    return wire[:at], wire[at + _DIGITS :]


def stamp(label: str, number: int) -> bytes:
    """The left side of a Message-ID nothing else has: ``label``, at most eight characters, and the number."""
    return f"{label}-{number:0{_DIGITS - 1 - len(label)}}".encode()


def dot_stuffed(content: bytes) -> bytes:
    """Content as it crosses the wire after DATA, with the dot that ends it (RFC 5321 §4.1.1.4, §4.5.2)."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    return stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n")


def _head(content_type: str, dice: random.Random) -> str:
    host = f"app{dice.randrange(100)}.shop.example"
    return (
        f"Received: from {host} ({host} [192.0.2.{dice.randrange(1, 255)}])\r\n"
        f"\tby relay.shop.example with ESMTPS id {dice.getrandbits(48):x};\r\n"
        f"\tTue, 3 Mar 2026 10:{dice.randrange(60):02}:{dice.randrange(60):02} +0000\r\n"
        f'From: "Shop Example" <no-reply@shop.example>\r\n'
        f"To: Inbox <inbox@mailfarm.test>\r\n"
        f"Subject: {dice.choice(_SUBJECTS)} {dice.randrange(10**6)}\r\n"
        f"Date: Tue, 03 Mar 2026 10:00:00 +0000\r\n"
        f"Message-ID: <{dice.getrandbits(80):020x}@{host}>\r\n"
        f"List-Unsubscribe: <https://shop.example/u/{dice.getrandbits(64):016x}>\r\n"
        f"MIME-Version: 1.0\r\n"
        f"Content-Type: {content_type}\r\n"
    )


def _sentence(dice: random.Random) -> str:
    words = dice.choices(_WORDS, _WEIGHTS, k=dice.randrange(6, 18))
    return " ".join(words).capitalize() + "."


def _text(size: int, dice: random.Random) -> str:
    lines = [f"Your code is {dice.randrange(10**6):06}.", f"https://shop.example/reset?t={dice.getrandbits(128):032x}"]
    length = 0
    while length < size:
        lines.append(_sentence(dice))
        length += len(lines[-1]) + 2
    return _printable("\n".join(lines))


def _html(size: int, dice: random.Random) -> str:
    link = f"https://shop.example/reset?t={dice.getrandbits(128):032x}"
    rows = [f'<html><body style="font-family:sans-serif"><p><a href="{link}">Reset your password</a></p><table>']
    length = 200
    while length < size:
        rows.append(f'<tr><td style="padding:4px;color:#{dice.getrandbits(24):06x}">{_sentence(dice)}</td></tr>')
        length += len(rows[-1]) + 8
    return _printable("\n".join([*rows, "</table></body></html>"]))


def _printable(text: str) -> str:
    return quopri.encodestring(text.encode()).decode("ascii").replace("\n", "\r\n")


def _attachment(size: int, number: int, dice: random.Random) -> str:
    data = base64.b64encode(dice.randbytes(max(size * 57 // 78, 1))).decode("ascii")
    lines = "\r\n".join(data[start : start + 76] for start in range(0, len(data), 76))
    kind, name = dice.choice(
        (("application/pdf", "invoice.pdf"), ("image/png", "logo.png"), ("application/zip", "a.zip"))
    )
    return (
        f'Content-Type: {kind}; name="{number}-{name}"\r\nContent-Transfer-Encoding: base64\r\n'
        f'Content-Disposition: attachment; filename="{number}-{name}"\r\n\r\n{lines}'
    )
