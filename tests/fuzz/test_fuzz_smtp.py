"""The SMTP core against a model: whatever a client says, however the network cuts it and the host dawdles.

Commands are written behind one another as a pipelining client would (RFC 2920), and played at will. Then replies are as
many and in the order in which they were asked for, with the model's codes; what was accepted is byte for byte what was
sent, behind a 354 or a BDAT; the host hears once of each transaction that ended without its content, also when the
session ends; nothing that came in plain text behind STARTTLS is heard.
"""

from __future__ import annotations

import base64
import re

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from smtp.dialog import GREETING, decide
from smtp_model import MAX_LINE, MAX_RECIPIENTS, MAX_SIZE, MAX_TRANSACTIONS, Model

from mailfarm.smtp.requests import Auth, Chunk, Data, Discarded, End, Hello, Refused, StartTls
from mailfarm.smtp.server import Server, ServerConfig

CONFIG = ServerConfig(
    "mx.example",
    max_size=MAX_SIZE,
    max_recipients=MAX_RECIPIENTS,
    max_transactions=MAX_TRANSACTIONS,
    max_text_line=MAX_LINE,
    max_errors=1_000_000,
    starttls=True,
    auth=("PLAIN", "LOGIN"),
)

text = st.binary(max_size=40).map(lambda data: re.sub(rb"[\r\n\0]", b"-", data))
lines = st.one_of(text, st.sampled_from([b"", b".", b"..", b". ", b".x", b"QUIT", b"x" * 998, b"x" * 999]))
content = st.one_of(
    st.lists(lines, max_size=8).map(lambda some: b"".join(line + b"\r\n" for line in some)),
    st.just(b"y" * 70 + b"\r\n").map(lambda line: line * 50),
)
never_content = st.sampled_from([b"\n", b"\r", b"\0", b"a\n.\nb\r\n", b"a\r\n.\rb\r\n", b"\r\r\n", b"a\n.\r\nb\r\n"])
names = st.sampled_from(["", *(f"{name}@c.example" for name in ("a", "b", "full", "reject", "defer", "nobody"))])
sizes = st.sampled_from([0, 10, MAX_SIZE, MAX_SIZE + 1])
malformed = st.sampled_from([b"FROM:a@c", b"", b"FROM:<a@c> SIZE=x", b"FROM:<a b@c>", b"TO:<a@c>"])
last_words = st.sampled_from(
    [
        (b"QUIT\r\n", 221),
        (b"GET / HTTP/1.1\r\n", 554),
        (b"NOOP\n", 500),
        (b"NOOP\r\r\n", 500),
        (b"NO\0OP\r\n", 500),
        (b"BDAT x\r\n", 501),
        (b"BDAT 7000\r\n", 552),
    ]
)
in_plain_text = st.sampled_from([b"", b"RSET\r\n", b"MAIL FROM:<evil@c.example>\r\n", b"\x16\x03", b"EHLO evil\r\n"])
people = st.sampled_from(["b@mx.example", "c@mx.example", "nobody@mx.example", "later@mx.example"])


def stuffed(data: bytes) -> bytes:
    """As it stands on the wire (RFC 5321 §4.5.2): a dot more where a line begins with one."""
    return re.sub(rb"(\A|\r\n)\.", rb"\1..", data) + (b"" if not data or data.endswith(b"\r\n") else b"\r\n") + b".\r\n"


class Session(RuleBasedStateMachine):
    """``wire`` is what the client has said and the network not brought yet, ``expected`` the codes still to come."""

    @initialize(tls=st.booleans(), greeted=st.booleans())
    def begin(self, tls: bool, greeted: bool) -> None:
        self.model = Model(tls=tls)
        self.server = Server(CONFIG, 0.0, tls=tls)
        self.wire = b""
        self.expected: list[int] = [220]
        self.heard: list[int] = []
        self.greetings: list[set[str]] = []
        self.output = b""
        self.letting_in = False
        self.incoming = b""
        self.mails: list[tuple[str, tuple[str, ...], bytes]] = []
        self.discarded: list[tuple[str, tuple[str, ...], int]] = []
        self.logins: list[tuple[str, str]] = []
        self.shaking = False
        self.server.greet(GREETING)
        self.steps = 0
        if greeted:
            self.hello("EHLO", "c.example")

    # what a client says

    def say(self, line: bytes, codes: list[int]) -> None:
        self.steps += 1
        self.wire += line + b"\r\n"
        self.expected += codes

    @precondition(lambda self: not self.model.closed)
    @rule(verb=st.sampled_from(["EHLO", "HELO"]), name=st.sampled_from(["c.example", "[192.0.2.1]", "", "a b"]))
    def hello(self, verb: str, name: str) -> None:
        self.say(f"{verb} {name}".encode(), self.greeted(verb, name))

    @precondition(lambda self: not self.model.closed)
    @rule()
    def hello_that_the_host_refuses(self) -> None:
        self.say(b"EHLO refused.example", self.greeted("EHLO", "refused.example"))

    def greeted(self, verb: str, name: str) -> list[int]:
        codes = self.model.greet(verb, name)
        if verb == "EHLO" and codes[0] == 250:
            self.greetings.append(self.model.capabilities())
        return codes

    @precondition(lambda self: not self.model.closed)
    @rule(sender=names, size=sizes, extra=st.sampled_from(["", " BODY=8BITMIME"]))
    def mail(self, sender: str, size: int, extra: str) -> None:
        said = f"MAIL FROM:<{sender}>" + (f" SIZE={size}" if size else "") + extra
        self.say(said.encode(), self.model.mail(sender, size=size))

    @precondition(lambda self: not self.model.closed)
    @rule(said=malformed)
    def malformed_mail(self, said: bytes) -> None:
        self.say(b"MAIL " + said, self.model.mail("", malformed=True))

    @precondition(lambda self: not self.model.closed)
    @rule(address=people, route=st.sampled_from(["", "@relay.example:"]), times=st.sampled_from([1, 1, 1, 101]))
    def rcpt(self, address: str, route: str, times: int) -> None:
        for _ in range(times):
            if not self.model.closed:
                self.say(f"RCPT TO:<{route}{address}>".encode(), self.model.rcpt(address))

    @precondition(lambda self: not self.model.closed)
    @rule(said=st.sampled_from([b"RCPT TO:<>", b"RCPT TO:b@mx", b"RCPT TO:<b@mx.example", b"RCPT"]))
    def malformed_rcpt(self, said: bytes) -> None:
        self.say(said, self.model.rcpt("", malformed=True))

    @precondition(lambda self: not self.model.closed)
    @rule(data=content)
    def data(self, data: bytes) -> None:
        codes = self.model.data()
        self.say(b"DATA", codes)
        if codes == [354]:
            wire = stuffed(data)
            self.wire += wire
            self.expected += self.model.content(data if data.endswith(b"\r\n") or not data else data + b"\r\n")

    @precondition(lambda self: not self.model.closed and self.steps > 20)
    @rule(data=never_content)
    def data_that_ends_the_session(self, data: bytes) -> None:
        self.data(data)

    @precondition(lambda self: not self.model.closed)
    @rule(data=st.one_of(text, st.just(b"z" * 1500), st.just(b"a\r\nb\r\n"), st.just(b".\r\n")), last=st.booleans())
    def bdat(self, data: bytes, last: bool) -> None:
        if len(data) > 999 or b"\r" in data:
            data = re.sub(rb"z{500}", b"z" * 498 + b"\r\n", data)  # within the length of a line
        else:
            data += b"\r\n"
        self.say(b"BDAT %d%b" % (len(data), b" LAST" if last else b""), [])
        self.wire += data
        self.expected += self.model.bdat(data, last=last)

    @precondition(lambda self: not self.model.closed)
    @rule()
    def bdat_of_nothing_ends_it(self) -> None:
        self.say(b"BDAT 0 LAST", self.model.bdat(b"", last=True))

    @precondition(lambda self: not self.model.closed)
    @rule(
        said=st.sampled_from(
            [
                (b"RSET x", 501), (b"NOOP", 250), (b"NOOP x", 250), (b"HELP", 214), (b"VRFY", 501), (b"VRFY b", 252),
                (b"EXPN l", 502), (b"DATA x", 501), (b"QUIT x", 501), (b"FOO", 500), (b"", 500), (b"noop", 250),
                (b"x" * 2100, 500), (b"NOOP " + b"y" * 5000, 500), (b"ETRN x", 502),
            ]
        )
    )  # fmt: skip
    def other(self, said: tuple[bytes, int]) -> None:
        self.say(said[0], self.model.say(said[1]))

    @precondition(lambda self: not self.model.closed)
    @rule(sender=names, address=people, data=content, chunks=st.lists(text, max_size=3), how=st.sampled_from("DB"))
    def a_whole_mail(self, sender: str, address: str, data: bytes, chunks: list[bytes], how: str) -> None:
        """What chance alone would seldom put together."""
        if not self.model.hello:
            self.hello("EHLO", "c.example")
        for step in (lambda: self.mail(sender, 0, ""), lambda: self.rcpt("b@mx.example", "", 1)):
            if not self.model.closed:
                step()
        if not self.model.closed and self.model.sender:
            self.rcpt(address, "", 1)
        if how == "D" and not self.model.closed:
            self.data(data)
        for chunk in chunks if how == "B" else ():
            if not self.model.closed:
                self.bdat(chunk, False)

    @precondition(lambda self: not self.model.closed)
    @rule()
    def rset(self) -> None:
        self.say(b"RSET", self.model.rset())

    @precondition(lambda self: not self.model.closed and self.steps > 20)
    @rule(end=last_words, behind=st.sampled_from([b"", b"NOOP\r\n", b"MAIL FROM:<a@c>\r\n", b"\0\xff"]))
    def the_end(self, end: tuple[bytes, int], behind: bytes) -> None:
        """What is said behind it nobody hears."""
        self.wire += end[0] + behind
        if end[1] == 552:
            self.model.discard(552)
        self.expected += self.model.say(end[1], close=True)

    @precondition(lambda self: not self.model.closed and self.steps > 20)
    @rule(end=last_words, recipients=st.integers(0, 2))
    def the_end_within_a_mail(self, end: tuple[bytes, int], recipients: int) -> None:
        """What was begun is discarded, once."""
        if not self.model.hello:
            self.hello("EHLO", "c.example")
        self.mail("a@c.example", 0, "")
        for _ in range(recipients):
            self.rcpt("b@mx.example", "", 1)
        if not self.model.closed:
            self.the_end(end, b"")

    @precondition(lambda self: not self.model.closed)
    @rule(
        user=st.sampled_from(["user", "other"]),
        secret=st.sampled_from(["secret", "wrong"]),
        how=st.sampled_from(["PLAIN at once", "PLAIN", "LOGIN", "LOGIN at once"]),
    )
    def auth(self, user: str, secret: str, how: str) -> None:
        mechanism, _, at_once = how.partition(" ")
        said = [f"\0{user}\0{secret}"] if mechanism == "PLAIN" else [user, secret]
        steps = [base64.b64encode(each.encode()) for each in said]
        line = f"AUTH {mechanism}".encode()
        if at_once:
            line += b" " + steps.pop(0)
        refused = self.model.may_authenticate()
        if refused is not None:
            self.say(line, self.model.say(refused))
            return
        self.say(line, [334] if steps else [])
        for left, step in zip(range(len(steps) - 1, -1, -1), steps, strict=True):
            self.say(step, [334] if left else [])
        self.expected += self.model.credentials(user, secret)

    @precondition(lambda self: not self.model.closed)
    @rule(said=st.sampled_from([b"*", b"no base64!", b"AAAA", b"="]))
    def auth_that_comes_to_nothing(self, said: bytes) -> None:
        refused = self.model.may_authenticate()
        if refused is not None:
            self.say(b"AUTH PLAIN", self.model.say(refused))
        else:
            self.say(b"AUTH PLAIN", [334])
            self.say(said, self.model.say(501))

    @precondition(lambda self: not self.model.closed)
    @rule(words=st.sampled_from([b"AUTH", b"AUTH PLAIN a b", b"AUTH CRAM-MD5"]))
    def auth_with_odd_words(self, words: bytes) -> None:
        refused = self.model.may_authenticate()
        code = refused or (504 if words.endswith(b"MD5") else 501)
        self.say(words, self.model.say(code))

    @precondition(lambda self: not self.model.closed)
    @rule(injected=in_plain_text)
    def starttls(self, injected: bytes) -> None:
        codes = self.model.starttls()
        self.say(b"STARTTLS", codes)
        if codes == [220]:
            self.wire += injected  # in plain text: not one octet of it is heard
            self.shaking = True
            self.bring([], False)
            self.server.tls_started()
            self.shaking = False
            self.model.secured()

    @precondition(lambda self: not self.model.closed and self.steps > 20)
    @rule(cuts=st.lists(st.integers(0, 5000), max_size=4))
    def drain(self, cuts: list[int]) -> None:
        self.bring(cuts, False)
        if self.model.closed:
            return
        self.model.draining = True
        self.expected += self.model.say()
        self.server.shut_down()
        self.host(False)

    # what the network and the host do

    @rule(cuts=st.lists(st.integers(0, 5000), max_size=8), dawdling=st.booleans())
    def flush(self, cuts: list[int], dawdling: bool) -> None:
        self.bring(cuts, dawdling)

    @rule()
    def flush_octet_by_octet(self) -> None:
        self.bring(list(range(len(self.wire))) if len(self.wire) < 600 else [1, 2, 3], False)

    def bring(self, cuts: list[int], dawdling: bool) -> None:
        wire, self.wire = self.wire, b""
        start = 0
        for stop in [*sorted({cut for cut in cuts if cut < len(wire)}), len(wire)]:
            self.server.receive(wire[start:stop], 1.0)
            start = stop
            self.host(dawdling)
        self.host(False)
        self.look()

    def host(self, dawdling: bool) -> None:
        """Answer what is asked; if it dawdles, leave the question until more has come."""
        server = self.server
        while True:
            if server.question is not None:
                if dawdling:
                    return
                self.answer(server.question)
            request = server.next_request()
            if request is None:
                break
            if isinstance(request, Chunk):
                assert self.letting_in, "content nobody has let in"
                assert request.data
                self.incoming += request.data
            elif isinstance(request, Discarded):
                self.letting_in, self.incoming = False, b""
                envelope, reply = request.envelope, request.reply
                recipients = tuple(each.address for each in envelope.recipients)
                self.discarded.append((envelope.sender, recipients, 0 if reply is None else reply.code))
            elif not isinstance(request, Refused):
                assert server.pending
        self.output += server.output()

    def answer(self, question: object) -> None:
        reply = decide(question, self.server.hello)
        if isinstance(question, Data):
            assert question.envelope.recipients
            self.letting_in, self.incoming = reply.positive, b""
        elif isinstance(question, End):
            envelope = question.envelope
            assert self.letting_in
            assert question.size == len(self.incoming)
            if reply.positive:
                recipients = tuple(each.address for each in envelope.recipients)
                self.mails.append((envelope.sender, recipients, self.incoming))
            self.letting_in, self.incoming = False, b""
        elif isinstance(question, Auth):
            assert self.server.tls, "a secret was taken in plain text"
            self.logins.append((question.user, question.secret))
        elif isinstance(question, StartTls):
            assert not self.server.tls
        else:
            assert not (isinstance(question, Hello) and question.domain == "evil")
        self.server.answer(reply)

    def look(self) -> None:
        """Everything was brought and answered: what came back is what the model expects."""
        heard, greetings = replies(self.output)
        self.output = b""
        assert heard == self.expected
        assert greetings == self.greetings
        self.expected, self.greetings = [], []
        assert self.mails == self.model.accepted
        assert self.discarded == self.model.discarded
        assert self.logins == self.model.logins
        assert self.server.closing == self.model.closed
        if not self.model.closed and not self.shaking:
            assert self.server.buffered == 0
            assert (self.server.mail is not None) == (self.model.sender is not None)
            assert self.server.authenticated == self.model.authenticated

    @invariant()
    def replies_never_run_ahead(self) -> None:
        """Never more replies than were asked for, and in order."""
        if hasattr(self, "server"):
            heard, _ = replies(self.output)
            assert heard == self.expected[: len(heard)]

    def teardown(self) -> None:
        if hasattr(self, "server"):
            self.bring([], False)


def replies(output: bytes) -> tuple[list[int], list[set[str]]]:
    """The codes of whole replies; what each answer to EHLO offers of what depends on the session."""
    codes: list[int] = []
    greetings: list[set[str]] = []
    words: list[str] = []
    assert not output or output.endswith(b"\r\n")
    for line in output.decode().split("\r\n")[:-1]:
        assert re.match(r"[2-5][0-5][0-9][ -]", line), line
        words.append(line[4:])
        if line[3] == " ":
            codes.append(int(line[:3]))
            if len(words) > 1 and "PIPELINING" in words:
                greetings.append({word for word in words if word.startswith(("STARTTLS", "AUTH"))})
            words = []
    assert not words
    return codes, greetings


TestSession = Session.TestCase
