"""Host and Origin: who may talk to us through a browser."""

import pytest

from mailfarm.net.hosts import Hosts, split_host


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8025", "127.0.0.1:1", "[::1]", "[::1]:8025", "localhost.", "mail.example:65535"]
)
def test_our_names_are_ours_on_any_port(host):
    assert Hosts(["Mail.Example"]).ours(host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example:8025",
        "localhost:8025@evil.example",
        "localhost:",
        "localhost:port",
        "localhost, evil.example",
        "localhost/..",
        "0.0.0.0",
        "127.1",
        "[::ffff:127.0.0.1]",
        "a localhost",
    ],
)
def test_other_names_are_not(host):
    assert not Hosts().ours(host)


def test_an_ipv6_name_may_be_given_without_brackets():
    assert Hosts(["fd00::1"]).ours("[fd00::1]:80")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8025", "localhost:8025"),
        ("https://mail.example", "mail.example"),
        ("https://mail.example", "mail.example:443"),
        ("http://mail.example:80", "mail.example"),
        ("http://[::1]:8025", "[::1]:8025"),
    ],
)
def test_a_page_of_ours_is_same_origin(origin, host):
    assert Hosts().same_origin(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("null", "localhost:8025"),
        ("", "localhost:8025"),
        ("http://localhost:3000", "localhost:8025"),
        ("http://127.0.0.1:8025", "localhost:8025"),
        ("http://evil.example", "localhost:8025"),
        ("http://localhost:8025.evil.example", "localhost:8025"),
        ("http://localhost:8025@evil.example", "localhost:8025"),
        ("file://localhost:8025", "localhost:8025"),
        ("http://localhost:8025/x", "localhost:8025"),
        ("http://[", "localhost:8025"),
    ],
)
def test_everything_else_is_foreign(origin, host):
    assert not Hosts().same_origin(origin, host)


def test_a_host_is_split_into_name_and_port():
    assert split_host("Localhost:8025") == ("localhost", "8025")
    assert split_host("a:b:c") is None
