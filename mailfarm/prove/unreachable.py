"""What runs inside a container's network namespace to cut it off from addresses, and to join it to them again.

::

    python3 unreachable.py cut 10.0.2.7 10.0.2.9        what is sent there goes to a MAC address that nobody has
    python3 unreachable.py join 10.0.2.7 10.0.2.9

A permanent neighbour entry (rtnetlink(7), RTM_NEWNEIGH): packets vanish without an answer, on new connections and on
those that are open, as when a cable is cut. Needs CAP_NET_ADMIN and nothing but Python.
"""

import fcntl
import os
import socket
import struct
import sys

NOBODY = bytes.fromhex("02deadbeef00")
_NEW, _DELETE = 28, 29  # RTM_NEWNEIGH, RTM_DELNEIGH
_REQUEST_ACK, _CREATE_REPLACE = 0x1 | 0x4, 0x400 | 0x100  # NLM_F_*
_PERMANENT = 0x80  # NUD_PERMANENT
_ADDRESS, _LINK = 1, 2  # NDA_DST, NDA_LLADDR
_SIOCGIFADDR = 0x8915
_ERROR = 2  # NLMSG_ERROR, also the ACK


def interface(address: str) -> int:
    """The index of the interface packets for ``address`` leave by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        ours = socket.inet_aton(probe.getsockname()[0])
        for index, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))[20:24]
            except OSError:  # it has no address
                continue
            if found == ours:
                return index
    raise OSError(f"no interface leads to {address}")


def attribute(kind: int, data: bytes) -> bytes:
    """One rtattr, padded."""
    size = 4 + len(data)
    return struct.pack("=HH", size, kind) + data + bytes(-size % 4)


def neighbour(kind: int, flags: int, address: str) -> None:
    """Ask the kernel, and raise OSError if it refuses."""
    body = struct.pack("=BxxxiHBB", socket.AF_INET, interface(address), _PERMANENT, 0, 1)
    body += attribute(_ADDRESS, socket.inet_aton(address)) + attribute(_LINK, NOBODY)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.sendto(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK | flags, 1, 0) + body, (0, 0))
        answer = kernel.recv(4096)
    code = struct.unpack_from("=i", answer, 16)[0]
    if struct.unpack_from("=H", answer, 4)[0] == _ERROR and code:
        raise OSError(-code, os.strerror(-code), address)


def main(verb: str, *addresses: str) -> int:
    """Cut or join; the exit code."""
    kind, flags = (_NEW, _CREATE_REPLACE) if verb == "cut" else (_DELETE, 0)
    try:
        for each in addresses:
            neighbour(kind, flags, each)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
