"""How many messages a second the SMTP core takes, with nothing around it: one process, no sockets.

    python bench/smtp_core.py [messages]

Each way of sending the same 4 KB mail on a kept connection is timed alone: in step (each command in a piece of its
own, as smtp-source sends), the content in two pieces, pipelined (RFC 2920), BDAT, many mails in one piece; then 1 MB
mails in pieces of 64 KiB. The host says yes to everything. The best of five rounds is printed.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence

from mailfarm.mail.reply import Reply
from mailfarm.smtp.requests import Chunk, Data, Discarded, End, Hello, Mail, Rcpt
from mailfarm.smtp.server import Server, ServerConfig

ANSWERS: dict[type, Reply] = {
    Hello: Reply(250, "", ""),
    Mail: Reply(250, "2.1.0", "Ok"),
    Rcpt: Reply(250, "2.1.5", "Ok"),
    Data: Reply(354, "", "Go ahead"),
    End: Reply(250, "2.0.0", "Ok"),
}
ROUNDS = 5


def content(size: int) -> bytes:
    """Text lines of 74 letters and spaces."""
    letters = "abcdefghijklmnopqrstuvwxyz    MJ.,"
    line = "".join(random.Random(1).choices(letters, k=74)).replace("\n.", "\n") + "\r\n"
    return ("Subject: a mail\r\n\r\n" + line * (size // len(line))).encode()


def run(pieces: Sequence[bytes], messages: int) -> float:
    """Seconds for feeding ``pieces`` until ``messages`` were taken."""
    server = Server(ServerConfig("mx.example"), 0.0)
    server.greet(Reply(220, "", "mx.example ESMTP"))
    server.receive(b"EHLO client.example\r\n", 0.0)
    taken = 0
    answers = ANSWERS
    begun = time.perf_counter()
    while taken < messages:
        for piece in pieces:
            server.receive(piece, 1.0)
            while (request := server.next_request()) is not None:
                kind = type(request)
                if kind is Chunk or kind is Discarded:
                    continue
                if kind is End:
                    taken += 1
                server.answer(answers[kind])
            server.output()
    return time.perf_counter() - begun


def main() -> None:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    body = content(4096)
    mail, rcpt = b"MAIL FROM:<sender@client.example>\r\n", b"RCPT TO:<recipient@mx.example>\r\n"
    pipelined = mail + rcpt + b"DATA\r\n"
    bdat = mail + rcpt + b"BDAT %d LAST\r\n%b" % (len(body), body)
    dotted = body.replace(b"\r\n", b"\r\n..\r\n", 1)
    large = content(1024 * 1024) + b".\r\n"
    ways: list[tuple[str, list[bytes], int]] = [
        ("in step", [mail, rcpt, b"DATA\r\n", body + b".\r\n"], messages),
        ("in step, content in two pieces", [mail, rcpt, b"DATA\r\n", body[:1500], body[1500:] + b".\r\n"], messages),
        ("in step, with a dotted line", [mail, rcpt, b"DATA\r\n", dotted + b".\r\n"], messages),
        ("pipelined", [pipelined, body + b".\r\n"], messages),
        ("BDAT", [bdat], messages),
        ("ten in one piece", [(pipelined + body + b".\r\n") * 10], messages),
        ("100 recipients, pipelined", [mail + rcpt * 100 + b"DATA\r\n", body + b".\r\n"], messages // 20),
        ("1 MB in 64 KiB pieces", [pipelined] + [large[n : n + 65536] for n in range(0, len(large), 65536)], 50),
    ]
    for name, pieces, count in ways:
        best = min(run(pieces, count) for _ in range(ROUNDS))
        print(f"{name:32} {count / best:10,.0f} messages/s  {best / count * 1e6:10,.1f} µs each")


if __name__ == "__main__":
    main()
