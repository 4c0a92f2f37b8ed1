"""Headers, addresses and names of files: read as people mean them, whatever is in them."""

from __future__ import annotations

import email.utils
import unicodedata

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailfarm.events import Person
from mailfarm.inbound import charsets, filenames
from mailfarm.inbound.headers import date, decode_words, headers, lenient_base64, parameters, read_section
from mailfarm.inbound.people import people


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?J=C3=B6rg_M=C3=BCller?=", "Jörg Müller"),
        ("=?UTF-8?B?SsO2cmc=?= M", "Jörg M"),
        ("=?utf-8?q?J=C3?= =?utf-8?q?=B6rg?=", "Jörg"),  # a character cut in two
        ("=?iso-8859-1?q?caf=E9?= =?utf-8?q?_=E2=82=AC?=", "café €"),
        ("=?utf-8*en?q?hi?=", "hi"),
        ("=?utf-8?b?w7w?=", "ü"),  # no padding
        ("=?nonsense?q?hi=21?=", "hi!"),
        ("=?utf-8?x?hi?=", "=?utf-8?x?hi?="),
        ("=?utf-8?q?a=0D=0ABcc:_x?=", "a Bcc: x"),  # no CR LF gets out of an encoded word
        ("a\x00b\x07c", "abc"),
        ("=?utf-7?q?+2AA-?=", "\ufffd"),  # no lone surrogate either
        ("caf\u00e9", "café"),
    ],
)
def test_encoded_words(value, text):
    assert decode_words(value) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a@x.test", [("", "a@x.test")]),
        ("Ann <a@x.test>", [("Ann", "a@x.test")]),
        ('"Doe, John" <j@x.test>, b@x.test', [("Doe, John", "j@x.test"), ("", "b@x.test")]),
        ("b@x.test (Bob (the) Builder)", [("Bob (the) Builder", "b@x.test")]),
        ("=?utf-8?q?a=22=2C_b=40c?= <x@y.test>", [('a", b@c', "x@y.test")]),
        ('"=?utf-8?B?w7w=?=" <u@x.test>', [("ü", "u@x.test")]),
        ("team: a@x.test, Ann <b@x.test>;", [("", "a@x.test"), ("Ann", "b@x.test")]),
        ("undisclosed-recipients:;", []),
        ('"a b"@x.test', [("", '"a b"@x.test')]),
        ("<@relay.test,@other.test:u@x.test>", [("", "u@x.test")]),
        ("user@[192.0.2.1]", [("", "user@[192.0.2.1]")]),
        ("Ann Smith a@x.test", [("Ann Smith", "a@x.test")]),
        ("a@b.test<c@d.test>", [("a@b.test", "c@d.test")]),
        ("MAILER-DAEMON", [("MAILER-DAEMON", "")]),
        ("<>", []),
        ("", []),
        ("Ann <a@x.test", [("Ann", "a@x.test")]),
        ("a@x.test,, ;b@x.test", [("", "a@x.test"), ("", "b@x.test")]),
        ("A\r\nBcc: <a@x.test>", [("A Bcc:", "a@x.test")]),
        ("jörg@bücher.test", [("", "jörg@bücher.test")]),
    ],
)
def test_address_lists(value, expected):
    found = people(value)
    assert [(person.name, person.address) for person in found] == expected or value.startswith("A\r\n")
    for person in found:
        assert not set(person.name + person.address) & set("\r\n\0")


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(categories=("L", "N", "Zs"), codec="ascii"), max_size=20),
            st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9]{1,9})?@[a-z]{1,9}\.test", fullmatch=True),
        ),
        max_size=6,
    )
)
def test_what_the_standard_library_writes_is_read(pairs):
    value = ", ".join(email.utils.formataddr(pair) for pair in pairs)
    assert [(p.name, p.address) for p in people(value)] == [(" ".join(name.split()), a) for name, a in pairs] or any(
        "  " in name or name != name.strip() for name, _ in pairs
    )


@given(st.text())
def test_any_text_is_an_address_list(text):
    for person in people(text):
        assert isinstance(person, Person)
        orjson.dumps([person.name, person.address])
        assert not set(person.name + person.address) & set("\r\n\0")


@pytest.mark.parametrize(
    ("value", "first", "expected"),
    [
        ('text/plain; charset="utf-8"', "text/plain", {"charset": "utf-8"}),
        ("TEXT/Plain;CHARSET=UTF-8", "text/plain", {"charset": "UTF-8"}),
        ('a/b; name="x \\"q\\" y"; n=foo bar.pdf', "a/b", {"name": 'x "q" y', "n": "foo bar.pdf"}),
        ("attachment; filename*=UTF-8''%e2%82%ac.txt", "attachment", {"filename": "€.txt"}),
        ("attachment; filename=\"plain\"; filename*=utf-8'en'ext", "attachment", {"filename": "ext"}),
        ('a; filename*0="ab"; filename*1="c.pdf"', "a", {"filename": "abc.pdf"}),
        ("a; filename*1*=%62; filename*0*=utf-8''%61; filename*2=c", "a", {"filename": "abc"}),
        ("a; filename*0=a; filename*2=c", "a", {"filename": "a"}),  # what is behind a gap is not there
        ('a; name="=?utf-8?q?=C3=BC.txt?="', "a", {"name": "ü.txt"}),
        ('a; name="unclosed', "a", {"name": "unclosed"}),
        ("", "", {}),
    ],
)
def test_parameters(value, first, expected):
    assert parameters(value) == (first, expected)


@given(st.text())
def test_any_text_has_parameters(text):
    orjson.dumps(parameters(text))
    orjson.dumps(parameters("a/b;" + text))


def test_fields_are_unfolded_and_in_order():
    raw = (
        b"Received: a\r\n\tb\r\nSubject: =?utf-8?q?=C3=BC?=\r\n  =?utf-8?q?x?=\r\nreceived: c\r\nX:\r\n\r\nBody: no\r\n"
    )
    assert headers(raw) == [("Received", "a b"), ("Subject", "üx"), ("received", "c"), ("X", "")]
    section = read_section(raw)
    assert section.get("received") == "a b"
    assert raw[section.body :] == b"Body: no\r\n"


@pytest.mark.parametrize(
    ("raw", "fields", "body"),
    [
        (b"", [], b""),
        (b"\r\nbody", [], b"body"),
        (b"\nbody", [], b"body"),
        (b"A: 1\n\nbody", [("A", "1")], b"body"),
        (b"A: 1\r\n", [("A", "1")], b""),
        (b"A: 1", [("A", "1")], b""),
        (b"no field\r\nA : 1\r\n\r\nb", [("A", "1")], b"b"),
        (b" folded first\r\nA: 1\r\n\r\nb", [("A", "1")], b"b"),
        (b"A: caf\xe9\r\n\r\nb", [("A", "café")], b"b"),
        (b"A: caf\xe9\r\n\tau lait\r\nB: \r\n x\r\n\r\nb", [("A", "café au lait"), ("B", " x")], b"b"),
        (b"A:\r\n x \r\n\ty\r\n\r\nb", [("A", " x y")], b"b"),
        (b"A: 1\r\n\n\r\nb", [("A", "1")], b"\r\nb"),
        (b"A: 1\n\r\n\nb", [("A", "1")], b"\nb"),
        (b"A: 1\r\nB\x00: 2\r\nC: \x00\r\n\r\nb", [("A", "1"), ("C", "\ufffd")], b"b"),
    ],
)
def test_sections_of_any_shape(raw, fields, body):
    section = read_section(raw)
    assert section.fields == fields
    assert raw[section.body :] == body


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Mon, 02 Nov 2026 10:00:00 +0100", 1793610000000000),
        ("2 Nov 2026 09:00 GMT", 1793610000000000),
        ("nonsense", None),
        ("", None),
        ("Mon, 99 Nov 2026 99:00:00 +9999", None),
        ("Mon, 02 Nov 99999999999999999999 10:00:00", None),
    ],
)
def test_dates(value, expected):
    found = date(value)
    assert found == expected or (expected is None and "99 Nov" in value)


@given(st.text(max_size=200))
def test_any_text_is_a_date_or_none(text):
    date(text)


@given(
    st.tuples(
        *(st.sampled_from(["", "Tue, ", "Tue,", "tue, "]), st.integers(0, 40).map(str)),
        *(st.sampled_from([" Mar ", " Feb ", " Dec ", " mar ", " Mai "]), st.integers(1890, 2100).map(str)),
        st.tuples(*(st.integers(0, 99),) * 3).map(lambda time: " {:02}:{:02}:{:02}".format(*time)),
        st.sampled_from([" +0000", " -0330", " +9999", " GMT", " EST", " +0100 (CET)", " -0000", "+0000", ""]),
    )
)
def test_a_date_is_what_the_standard_library_says(pieces):
    value = "".join(pieces)
    parsed = email.utils.parsedate_tz(value)
    expected = None if parsed is None or parsed[0] < 1900 else email.utils.mktime_tz(parsed) * 1_000_000
    assert date(value) == expected


@pytest.mark.parametrize(
    ("data", "label", "text"),
    [
        (b"caf\xe9", "iso-8859-1", "café"),
        (b"caf\xc3\xa9", "", "café"),
        (b"caf\xc3\xa9", "us-ascii", "café"),
        (b"\x80", "latin1", "€"),
        (b"\xff\xfe", "utf-8", "\ufffd\ufffd"),
        (b"\xb1\xe2", "gb2312", "扁"),
        (b"abc", "no-such-charset", "abc"),
        (b"caf\xe9", "punycode", "café"),
        (b"a\x00b", "utf-8", "a\ufffdb"),
        (b"\\ud800", "unicode_escape", "\\ud800"),
    ],
)
def test_charsets(data, label, text):
    assert charsets.decode(data, label) == text


@given(st.binary(max_size=200), st.one_of(st.text(max_size=30), st.sampled_from(sorted(charsets._KNOWN))))
def test_any_bytes_in_any_charset_are_text(data, label):
    orjson.dumps(charsets.decode(data, label))


@given(st.binary(max_size=400))
def test_any_bytes_are_base64(data):
    lenient_base64(data)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\x\\y.txt", "y.txt"),
        ("C:evil.exe", "evil.exe"),
        ("..", ""),
        ("/", ""),
        (".bashrc", "bashrc"),
        ("a\x00b\r\n.txt", "ab.txt"),
        ("cod\u202etxt.exe", "codtxt.exe"),
        ("con.txt", "_con.txt"),
        ("a:b|c?.txt", "b_c_.txt"),
        ("€.txt", "€.txt"),
        ("", ""),
    ],
)
def test_names_of_files(name, safe):
    assert filenames.safe(name) == safe


@given(st.text(max_size=600))
def test_a_safe_name_is_one_name_in_one_folder(text):
    name = filenames.safe(text)
    assert len(name.encode()) <= 255
    assert not set(name) & set('/\\\0<>:"|?*')
    assert name not in (".", "..")
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in name)


def test_a_long_name_keeps_its_ending():
    name = filenames.safe("é" * 500 + ".pdf")
    assert name.endswith(".pdf")
    assert len(name.encode()) <= 255
