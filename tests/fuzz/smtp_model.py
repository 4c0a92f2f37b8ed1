"""What an SMTP server has to say: a model of a session that knows nothing of how the core is written.

It is asked one command at a time, in the order in which a client sends them, and says which codes answer it. It keeps
what has been accepted, and what was begun and ended without its content. The host behind the core decides by names as
in ``smtp/dialog.py``: ``nobody@`` and ``later@`` are refused as recipients, ``nobody@`` as a sender, ``full@`` at DATA,
``reject@`` and ``defer@`` after their content.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_SIZE = 3000
MAX_LINE = 1000
MAX_RECIPIENTS = 100
MAX_TRANSACTIONS = 12
GREATER = {"later": 451, "nobody": 550}


@dataclass
class Model:
    """One session. ``tls`` it has from the start, or gets by STARTTLS."""

    tls: bool = False
    hello: str = ""
    authenticated: bool = False
    failures: int = 0
    sender: str | None = None
    recipients: list[str] = field(default_factory=list)
    refused: bool = False
    chunks: bytes | None = None
    begun: int = 0
    draining: bool = False
    closed: bool = False
    accepted: list[tuple[str, tuple[str, ...], bytes]] = field(default_factory=list)
    discarded: list[tuple[str, tuple[str, ...], int]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)

    def say(self, *codes: int, close: bool = False) -> list[int]:
        """These codes; one more when the session is drained and nothing is under way."""
        said = list(codes)
        if close:
            self.discard()
            self.closed = True
        elif self.draining and self.sender is None:
            self.closed = True
            said.append(421)
        return said

    def over(self) -> None:
        self.sender, self.recipients, self.refused, self.chunks = None, [], False, None

    def discard(self, code: int = 0) -> None:
        """The host had let a transaction in, and it ends without its content, by this reply of the core itself; 0: by
        none."""
        if self.sender is not None:
            self.discarded.append((self.sender, tuple(self.recipients), code))
        self.over()

    def capabilities(self) -> set[str]:
        """Those that depend on the session."""
        found = set()
        if not self.tls and not self.authenticated:
            found.add("STARTTLS")
        if self.tls and not self.authenticated:
            found.add("AUTH PLAIN LOGIN")
        return found

    def greet(self, verb: str, name: str) -> list[int]:
        if not name or " " in name:
            return self.say(501)
        if name == "refused.example":
            return self.say(550)
        self.discard()
        self.hello = verb
        return self.say(250)

    def mail(self, sender: str, *, size: int = 0, malformed: bool = False) -> list[int]:
        if self.sender is not None or not self.hello:
            return self.say(503)
        if self.begun >= MAX_TRANSACTIONS:
            return self.say(421, close=True)
        if malformed:
            return self.say(501)
        if size > MAX_SIZE:
            return self.say(552)
        if sender.startswith("nobody@"):
            return self.say(550)
        self.sender = sender
        self.begun += 1
        return self.say(250)

    def rcpt(self, address: str, *, malformed: bool = False) -> list[int]:
        if self.sender is None or self.chunks is not None:
            return self.say(503)
        if malformed:
            self.refused = True
            return self.say(501)
        if len(self.recipients) >= MAX_RECIPIENTS:
            return self.say(452)
        code = GREATER.get(address.partition("@")[0], 250)
        if code == 250:
            self.recipients.append(address)
        else:
            self.refused = True
        return self.say(code)

    def data(self) -> list[int]:
        """354 lets content in; ``content`` is what comes then."""
        if self.sender is None or self.chunks is not None:
            return self.say(503)
        if not self.recipients:
            return self.say(554 if self.refused else 503)
        if self.sender.startswith("full@"):
            self.over()
            return self.say(452)
        return [354]

    def content(self, content: bytes) -> list[int]:
        """The content as it is without the dots that were put in."""
        rest = content.replace(b"\r\n", b"")
        if b"\r" in rest or b"\n" in rest or b"\0" in rest:
            self.discard(550)
            return self.say(550, close=True)
        if len(content) > MAX_SIZE:
            code = 552
        elif any(len(line) + 2 > MAX_LINE for line in content.split(b"\r\n")):
            code = 500
        else:
            code = self.ended(content)
        self.discard(code)
        return self.say(code)

    def ended(self, content: bytes) -> int:
        assert self.sender is not None
        code = {"reject": 550, "defer": 451}.get(self.sender.partition("@")[0], 250)
        if code == 250:
            self.accepted.append((self.sender, tuple(self.recipients), content))
        self.over()  # the host had all of it
        return code

    def bdat(self, data: bytes, *, last: bool) -> list[int]:
        if len(data) > 2 * MAX_SIZE:
            self.discard(552)
            return self.say(552, close=True)
        if self.sender is None:
            return self.say(503)
        if not self.recipients:
            code = 554 if self.refused else 503
        elif len(self.chunks or b"") + len(data) > MAX_SIZE:
            code = 552
        elif self.chunks is None and self.sender.startswith("full@"):
            code = 452
            self.over()  # the host did not let its content in
        else:
            self.chunks = (self.chunks or b"") + data
            if not last:
                return self.say(250)
            code = self.ended(self.chunks)
        self.discard(code)
        return self.say(code)

    def rset(self) -> list[int]:
        self.discard()
        return self.say(250)

    def starttls(self) -> list[int]:
        """220 begins the handshake: ``secured`` is what comes then."""
        if self.tls or not self.hello or self.authenticated or self.sender is not None:
            return self.say(503)
        return [220]

    def secured(self) -> None:
        self.tls, self.hello = True, ""

    def may_authenticate(self) -> int | None:
        """The code that refuses AUTH, or None."""
        if not self.hello or self.authenticated or self.sender is not None:
            return 503
        return None if self.tls else 538

    def credentials(self, user: str, secret: str) -> list[int]:
        self.logins.append((user, secret))
        if (user, secret) == ("user", "secret"):
            self.authenticated = True
            return self.say(235)
        self.failures += 1
        return self.say(535) if self.failures < 3 else self.say(421, close=True)
