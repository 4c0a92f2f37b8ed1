"""mailfarm: a self-hosted mail platform.

A map of the house. Imports run one way, downwards in this list to what stands above; ``tests/test_house.py`` checks it.

=====================================  ==========================================================================
``values``                             values that are made for every message.
``mail/``                              what the RFCs say about mail: addresses, envelopes, replies, MIME. Pure.
``smtp/``                              the SMTP protocol without I/O: grammar, requests, data, SASL, the server core.
``ids errors limits backoff events``   small values everyone shares.
``ports config``                       what we need of the world, as protocols; the settings, typed.
``accounts/ mailboxes/``               what mailfarm knows and decides, pure except through ports.
``net/``                               sockets: the Twisted side of SMTP, PROXY, TLS, health, logs.
``backends/``                          the ports on SQLite and in memory, on Postgres and Redis.
``inbound/``                           accepting mail, parsing it, filing it.
``services/``                          what listens or loops: mx, submission, inbound, sweep, api, live, spool.
``assembly/``                          the one place where all is put together.
``process  health``                    the process that runs one service or all; asking it how it is.
``schema_command  queue_command``      what an operator asks of the database's schema and of the queue.
``cli``                                the command line.
``sdk/``                               the client library and the pytest plugin; imports nothing of the rest.
``prove/``                             breaking a mailfarm and judging from outside; imports the sdk and nothing else.
``web/``                               the inbox in a browser.
``schema/  docs/``                     the database's schemas; what ``mailfarm help`` shows.
=====================================  ==========================================================================
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    """``__version__``, looked up when it is asked for: that takes as long as everything ``mailfarm health`` does."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mailfarm")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0.0.0"
