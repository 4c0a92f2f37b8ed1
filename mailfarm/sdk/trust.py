"""Which certificates a client believes: those of the system's authorities, or those of the ones a PEM file names.

A farm may have an authority of its own (``stack/prepare`` makes one, ``ca.crt``). Its file is given as ``ca``, or by
the variable MAILFARM_CA; then nobody else's word counts for that farm.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

PEM: Final = "-----BEGIN CERTIFICATE-----"


def context(ca: str | Path | None) -> ssl.SSLContext:
    """For the standard library and httpx. Raises ValueError for a file without certificates."""
    if ca is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(ca))
    except ssl.SSLError:
        raise ValueError(f"{ca} holds no certificate; a PEM file with the authority's is needed") from None
    except OSError as error:
        raise ValueError(f"cannot read {ca}: {error.strerror}") from None


def roots(ca: str | Path) -> Any:
    """The same for Twisted: what ``optionsForClientTLS`` takes as ``trustRoot``. Raises ValueError."""
    from twisted.internet import ssl as twisted

    roots_of: Any = twisted.trustRootFromCertificates  # not typed
    context(ca)  # says what is wrong with it
    blocks = Path(ca).read_text("utf-8", "replace").split(PEM)[1:]
    return roots_of([twisted.Certificate.loadPEM((PEM + block).encode()) for block in blocks])
