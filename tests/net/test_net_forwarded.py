"""Who really asks, behind a proxy of ours or none."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from mailfarm.net.forwarded import Forwarded

OURS = Forwarded([ip_network("10.87.0.0/23"), ip_network("fd00:87::/64"), ip_network("192.0.2.7/32")])
PROXY = "10.87.0.5"


@pytest.mark.parametrize(
    ("peer", "fields", "client"),
    [
        (PROXY, ["203.0.113.9"], "203.0.113.9"),
        (PROXY, ["2001:db8::9"], "2001:db8::9"),
        (PROXY, ["[2001:db8::9]:4711"], "2001:db8::9"),
        (PROXY, ["203.0.113.9:4711"], "203.0.113.9"),
        (PROXY, ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.87.0.5", ["203.0.113.9"], "203.0.113.9"),
        ("fd00:87::5", ["203.0.113.9"], "203.0.113.9"),
        # what a client wrote itself stands further left
        (PROXY, ["127.0.0.1, 198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (PROXY, ["127.0.0.1", "198.51.100.1 ,  203.0.113.9"], "203.0.113.9"),
        (PROXY, ["10.87.0.9, 203.0.113.9"], "203.0.113.9"),
        # a proxy behind a proxy, both ours
        (PROXY, ["127.0.0.1, 203.0.113.9, 192.0.2.7"], "203.0.113.9"),
        (PROXY, ["10.87.0.9, 192.0.2.7"], "10.87.0.9"),
        # rubbish hides nobody: it is as far as what is believed reaches
        (PROXY, ["203.0.113.9, unknown"], PROXY),
        (PROXY, ["203.0.113.9, nonsense, 192.0.2.7"], "192.0.2.7"),
        (PROXY, ["203.0.113.9, "], PROXY),
        (PROXY, [""], PROXY),
        (PROXY, [], PROXY),
        (PROXY, [", ".join(["192.0.2.7"] * 5000)], "192.0.2.7"),
        # who is not listed is the client, whatever it says
        ("203.0.113.1", ["127.0.0.1"], "203.0.113.1"),
        ("2001:db8::1%eth0", ["127.0.0.1"], "2001:db8::1"),
        ("/run/socket", ["127.0.0.1"], "/run/socket"),
    ],
)
def test_the_client_is_the_right_most_that_is_no_proxy_of_ours(peer: str, fields: list[str], client: str) -> None:
    assert OURS.client(peer, fields) == client


def test_nobody_is_believed_unless_it_is_set() -> None:
    assert Forwarded().client(PROXY, ["203.0.113.9"]) == PROXY
    assert not Forwarded().https(PROXY, ["https"])


@pytest.mark.parametrize(
    ("peer", "fields", "https"),
    [
        (PROXY, ["https"], True),
        (PROXY, ["http, HTTPS "], True),
        (PROXY, ["wss"], True),
        (PROXY, ["https", "http"], False),
        (PROXY, [], None),
        (PROXY, [""], None),
        ("203.0.113.1", ["https"], None),
    ],
)
def test_https_is_what_the_nearest_proxy_says(peer: str, fields: list[str], https: bool | None) -> None:
    assert OURS.https(peer, fields) is https
