"""Addresses: what is one, what is not, and which are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfarm.mail.address import Address, domain_key, parse_path


@pytest.mark.parametrize(
    ("text", "local", "domain", "key"),
    [
        ("a@b", "a", "b", "a@b"),
        ("Joe.Bloggs+Tag@Example.ORG", "Joe.Bloggs+Tag", "Example.ORG", "joe.bloggs+tag@example.org"),
        ("!#$%&'*+-/=?^_`{|}~@x.example", "!#$%&'*+-/=?^_`{|}~", "x.example", "!#$%&'*+-/=?^_`{|}~@x.example"),
        ('"joe"@x.example', '"joe"', "x.example", "joe@x.example"),
        ('"a b"@x.example', '"a b"', "x.example", '"a b"@x.example'),
        (r'"a\"b\\c"@x.example', r'"a\"b\\c"', "x.example", r'"a\"b\\c"@x.example'),
        (r'"\a"@x.example', r'"\a"', "x.example", "a@x.example"),
        ('""@x.example', '""', "x.example", '""@x.example'),
        ("a@[192.0.2.1]", "a", "[192.0.2.1]", "a@[192.0.2.1]"),
        ("a@[IPv6:2001:DB8:0::1]", "a", "[IPv6:2001:DB8:0::1]", "a@[ipv6:2001:db8::1]"),
        ("Jürgen@Bücher.example", "Jürgen", "Bücher.example", "jürgen@xn--bcher-kva.example"),
        ("用户@例え.テスト", "用户", "例え.テスト", "用户@xn--r8jz45g.xn--zckzah"),
        ("a@XN--BCHER-KVA.example", "a", "XN--BCHER-KVA.example", "a@xn--bcher-kva.example"),
        ("u\u0308@x.example", "u\u0308", "x.example", "ü@x.example"),
        ("user%remote@us.example", "user%remote", "us.example", "user%remote@us.example"),
        (f"{'A' * 64}@{'b' * 63}.c", "A" * 64, f"{'b' * 63}.c", f"{'a' * 64}@{'b' * 63}.c"),
        (f"a@{'b.' * 125}cc", "a", f"{'b.' * 125}cc", f"a@{'b.' * 125}cc"),
    ],
)
def test_is_an_address(text: str, local: str, domain: str, key: str) -> None:
    address = Address.parse(text)
    assert (address.local, address.domain) == (local, domain)
    assert str(address) == text
    assert address.key == key
    assert Address.parse(key).key == key


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "@", "a@", "@b", "a@b@c", ".a@b", "a.@b", "a..b@c", "a b@c", "a@b c", "a@.b", "a@b.", "a@b..c", "a@-b",
        "a@b-", "a@b_c", '"a@b', 'a"b@c', '"a"b@c', '"a\nb"@c', '"\\\n"@c', "a\r\n@b", "a@b\r\n", "a@b\n", "a\0@b",
        "a@b\0",
        "<a@b>", "a@[300.1.1.1]", "a@[1.2.3]", "a@[IPv6:g::1]", "a@[IPv6:fe80::1%eth0]", "a@[]", "a@[foo:bar]",
        "a@[192.0.2.1", "@x:a@b", "a" * 65 + "@b", "a@" + "b." * 126 + "c",
        "a@" + "b." * 125 + "ccc", "a@" + "b" * 64, "ü" * 33 + "@b",
        "a@b\u2028c", "a\u202eb@c", "a\x85@b", "a@\u200b", "a\u00a0@b", "a@xn--" + "ü" * 80, "a\udc80@b",
    ],
)  # fmt: skip
def test_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


def test_lengths_are_octets() -> None:
    assert Address.parse("ü" * 32 + "@b").local == "ü" * 32
    assert len(str(Address.parse("a" * 64 + "@" + "b" * 63 + "." + "c" * 63 + "." + "d" * 61))) == 254
    with pytest.raises(ValueError, match="254"):
        Address.parse("a" * 64 + "@" + "b" * 63 + "." + "c" * 63 + "." + "d" * 62)


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("user+tag@d.example", "user@d.example"),
        ("user+a+b@d.example", "user@d.example"),
        ("user@d.example", "user@d.example"),
        ("+tag@d.example", "+tag@d.example"),
        ('"a b+c"@d.example', '"a b"@d.example'),
        ('"a+c d"@d.example', "a@d.example"),
    ],
)
def test_without_tag(text: str, without: str) -> None:
    assert str(Address.parse(text).without_tag) == without


@pytest.mark.parametrize(
    ("text", "address", "route", "rest"),
    [
        ("<a@b> SIZE=1", "a@b", "", " SIZE=1"),
        ('<"a>b"@c>', '"a>b"@c', "", ""),
        ("<@x.example,@y.example:a@b>", "a@b", "@x.example,@y.example", ""),
        ("<postmaster>", "postmaster", "", ""),
        ("<PostMaster> X", "PostMaster", "", " X"),
    ],
)
def test_path(text: str, address: str, route: str, rest: str) -> None:
    path = parse_path(text)
    assert (path.address, path.route, text[path.end :]) == (address, route, rest)


@pytest.mark.parametrize(
    "text", ["", "<", "<>", "a@b", "<a@b", "<@x:>", "<@x,y:a@b>", "<@x;a@b>", "<a>", "< a@b>", "<a@b >"]
)
def test_is_no_path(text: str) -> None:
    with pytest.raises(ValueError):
        parse_path(text)


@given(st.text(max_size=40) | st.text(alphabet='ab."\\@[]:+-<> \r\n\0ü1', max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert str(address) == text
    assert not set(text) & set("\r\n\0")
    assert Address.parse(address.key).key == address.key
    without = address.without_tag
    assert Address.parse(str(without)) == without


atoms = st.text(alphabet="abcXYZ019!#$%&'*+-/=?^_`{|}~", min_size=1, max_size=10)
quoted = st.text(alphabet='ab "\\@.<>,:;', max_size=10).map(
    lambda t: '"' + t.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
labels = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,5}[a-zA-Z0-9])?", fullmatch=True)


@given(
    st.one_of(st.lists(atoms, min_size=1, max_size=3).map(".".join), quoted),
    st.lists(labels, min_size=1, max_size=4).map(".".join),
)
def test_there_and_back(local: str, domain: str) -> None:
    text = f"{local}@{domain}"
    try:
        domain_key(domain)
    except ValueError:
        return
    assert str(Address.parse(text)) == text
    assert parse_path(f"<{text}> X").address == text
