"""The server core as its host sees it: questions, answers, what is in the output when, what is kept."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from smtp.dialog import GREETING, decide

from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.mail.reply import Reply
from mailfarm.smtp import replies
from mailfarm.smtp.requests import Auth, Chunk, Data, Discarded, End, Hello, Mail, Rcpt, Refused, Request, StartTls
from mailfarm.smtp.server import Deadlines, Server, ServerConfig

CONFIG = ServerConfig("mx.example", max_size=100_000)
AUTH = ServerConfig("mx.example", max_size=200, starttls=True, auth=("PLAIN", "LOGIN"), auth_without_tls=True)
OK = Reply(250, "2.0.0", "ok")
UPTO_DATA = b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\nRCPT TO:<b@mx.example>\r\nDATA\r\n"


def greeted(config: ServerConfig = CONFIG, *, tls: bool = False) -> Server:
    server = Server(config, 0.0, tls=tls)
    server.greet(GREETING)
    assert server.output() == b"220 mx.example ESMTP ready\r\n"
    return server


def pump(server: Server) -> list[Request]:
    """Answer everything as the dialogs' host does."""
    asked: list[Request] = []
    while (request := server.next_request()) is not None:
        asked.append(request)
        if not isinstance(request, (Chunk, Discarded, Refused)):
            server.answer(decide(request, server.hello))
    return asked


def play(config: ServerConfig, pieces: list[bytes]) -> tuple[bytes, list[Request], bool]:
    """(output, what was asked with chunks joined, closing)."""
    server = greeted(config)
    asked: list[Request] = []
    output = b""
    for piece in pieces:
        server.receive(piece, 1.0)
        for request in pump(server):
            if isinstance(request, Chunk) and asked and isinstance(asked[-1], Chunk):
                asked[-1] = Chunk(asked[-1].data + request.data)
            else:
                asked.append(request)
        output += server.output()
    # Content that was begun and not ended is handed on when it has gathered: that is where pieces may differ
    if asked and isinstance(asked[-1], Chunk):
        asked.pop()
    dropped = [a for n, a in enumerate(asked) if not (isinstance(a, Chunk) and isinstance(asked[n + 1], Discarded))]
    return output, dropped, server.closing


commands = st.sampled_from(
    [
        b"EHLO c.example\r\n", b"HELO c\r\n", b"EHLO refused.example\r\n", b"EHLO\r\n", b"MAIL FROM:<a@c.example>\r\n",
        b"MAIL FROM:<>\r\n",
        b"MAIL FROM:<full@c.example> SIZE=10\r\n", b"MAIL FROM:<reject@c.example> BODY=8BITMIME\r\n",
        b"RCPT TO:<b@mx.example>\r\n", b"RCPT TO:<nobody@mx.example>\r\n", b"RCPT TO:<@a:b@c> NOTIFY=NEVER\r\n",
        b"DATA\r\n", b"hello\r\n", b".\r\n", b"..\r\n", b"text\r\n.\r\n", b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n",
        b"BDAT 5\r\nabcde", b"BDAT 3 LAST\r\na\r\n", b"BDAT 0 LAST\r\n", b"BDAT 300\r\n", b"BDAT x\r\n",
        b"STARTTLS\r\n",
        b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", b"AUTH LOGIN\r\n", b"dXNlcg==\r\n", b"AUTH PLAIN AHUAdw==\r\n", b"*\r\n",
        b"VRFY a\r\n", b"EXPN a\r\n", b"HELP\r\n", b"GET / HTTP/1.1\r\n", b"\r\n", b"\n", b"\r", b"\0", b".", b"\x16",
        b"x" * 300 + b"\r\n", b"x" * 2100, b"A" * 13000, b"\r\n.\n", b"\r\n.\r\r\n",
        b"MAIL FROM:<\xc3\xa9@c> SMTPUTF8\r\n",
    ]
)  # fmt: skip
streams = st.one_of(
    st.lists(commands, max_size=25).map(b"".join),
    st.lists(commands, max_size=12).map(lambda more: UPTO_DATA + b"".join(more)),
    st.lists(st.one_of(commands, st.binary(max_size=20)), max_size=15).map(b"".join),
)


@given(streams, st.lists(st.integers(0, 3000), max_size=8), st.booleans())
@example(UPTO_DATA + b"\r\n.\r\n", [], False)
@example(b"x" * 2100 + b"\r\n", [2048], False)
def test_any_split_gives_the_same(stream: bytes, cuts: list[int], auth: bool) -> None:
    config = AUTH if auth else CONFIG
    pieces = []
    start = 0
    for stop in [*sorted(cut for cut in cuts if cut < len(stream)), len(stream)]:
        pieces.append(stream[start:stop])
        start = stop
    # In pieces STARTTLS would throw away what came with it and not what comes later; so the session ends there
    if b"STARTTLS" in stream.upper():
        config = CONFIG
    assert play(config, pieces) == play(config, [stream])


@given(streams)
def test_octet_by_octet_gives_the_same(stream: bytes) -> None:
    stream = stream[:6000].replace(b"STARTTLS", b"NOOP")
    assert play(AUTH, [bytes([octet]) for octet in stream]) == play(AUTH, [stream])


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_no_octets_make_it_raise(pieces: list[bytes]) -> None:
    for start in (b"", UPTO_DATA, b"EHLO c\r\nAUTH LOGIN\r\n"):
        play(AUTH, [start, *pieces])


@pytest.mark.parametrize("length", [2048, 2049, 65535, 65536, 65537, 65538])
@pytest.mark.parametrize("cut", [1, 2047, 2048, 30000, 65536])
def test_long_lines_at_their_limits(length: int, cut: int) -> None:
    stream = b"x" * (length - 2) + b"\r\nNOOP\r\n"
    output, _, closing = play(CONFIG, [stream[n : n + cut] for n in range(0, len(stream), cut)])
    assert closing == (length > 65536)
    if length <= 2048:
        assert output == b"500 5.5.1 Command unknown\r\n250 2.0.0 Ok\r\n"
    elif length <= 65536:
        assert output == b"500 5.5.2 Line too long\r\n250 2.0.0 Ok\r\n"
    else:
        assert output == replies.BAD_LINE.encode()


def test_one_question_at_a_time_and_replies_in_one_output() -> None:
    server = greeted()
    server.receive(UPTO_DATA + b"hi\r\n.\r\nNOOP\r\n", 1.0)
    assert server.next_request() == Hello("EHLO", "c.example")
    assert server.pending
    assert server.next_request() is None
    assert server.output() == b""
    server.answer(OK)
    assert server.hello == Hello("EHLO", "c.example")
    assert server.next_request() == Mail("a@c.example")
    server.answer(Reply(250, "2.1.0", "Sender ok"))
    assert server.next_request() == Rcpt(Recipient("b@mx.example"))
    server.answer(Reply(250, "2.1.5", "Recipient ok"))
    envelope = Envelope("a@c.example", (Recipient("b@mx.example"),))
    assert server.next_request() == Data(envelope)
    assert not server.idle
    server.answer(OK)
    assert server.next_request() == Chunk(b"hi\r\n")
    assert server.next_request() == End(envelope, 4)
    server.receive(b"QUIT\r\n", 2.0)
    assert server.next_request() is None
    assert server.buffered == len(b"NOOP\r\nQUIT\r\n")
    server.answer(Reply(250, "2.0.0", "Taken"))
    assert server.next_request() is None
    tail = server.output().partition(b"250 2.1.0 Sender ok\r\n")[2]
    assert tail.split(b"\r\n") == [
        b"250 2.1.5 Recipient ok",
        b"354 End data with <CR><LF>.<CR><LF>",
        b"250 2.0.0 Taken",
        b"250 2.0.0 Ok",
        b"221 2.0.0 Bye",
        b"",
    ]
    assert server.closing
    assert server.buffered == 0


def test_content_that_is_all_there_is_one_chunk() -> None:
    server = greeted(ServerConfig("mx.example"))
    content = (b"x" * 70 + b"\r\n") * 5000
    server.receive(UPTO_DATA + content + b".\r\n", 1.0)
    assert [r.data for r in pump(server) if isinstance(r, Chunk)] == [content]
    # also when it came while a decision was pending
    server.receive(UPTO_DATA + content[:50_000], 1.0)
    assert isinstance(server.next_request(), Hello)
    for start in range(50_000, len(content), 1000):
        server.receive(content[start : start + 1000], 1.0)
    server.receive(b".\r\n", 1.0)
    server.answer(OK)
    assert [r.data for r in pump(server) if isinstance(r, Chunk)] == [content]


def test_little_is_held_of_content_that_comes_in_pieces() -> None:
    server = greeted(ServerConfig("mx.example", max_size=10**8))
    server.receive(UPTO_DATA, 1.0)
    pump(server)
    given_on = 0
    piece = (b"y" * 62 + b"\r\n") * 10
    for n in range(1, 1001):
        server.receive(piece, 1.0)
        given_on += sum(len(r.data) for r in pump(server) if isinstance(r, Chunk))
        assert server.buffered == 0
        assert n * len(piece) - given_on <= 64 * 1024


def test_what_is_too_big_is_not_held_at_all() -> None:
    server = greeted()
    server.receive(UPTO_DATA, 1.0)
    pump(server)
    handed = 0
    for _ in range(100):
        server.receive(b"y" * 9998 + b"\r\n", 1.0)
        handed += sum(len(r.data) for r in pump(server) if isinstance(r, Chunk))
    assert handed <= CONFIG.max_size
    server.receive(b".\r\n", 1.0)
    envelope = Envelope("a@c.example", (Recipient("b@mx.example"),))
    assert pump(server) == [Discarded(replies.TOO_BIG, envelope)]
    assert server.output().endswith(b"552 5.3.4 Message is larger than this server takes\r\n")


@pytest.mark.parametrize(
    ("lines", "transcript"),
    [
        (b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", "C: AUTH PLAIN ***"),
        (b"AUTH LOGIN dXNlcg==\r\nc2VjcmV0\r\n", "C: AUTH LOGIN ***"),
        (b"AUTH c2VjcmV0\r\n", "C: AUTH ***"),
        (b"AUTHc2VjcmV0\r\n", "C: ***"),
        (b"AUTH FOO\r\nc2VjcmV0\r\n", "C: AUTH ***"),
        (b"AUTH PLAIN\r\n" + b"c2VjcmV0" * 2000 + b"\r\n", "C: AUTH PLAIN ***"),
    ],
)
def test_no_secret_in_a_transcript(lines: bytes, transcript: str) -> None:
    server = greeted(AUTH)
    server.receive(b"EHLO c\r\n" + lines, 1.0)
    asked = pump(server)
    assert transcript in server.transcript
    assert not any("c2VjcmV0" in line for line in server.transcript)
    assert not any("secret" in repr(request) for request in asked)


def test_a_transcript_is_of_one_transaction_and_short() -> None:
    server = greeted()
    server.receive(
        b"EHLO c\r\nMAIL FROM:<a@c>\r\nRSET\r\nMAIL FROM:<b@c>\r\nRCPT TO:<nobody@mx>\r\nNOOP " + b"x" * 300, 1.0
    )
    server.receive(b"\xff\x07\r\n", 1.0)
    pump(server)
    assert server.transcript == (
        "C: MAIL FROM:<b@c>",
        "S: 250 2.1.0 Sender ok",
        "C: RCPT TO:<nobody@mx>",
        "S: 550 5.1.1 No such user",
        "C: NOOP " + "x" * 195,
        "S: 250 2.0.0 Ok",
    )
    server.receive(b"NOOP\r\n" * 100, 1.0)
    pump(server)
    assert len(server.transcript) == 20


@pytest.mark.parametrize("length", range(195, 206))
def test_of_a_long_command_a_transcript_has_its_beginning_alone(length: int) -> None:
    server = greeted()
    command = b"NOOP " + b"x" * (length - 5)
    server.receive(b"EHLO c\r\nMAIL FROM:<a@c>\r\n" + command + b"\r\n", 1.0)
    pump(server)
    assert server.transcript[2] == "C: " + command[:200].decode()


def test_starttls() -> None:
    server = greeted(AUTH)
    server.receive(b"EHLO c\r\nSTARTTLS\r\nMAIL FROM:<x@y>\r\n", 1.0)
    assert isinstance(server.next_request(), Hello)
    server.answer(OK)
    assert server.next_request() == StartTls()
    server.answer(Reply(220, "2.0.0", "Go"))
    assert server.next_request() is None
    assert server.buffered == 0
    assert not server.tls
    server.receive(b"RCPT TO:<x@y>\r\n", 1.0)
    assert server.buffered == 0
    server.tls_started()
    assert server.tls
    assert server.hello is None
    assert server.next_request() is None
    server.receive(b"NOOP\r\n", 1.0)
    assert server.next_request() is None
    assert server.output().endswith(b"220 2.0.0 Go\r\n250 2.0.0 Ok\r\n")


def test_authenticated() -> None:
    server = greeted(AUTH)
    server.receive(b"EHLO c\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n", 1.0)
    assert isinstance(server.next_request(), Hello)
    server.answer(OK)
    assert server.next_request() == Auth("PLAIN", "user", "secret")
    assert not server.authenticated
    server.answer(Reply(454, "4.7.0", "Later"))
    assert not server.authenticated
    server.receive(b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", 1.0)
    assert server.next_request() == Auth("PLAIN", "user", "secret")
    server.answer(Reply(235, "2.7.0", "Welcome"))
    assert server.authenticated


def test_a_refused_session_is_over() -> None:
    server = Server(CONFIG, 0.0)
    server.receive(b"EHLO early\r\n", 0.0)
    assert server.next_request() is None
    server.greet(Reply(421, "4.7.0", "Too many connections"))
    assert server.closing
    assert server.output() == b"421 4.7.0 Too many connections\r\n"
    assert server.next_request() is None


def test_a_reply_with_close_ends_the_session() -> None:
    server = greeted()
    server.receive(b"EHLO c\r\nMAIL FROM:<a@c>\r\nRCPT TO:<b@c>\r\nNOOP\r\n", 1.0)
    for reply in (OK, OK, Reply(550, "5.7.1", "Go away", close=True)):
        assert server.next_request() is not None
        server.answer(reply)
    assert server.closing
    assert server.output().endswith(b"550 5.7.1 Go away\r\n")
    assert server.next_request() == Discarded(None, Envelope("a@c"))
    assert server.next_request() is None


def test_a_time_out_while_a_decision_is_pending() -> None:
    server = greeted()
    server.receive(b"EHLO c\r\nMAIL FROM:<a@c>\r\nRCPT TO:<b@c>\r\n", 1.0)
    pump_until(server, Rcpt)
    assert server.deadline == float("inf")
    server.time_out(500.0)
    assert server.closing
    assert server.output().endswith(b"421 4.4.2 Time-out; closing the connection\r\n")
    server.answer(OK)  # too late, and harmless
    assert server.output() == b""
    assert server.next_request() == Discarded(None, Envelope("a@c"))


def pump_until(server: Server, kind: type) -> Request:
    while True:
        request = server.next_request()
        assert request is not None
        if isinstance(request, kind):
            return request
        assert not isinstance(request, (Chunk, Discarded, Refused))
        server.answer(decide(request, server.hello))


def test_the_hosts_time_is_not_the_clients() -> None:
    config = ServerConfig("mx.example", deadlines=Deadlines(command=10, data_block=10, transaction=100))
    server = greeted(config)
    server.receive(UPTO_DATA, 0.0)
    pump_until(server, Data)
    server.answer(OK, 90.0)
    assert server.deadline == 100.0  # 90 and a block's 10, not the 100 of the transaction
    server.receive(b"x" * 1000, 99.0)
    assert server.deadline == 109.0


def test_a_time_out_does_not_discard_what_the_host_is_storing() -> None:
    server = greeted()
    server.receive(UPTO_DATA + b"x\r\n.\r\n", 1.0)
    while not isinstance(request := server.next_request(), End):
        if not isinstance(request, Chunk):
            server.answer(OK)
    server.time_out(500.0)
    server.answer(OK)
    assert server.next_request() is None
    assert server.closing


def test_nothing_is_held_between_transactions() -> None:
    server = greeted(ServerConfig("mx.example"))
    for stream in (
        UPTO_DATA + b"x" * 30_000 + b"\r\n.\r\n",
        b"MAIL FROM:<a@c>\r\nRCPT TO:<b@c>\r\nBDAT 20000\r\n" + b"x" * 20_000 + b"RSET\r\n",
        b"NOOP\r\n" * 1000,
    ):
        server.receive(stream, 1.0)
        pump(server)
        assert server.idle
        assert server.buffered == 0
        assert server._buf == b""
        assert server.content is not None
        assert not server.content._gathered
        assert server.recipients == []
        assert len(server.log) <= 50
    server.output()


def test_answer_without_a_question() -> None:
    with pytest.raises(RuntimeError):
        greeted().answer(OK)


def test_draining_waits_for_a_decision() -> None:
    server = greeted()
    server.receive(b"EHLO c\r\n", 1.0)
    assert isinstance(server.next_request(), Hello)
    server.shut_down()
    assert not server.closing
    server.answer(OK)
    assert server.closing
    assert server.output().endswith(b"421 4.3.2 Shutting down; try again soon\r\n")


def test_a_thousand_pipelined_mails_in_one_piece() -> None:
    server = greeted()
    one = b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@mx.example>\r\nDATA\r\n.hi\r\n\r\n.\r\n"
    server.receive(b"EHLO c\r\n" + one * 1000, 1.0)
    asked = pump(server)
    assert sum(isinstance(request, End) for request in asked) == 1000
    assert server.output().count(b"\r\n354 ") == 1000


def test_settings_that_make_no_sense() -> None:
    for wrong in (
        {"hostname": "two words"},
        {"max_recipients": 99},
        {"auth": ("CRAM-MD5",)},
        {"max_command_line": 100},
        {"max_size": 0},
    ):
        with pytest.raises(ValueError):
            ServerConfig(**{"hostname": "mx.example", **wrong})


def test_after_helo_no_parameter_reaches_the_host() -> None:
    server = greeted()
    server.receive(b"HELO c.example\r\nMAIL FROM:<a@c.example> SIZE=9 BODY=8BITMIME RET=HDRS ENVID=x\r\n", 1.0)
    server.receive(b"RCPT TO:<b@mx.example> NOTIFY=NEVER\r\n", 1.0)
    asked = pump(server)
    assert asked[1:] == [Mail("a@c.example"), Rcpt(Recipient("b@mx.example"))]


def test_what_is_refused_past_the_recipients_cap_is_told() -> None:
    server = greeted(ServerConfig("mx.example", max_recipients=100))
    server.receive(b"EHLO c\r\nMAIL FROM:<a@c.example>\r\n" + b"RCPT TO:<b@mx.example>\r\n" * 101, 1.0)
    assert pump(server)[-1] == Refused(replies.TOO_MANY_RECIPIENTS, "a@c.example", "b@mx.example")


def test_a_cut_says_so_and_discards_unless_the_host_has_all_of_it() -> None:
    server = greeted()
    server.receive(UPTO_DATA + b"half", 1.0)
    pump(server)
    server.output()
    server.cut()
    assert server.output() == replies.SHUTTING_DOWN.encode()
    assert server.closing
    assert [type(each) for each in pump(server)] == [Discarded]
    server = greeted()
    server.receive(UPTO_DATA + b"all\r\n.\r\n", 1.0)
    while not isinstance(request := server.next_request(), End):
        if request is not None and not isinstance(request, Chunk):
            server.answer(decide(request, server.hello))
    server.output()
    server.cut()
    assert server.output() == replies.SHUTTING_DOWN.encode()
    assert server.next_request() is None


def test_with_so_many_turns_it_works_on_so_many_lines_and_the_rest_waits() -> None:
    server = Server(ServerConfig("mx.test"), 0.0)
    server.greet(Reply(220, "", "mx.test"))
    server.output()
    server.receive(b"NOOP\r\n" * 10, 0.0)
    server.turns = 3
    assert server.next_request() is None
    assert server.output() == b"250 2.0.0 Ok\r\n" * 3
    assert server.buffered == 7 * 6
    assert server.next_request() is None
    assert server.output() == b""
    server.turns = 100
    assert server.next_request() is None
    assert server.output() == b"250 2.0.0 Ok\r\n" * 7
    assert server.turns == 93
