"""A mail byte for byte as it came: what the ``raw`` of a message and of an entry of the queue answer."""

from __future__ import annotations

from .answering import REVALIDATE, attachment, matches, tag_of
from .asking import Field
from .routes import Ask, Gives
from .streaming import Read, send

SANDBOX = "sandbox; default-src 'none'"
GIVES = Gives(200, types=("message/rfc822",), etag=True)
TRACE = Field("trace", "boolean", "Whether our own Received header stands on top.", default=True)


async def send_raw(ask: Ask, sha256: bytes, trace: bytes, size: int, read: Read) -> None:
    """Send content of ``size`` octets, with ``trace`` on top if that is asked for; 304 where it is there already.
    ``read`` is as in ``send``."""
    trace = trace if ask.query["trace"] else b""
    tag = f"{sha256.hex()}-{tag_of(trace)[:8] if trace else 'bare'}"
    request = ask.request
    request.setHeader("Cache-Control", REVALIDATE)
    request.setHeader("ETag", f'"{tag}"')
    if matches(request.getHeader("if-none-match"), tag):
        request.setResponseCode(304)
        return
    request.setHeader("Content-Type", "message/rfc822")
    request.setHeader("Content-Security-Policy", SANDBOX)
    request.setHeader("Content-Disposition", attachment(f"{ask.id}.eml"))
    await send(request, len(trace) + size, trace, read)
