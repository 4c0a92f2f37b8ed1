"""One mail in the local spool, as a file: a head, its form (``spool_form``), its content.

::

    8 octets   mfspool1: what it is, and the version of this layout
    4 octets   the length of the form, big-endian, as are all numbers
    8 octets   the length of the content
    32 octets  SHA-256 of the twenty octets before and the form
    the form   which has the SHA-256 of the content
    the content, and nothing behind it

So a file that was cut off at any octet, or changed at any, is known for what it is. No I/O here: who reads files feeds
``Reader`` with what they hold, in pieces of any size.
"""

from __future__ import annotations

import struct
from hashlib import sha256

from mailfarm.errors import Damaged, Invalid
from mailfarm.ports import Content, Spooled

from .queue_content import Whole
from .spool_form import NewerFormError, from_form, to_form

_FAMILY = b"mfspool"
_MAGIC = _FAMILY + b"1"
_NUMBERS = struct.Struct(">8sIQ")
HEAD = _NUMBERS.size + 32
"""Octets before the form."""
LONGEST_FORM = 16 * 1024 * 1024
"""Octets of a form: thousands of recipients are one megabyte. What says it is longer is damaged."""


def beginning(spooled: Spooled) -> bytes:
    """All that stands before the content. Raises Invalid for text that cannot be stored."""
    form = to_form(spooled)
    if len(form) > LONGEST_FORM:
        raise Invalid(f"the envelope of {spooled.id} takes {len(form)} octets, and {LONGEST_FORM} may be stored")
    numbers = _NUMBERS.pack(_MAGIC, len(form), spooled.content.size)
    return b"".join((numbers, sha256(numbers + form).digest(), form))


class Reader:
    """Reads one file. ``size`` is that of its content and ``start`` where that begins, once ``beginning_known``."""

    def __init__(self) -> None:
        self.size = 0
        self.start = 0
        self._form = b""
        self._held = bytearray()
        self._content = sha256()
        self._seen = 0
        self._wanted = b""

    @property
    def beginning_known(self) -> bool:
        """Whether head and form were read, and are sound."""
        return bool(self._form)

    @property
    def wants(self) -> int:
        """How many octets of head and form are missing, as far as that is known; 0 once none is."""
        if self._form:
            return 0
        if len(self._held) < HEAD:
            return HEAD - len(self._held)
        return self._numbers()[0] + HEAD - len(self._held)

    def feed(self, data: bytes) -> None:
        """The next octets. Raises Damaged; NewerFormError for what only a newer mailfarm can read."""
        if not self._form:
            self._held += data
            if len(self._held) < HEAD or len(self._held) < HEAD + self._numbers()[0]:
                return
            data = self._begin()
        self._seen += len(data)
        if self._seen > self.size:
            raise Damaged(f"{self._seen} octets or more of content stand where {self.size} belong")
        self._content.update(data)

    def end(self) -> None:
        """There is no more. Raises Damaged when that is too early, or the content is another one."""
        if not self._form:
            raise Damaged(f"it ends after {len(self._held)} octets, before its content begins")
        if self._seen < self.size:
            raise Damaged(f"it ends after {self._seen} of {self.size} octets of content")
        if self._content.digest() != self._wanted:
            raise Damaged("its content is not the one that was written: the SHA-256 differs")

    def spooled(self, content: Content) -> Spooled:
        """The mail, whose content is read by ``content``. ValueError while the beginning is not known."""
        return from_form(self._form, content)

    def _numbers(self) -> tuple[int, int]:
        magic, form, size = _NUMBERS.unpack_from(self._held)
        if magic != _MAGIC:
            if magic.startswith(_FAMILY) and magic[7:8].isdigit() and magic > _MAGIC:
                raise NewerFormError(f"written in layout {magic[7:8].decode()}, this mailfarm reads 1: update it")
            raise Damaged("it does not begin as spooled mail does")
        if not 0 < form <= LONGEST_FORM:
            raise Damaged(f"its form is said to have {form} octets")
        return form, size

    def _begin(self) -> bytes:
        """Head and form are complete: check them. What is held behind them."""
        form, self.size = self._numbers()
        self.start = HEAD + form
        text = bytes(self._held[HEAD : self.start])
        digest = sha256(self._held[: _NUMBERS.size] + text).digest()
        if digest != self._held[_NUMBERS.size : HEAD]:
            raise Damaged("its envelope is not the one that was written: the SHA-256 differs")
        try:
            self._wanted = from_form(text, Whole(b"")).sha256
        except NewerFormError:
            raise
        except ValueError as error:
            raise Damaged(str(error)) from None
        rest = bytes(self._held[self.start :])
        self._form, self._held = text, bytearray()
        return rest
