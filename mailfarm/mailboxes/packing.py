"""The form in which content is stored: zstd frames (RFC 8878), made before the unit that files it.

A content's *detail* is what a reader's detail view shows: JSON, see ``content.py``. It and the content say much the
same words, so a small content stands behind its detail in one frame, which costs 23 microseconds for 4 KB of mail and
leaves 2.5 of 8.9 KB (apart: 32 microseconds and 3.5 KB; level 3 takes half as long again for 2 % less). A larger
content stands beside, in pieces of ``ports.CHUNK`` octets, each readable on its own. A piece that does not become
smaller is stored as it is: zstd says so itself, in 64 microseconds for 256 KiB of noise.

Each frame carries a checksum of what was packed. What does not come out as it went in raises ``Damaged``.
"""

from __future__ import annotations

from dataclasses import field

from zstandard import MAGIC_NUMBER, ZstdCompressor, ZstdDecompressor, ZstdError, frame_content_size

from mailfarm.errors import Damaged
from mailfarm.ports import CHUNK
from mailfarm.values import value

LEVEL = 1
TOGETHER = 32 * 1024
"""Content up to this many octets stands behind its detail: who reads the one may as well read the other."""
WORTH = 0.95
"""A piece that is not smaller than this share of itself is stored as it is."""
LARGEST = 256 * 1024 * 1024
"""No frame of ours gives more octets than this: what says so is damaged."""

_MAGIC = MAGIC_NUMBER.to_bytes(4, "little")


@value
class Piece:
    """A piece of content as it is stored: packed, or as it came."""

    packed: bool
    data: bytes | memoryview = field(repr=False)


@value
class Packed:
    """Content as it is stored. ``data`` is one frame: ``detail`` octets of detail, and behind them the content, unless
    it is in ``pieces``. ``size`` is the content's, in octets."""

    size: int
    detail: int
    data: bytes = field(repr=False)
    pieces: tuple[Piece, ...] = field(repr=False)


class Packer:
    """Packs one content after another. Not for two threads at once: each has its own (making one costs 13
    microseconds)."""

    def __init__(self) -> None:
        self._compressor = ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)

    def pack(self, detail: bytes, content: bytes) -> Packed:
        """Content and its detail in the form in which they are stored."""
        if len(content) <= TOGETHER:
            return Packed(len(content), len(detail), self._compressor.compress(detail + content), ())
        view = memoryview(content)  # views, not copies: 50 MB would be there twice
        pieces = tuple(self._piece(view[start : start + CHUNK]) for start in range(0, len(view), CHUNK))
        return Packed(len(content), len(detail), self._compressor.compress(detail), pieces)

    def _piece(self, data: memoryview) -> Piece:
        packed = self._compressor.compress(data)
        return Piece(True, packed) if len(packed) < WORTH * len(data) else Piece(False, data)


def unpack(data: bytes, most: int = LARGEST) -> bytes:
    """What a frame holds, at most ``most`` octets. Raises Damaged."""
    try:
        size = frame_content_size(data)
        if not 0 <= size <= most:
            raise Damaged(f"a stored frame claims to hold {size} octets, and at most {most} are possible there")
        # one a call: they are not for two threads at once, and readers are in several
        found = ZstdDecompressor().decompress(data)
    except ZstdError as error:
        raise Damaged(f"a stored frame cannot be read: {error}") from None
    if len(found) != size:
        raise Damaged(f"a stored frame holds {len(found)} octets, not {size}")
    return found


def unpack_piece(packed: bool, data: bytes) -> bytes:
    """A piece of content as it was sent. Raises Damaged."""
    return unpack(data, CHUNK) if packed else bytes(data)


def unpack_detail(detail: int, data: bytes) -> bytes:
    """The detail's JSON. Raises Damaged."""
    return _together(detail, data)[:detail]


def unpack_behind(detail: int, data: bytes) -> bytes:
    """The content that stands behind its detail. Raises Damaged."""
    return _together(detail, data)[detail:]


def _together(detail: int, data: bytes) -> bytes:
    # what the first schema stored is plain JSON, which never begins like a frame
    found = unpack(data) if data[:4] == _MAGIC or data[:1] != b"{" else data
    if len(found) < detail:
        raise Damaged(f"stored detail of {detail} octets has only {len(found)}")
    return found
