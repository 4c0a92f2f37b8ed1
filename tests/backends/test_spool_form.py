"""The JSON form of spooled mail."""

from __future__ import annotations

from dataclasses import fields

import orjson
import pytest
from spooled_samples import spooled

from mailfarm.backends.spool_form import envelope_of, from_form, to_form
from mailfarm.errors import Invalid
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import Origin, Spooled

RECIPIENTS = (Recipient("a@b.example", ("SUCCESS", "FAILURE"), "rfc822;a@b.example"), Recipient("c@d.example"))
ENVELOPE = Envelope("s@e.example", RECIPIENTS, "BINARYMIME", True, 17, "HDRS", "QQ314159")
ORIGIN = Origin("mx", "2001:db8::7", 4711, "client.example", "ESMTPSA", "TLSv1.3 X", "01credential")


def of(envelope: Envelope) -> Spooled:
    plain = spooled()
    return Spooled(
        plain.id, plain.account, 17, envelope, ORIGIN, ("m", "n"), b"Received: x\r\n", bytes(32), plain.content
    )


def test_what_was_written_is_read_again() -> None:
    spooled = of(ENVELOPE)
    form = to_form(spooled)
    assert from_form(form, spooled.content) == spooled
    assert envelope_of(form) == (spooled.account, "s@e.example", ("a@b.example", "c@d.example"))


def test_every_field_is_written() -> None:
    raw = orjson.loads(to_form(of(ENVELOPE)))
    for kind, form in (
        (Envelope, raw["envelope"]),
        (Recipient, raw["envelope"]["recipients"][0]),
        (Origin, raw["origin"]),
    ):
        assert list(form) == [field.name for field in fields(kind)]


def test_a_lone_surrogate_is_invalid() -> None:
    with pytest.raises(Invalid):
        to_form(of(Envelope("\ud800@e.example")))
