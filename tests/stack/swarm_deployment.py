"""A stack deployed in a lab as an operator deploys it, and the ways into it from outside.

``Deployment`` runs ``stack/prepare`` and ``stack/deploy`` on node1 with a folder of its own for what is private, and
knows the addresses, the certificate and the first token, so that a test can use the SDK, SMTP and the WebSocket from a
client's namespace as a user would from the internet.
"""

from __future__ import annotations

import resource
import smtplib
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from engine import LabError
from images import names
from lab import ROOT, Lab, address, address6
from replicas import Services

from mailfarm.sdk import Farm, FarmError

HOST = "mail.example.net"
DOMAIN = "example.net"
MX, TLS, SUBMISSION, ALTERNATIVE = 25, 465, 587, 2525


class Deployment(Services):
    """The stack ``mailfarm`` in ``lab``. ``folder`` is where its secrets and certificate are."""

    def __init__(self, lab: Lab, folder: Path, tell: Callable[[str], None]) -> None:
        super().__init__(lab, "mailfarm")
        self.private = folder / "private"
        self.tell = tell
        self.authority = self.private / "ca.crt"

    @property
    def url(self) -> str:
        """The API, by name."""
        return f"https://{HOST}"

    @property
    def token(self) -> str:
        """The first token."""
        return (self.private / "first_token").read_text().strip()

    @property
    def addresses(self) -> list[str]:
        """The machines' IPv4 addresses: what an MX record or a DNS name would lead to."""
        return [address(number) for number in self.lab.machines]

    def prepare(self) -> None:
        """Secrets, and a certificate by an authority of its own."""
        self._say("stack/prepare", HOST, DOMAIN)

    def deploy(self, *words: str, **settings: str) -> float:
        """Deploy, and wait until it runs; how long that took. Raises LabError with what the command said."""
        began = time.monotonic()
        self._say("stack/deploy", *self._fewer_files(), *words, **settings)
        return round(time.monotonic() - began, 1)

    def _fewer_files(self) -> list[str]:
        """Where root may not raise how many files are open (in a container without CAP_SYS_RESOURCE), an overlay that
        gives the services what there is."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        services = yaml.safe_load((ROOT / "stack" / "mailfarm.yml").read_text("utf-8"))["services"]
        files = {"soft": most, "hard": most}
        asked = {word: {"ulimits": {"nofile": files}} for word, service in services.items() if "ulimits" in service}
        if not asked or most >= max(services[word]["ulimits"]["nofile"]["hard"] for word in asked):
            return []
        overlay = self.private.parent / "fewer-files.yml"
        overlay.write_text(yaml.safe_dump({"version": "3.9", "services": asked}))
        return ["-c", str(overlay)]

    def _say(self, *command: str, **settings: str) -> str:
        machine = self.lab.machines[self.manager]
        settings = {"MAILFARM_PRIVATE": str(self.private), "PYTHONUNBUFFERED": "1", **self._images(), **settings}
        code, said = machine.follow(*command, tell=self.tell, folder=ROOT, **settings)
        if code:
            raise LabError(f"{' '.join(command)} ended with {code}:\n{said[-4000:]}\n{self.picture()}")
        return said

    def _images(self) -> dict[str, str]:
        return names(self.lab.folder / "1" / "disk")

    def image(self) -> str:
        """The name of mailfarm's image."""
        return self._images()["MAILFARM_IMAGE"]

    def build(self, tag: str, *lines: str, context: Path | None = None) -> str:
        """Another version of mailfarm's image on each machine: the same, with these lines of a Dockerfile; its name.
        ``context`` is a folder with files to copy."""
        name = f"mailfarm:{tag}-{time.time_ns() // 1_000_000:x}"  # the same name again would roll nothing
        recipe = "\n".join([f"FROM {self.image()}", *lines]) + "\n"
        words = ["build", "-q", "-t", name, *(["-f", "-", str(context)] if context else ["-"])]
        self.lab.everywhere(*words, given=recipe)
        return name

    # --- ways in ----------------------------------------------------------------------------------------------------
    def farm(self, timeout: float = 30) -> Farm:
        """The SDK's client, over HTTPS by name. To be used in a client's namespace."""
        return Farm(self.url, self.token, timeout=timeout)

    def serves(self) -> bool:
        """Whether the Swarm has a leader, every service its replicas, and the API answers. As ``farm``."""
        if not self.converged():
            return False
        try:
            with self.farm(timeout=5) as farm:
                farm.mailboxes()
        except FarmError:
            return False
        return True

    def tls(self) -> ssl.SSLContext:
        """What trusts the lab's authority, and checks names."""
        return ssl.create_default_context(cafile=str(self.authority))

    def smtp(
        self, port: int = MX, number: int = 1, *, six: bool = False, source: str = "", timeout: float = 30
    ) -> smtplib.SMTP:
        """Connect to a port of a machine; for 465 TLS begins at once. To be used in a client's namespace."""
        host = address6(number) if six else address(number)
        bound = (source, 0) if source else None
        if port == TLS:
            return Tls(host, port, timeout=30, source_address=bound, context=self.tls())
        return Named(host, port, timeout=30, source_address=bound)


class Named(smtplib.SMTP):
    """STARTTLS checks the certificate for the farm's name, whatever address was connected to."""

    def starttls(self, *, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
        """As in smtplib."""
        self._host = HOST
        return super().starttls(context=context)


class Tls(smtplib.SMTP_SSL):
    """The same for TLS from the start."""

    def _get_socket(self, host: str, port: int, timeout: float) -> ssl.SSLSocket:
        plain = smtplib.SMTP._get_socket(self, host, port, timeout)
        return self.context.wrap_socket(plain, server_hostname=HOST)


def send(session: smtplib.SMTP, to: str | Sequence[str], content: bytes) -> None:
    """One message of raw bytes."""
    session.sendmail("a@shop.example", to, content, mail_options=["BODY=8BITMIME"])
