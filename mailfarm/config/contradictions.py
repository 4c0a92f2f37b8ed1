"""What cannot be so together, in the process that runs these services. See the package."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from .settings import Settings
from .spelling import Address
from .store_urls import with_password, with_tls

ALL = ("mx", "submission", "inbound", "sweep", "api", "live", "spool")
"""The services of ``mailfarm dev``; fewer are the one of ``mailfarm <service>``."""

STORES = {
    "mx": "queue spool cache database",
    "submission": "queue spool cache database",
    "inbound": "queue cache database",
    "sweep": "cache database",
    "api": "cache database",
    "live": "cache database",
    "spool": "queue spool",
}
"""What a service by itself shares with the other processes: mail that waits, what is announced, and what is kept; and
which have the local spool, where that is asked for."""


def contradictions(settings: Settings, services: Collection[str]) -> list[str]:
    """One sentence each; none is good news."""
    found = [*_stores(settings, services), *_certificate(settings, services)]
    if not settings.farm.domains or settings.farm.domains[0] == "*":
        found.append("MAILFARM_DOMAINS: name at least one domain, in front; new mailboxes get their address in it")
    found += _signing_in(settings, services)
    if len(services) == 1:
        word = next(iter(services))
        if word in ("mx", "api", "live") and getattr(settings, word).listen is None:
            found.append(f"MAILFARM_{word.upper()}_LISTEN: {word} by itself does nothing but listen; say where")
        submission = settings.submission
        if word == "submission" and not (submission.capture or submission.starttls or submission.tls):
            found.append(
                "MAILFARM_SUBMISSION_STARTTLS, MAILFARM_SUBMISSION_TLS, MAILFARM_SUBMISSION_CAPTURE: all are off, so "
                "there is nothing to do"
            )
    return found


def _stores(settings: Settings, services: Collection[str]) -> Iterator[str]:
    farm = settings.farm
    given = {
        "database": (farm.database_url,) if farm.database_url else (),
        "queue": farm.queue_url,
        "cache": (farm.cache_url,) if farm.cache_url else (),
    }
    if len(services) == 1:
        (word,) = services
        missing = [name for name in ("queue", "cache", "database") if name in STORES[word].split() and not given[name]]
        if missing:
            names = ", ".join(f"MAILFARM_{name.upper()}_URL" for name in missing)
            yield (
                f"{names}: {word} by itself needs {_and(missing)} shared with the other services; set "
                f"{'them' if len(missing) > 1 else 'it'}, or run everything in one process: mailfarm dev"
            )
    elif not farm.database_url:
        for name in ("queue", "cache"):
            if given[name]:
                yield (
                    f"MAILFARM_{name.upper()}_URL: without MAILFARM_DATABASE_URL the {name} would be shared with "
                    "others and the mailboxes not; set both or neither"
                )
    for name, password in (
        ("database", farm.database_password),
        ("queue", farm.queue_password),
        ("cache", farm.cache_password),
    ):
        setting = f"MAILFARM_{name.upper()}_PASSWORD"
        if password and not given[name]:
            yield f"{setting}: it does nothing without MAILFARM_{name.upper()}_URL"
        elif password and any(with_password(url) for url in given[name]):
            yield f"{setting}: there is a password in MAILFARM_{name.upper()}_URL too; take that one away"
    if farm.spool and len(services) > 1 and not farm.queue_url:
        yield (
            "MAILFARM_SPOOL: without MAILFARM_QUEUE_URL the queue is in SQLite, on this machine's disk already; leave "
            "MAILFARM_SPOOL empty"
        )
    if not farm.spool and len(services) == 1 and "spool" in services:
        yield "MAILFARM_SPOOL: spool by itself drains this folder and does nothing else; name it"
    if farm.redis_ca and not any(with_tls(url) for url in (*given["queue"], *given["cache"])):
        yield "MAILFARM_REDIS_CA: it does nothing unless a URL begins with rediss"


def _certificate(settings: Settings, services: Collection[str]) -> Iterator[str]:
    farm, mx, submission = settings.farm, settings.mx, settings.submission
    if bool(farm.certificate) != bool(farm.key):
        yield "MAILFARM_CERTIFICATE and MAILFARM_KEY: set both or neither"
    elif len(services) == 1 and not farm.certificate:  # dev makes one
        needed = {
            "MAILFARM_MX_STARTTLS": ("mx", bool(mx.listen and mx.starttls), "no"),
            "MAILFARM_SUBMISSION_STARTTLS": ("submission", submission.starttls is not None, "off"),
            "MAILFARM_SUBMISSION_TLS": ("submission", submission.tls is not None, "off"),
            "MAILFARM_SUBMISSION_CAPTURE_STARTTLS": (
                "submission",
                bool(submission.capture and submission.capture_starttls),
                "no",
            ),
        }
        for name, (word, asked, without) in needed.items():
            if word in services and asked:
                yield (
                    f"{name}: this needs a certificate; set MAILFARM_CERTIFICATE and MAILFARM_KEY, or {name}={without}"
                )


def _signing_in(settings: Settings, services: Collection[str]) -> Iterator[str]:
    api = settings.api
    if api.auth == "token":
        if "api" in services and len(api.first_token) < 22:
            yield (
                "MAILFARM_API_FIRST_TOKEN: with MAILFARM_API_AUTH=token give at least 22 characters, made by machine, "
                "for example from: openssl rand -base64 24"
            )
        return
    if api.first_token and "api" in services:
        yield "MAILFARM_API_FIRST_TOKEN: it does nothing unless MAILFARM_API_AUTH=token"
    for name, where in _listeners(settings, services):
        if where is not None and not where.loopback:
            yield (
                f"{name}: {where} can be reached from other machines, and nobody has to sign in; set "
                "MAILFARM_API_AUTH=token and MAILFARM_API_FIRST_TOKEN, or listen on 127.0.0.1"
            )


def _listeners(settings: Settings, services: Collection[str]) -> Iterator[tuple[str, Address | None]]:
    """Where nobody is asked who it is, or what leads there."""
    submission = settings.submission
    if "submission" in services:
        yield "MAILFARM_SUBMISSION_CAPTURE", submission.capture
    if "api" in services and len(services) > 1:
        # by themselves these show nothing: mx is open to the world anyway, and the others ask for a password
        yield "MAILFARM_MX_LISTEN", settings.mx.listen
        yield "MAILFARM_SUBMISSION_STARTTLS", submission.starttls
        yield "MAILFARM_SUBMISSION_TLS", submission.tls
    if "api" in services:
        yield "MAILFARM_API_LISTEN", settings.api.listen
    if "live" in services:
        yield "MAILFARM_LIVE_LISTEN", settings.live.listen


def _and(names: Sequence[str]) -> str:
    """a queue, a cache and a database."""
    things = [f"a {name}" for name in names]
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
