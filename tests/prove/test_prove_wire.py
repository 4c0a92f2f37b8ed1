"""The relay between two parts: what passes it is the same octets, and what it withholds is withheld without a word."""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from running import until

from mailfarm.prove.wire import Wire, Wires
from mailfarm.prove.wire_link import HELD, Direction

TIMEOUT = 20.0


class Far:
    """A server that takes connections and does nothing of its own accord."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.listener.settimeout(TIMEOUT)
        self.address: tuple[str, int] = self.listener.getsockname()

    def accept(self) -> socket.socket:
        made, _ = self.listener.accept()
        made.settimeout(TIMEOUT)
        return made


@pytest.fixture
def wires() -> Iterator[Wires]:
    with Wires() as made:
        yield made


@pytest.fixture
def far() -> Iterator[Far]:
    made = Far()
    yield made
    made.listener.close()


@pytest.fixture
def wire(wires: Wires, far: Far) -> Wire:
    return wires.wire(far.address, "test")


@pytest.fixture
def opened() -> Iterator[Callable[[Wire], socket.socket]]:
    made: list[socket.socket] = []

    def connect(wire: Wire) -> socket.socket:
        near = socket.create_connection((wire.host, wire.port), TIMEOUT)
        made.append(near)
        return near

    yield connect
    for near in made:
        near.close()


def read(sock: socket.socket, octets: int) -> bytes:
    """So many, or all there are before the end."""
    got = bytearray()
    while len(got) < octets and (data := sock.recv(octets - len(got))):
        got += data
    return bytes(got)


def silent(sock: socket.socket, seconds: float = 0.2) -> bool:
    """Nothing comes, no end either."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(TIMEOUT)
    return False


def test_every_octet_passes_both_ways_on_many_connections_at_once(wires: Wires, opened: Callable) -> None:
    """Each end sends at its own pace and size while it reads; then says goodbye, one way after the other."""
    dice = random.Random(5)
    ways = 20
    fars = [Far() for _ in range(ways)]
    texts = [(dice.randbytes(dice.choice((0, 1, 70_000, 3_000_000))), dice.randbytes(400_000)) for _ in range(ways)]
    got: dict[tuple[int, str], bytes] = {}

    def talk(sock: socket.socket, sends: bytes, key: tuple[int, str]) -> None:
        speaking = threading.Thread(target=lambda: (sock.sendall(sends), sock.shutdown(socket.SHUT_WR)))
        speaking.start()
        got[key] = read(sock, 10_000_000)
        speaking.join()

    talking = []
    for number, (up, down) in enumerate(texts):
        near = opened(wires.wire(fars[number].address))
        there = fars[number].accept()
        talking += [
            threading.Thread(target=talk, args=(near, up, (number, "down"))),
            threading.Thread(target=talk, args=(there, down, (number, "up"))),
        ]
        fars.append(there)  # to be closed
    for thread in talking:
        thread.start()
    for thread in talking:
        thread.join(TIMEOUT)
    assert got == {(n, way): text for n, (up, down) in enumerate(texts) for way, text in (("up", up), ("down", down))}
    for each in fars:
        (each.listener if isinstance(each, Far) else each).close()


def test_one_way_may_end_while_the_other_goes_on(wire: Wire, far: Far, opened: Callable) -> None:
    near = opened(wire)
    with far.accept() as there:
        near.shutdown(socket.SHUT_WR)
        assert there.recv(1) == b""
        there.sendall(b"after your goodbye")
        assert read(near, 18) == b"after your goodbye"
        there.close()
        assert near.recv(1) == b""
    until(lambda: wire.open == 0)
    assert wire.octets == {"up": 0, "down": 18}


def test_cut_is_a_reset_for_both_ends_and_new_connections_pass(wire: Wire, far: Far, opened: Callable) -> None:
    near = opened(wire)
    with far.accept() as there:
        near.sendall(b"x")
        assert there.recv(1) == b"x"
        assert wire.cut() == 1
        for end in (near, there):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    again = opened(wire)
    with far.accept() as there:
        again.sendall(b"y")
        assert there.recv(1) == b"y"
    assert wire.accepted == 2


def test_refused_is_refused_until_it_is_healed_and_the_port_stays_ours(wire: Wire, far: Far, opened: Callable) -> None:
    for _ in range(3):
        wire.refuse()
        with pytest.raises(ConnectionRefusedError):
            opened(wire)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((wire.host, wire.port))
        wire.heal()
        near = opened(wire)
        with far.accept():
            wire.refuse()
            with pytest.raises(ConnectionResetError):
                near.recv(1)
        wire.heal()


@pytest.mark.parametrize("connects", ["hang", "silent"])
def test_a_black_hole_says_nothing_and_hands_all_on_when_it_is_healed(
    wire: Wire, far: Far, opened: Callable, connects: str
) -> None:
    """Also what somebody sent who has given up meanwhile, and that it did."""
    staying, leaving, server_leaves = opened(wire), opened(wire), opened(wire)
    there, there_leaving, gone = far.accept(), far.accept(), far.accept()
    staying.sendall(b"before")
    assert read(there, 6) == b"before"
    wire.stall(connects=connects)
    staying.sendall(b"up")
    there.sendall(b"down")
    leaving.sendall(b"my last words")
    leaving.close()
    gone.sendall(b"its last words")
    gone.close()
    assert silent(there)
    assert silent(there_leaving)
    assert silent(staying)
    assert silent(server_leaves)
    with socket.socket() as late:
        late.settimeout(0.3)
        if connects == "hang":
            with pytest.raises(TimeoutError):
                late.connect((wire.host, wire.port))
        else:
            late.connect((wire.host, wire.port))
            late.sendall(b"is anybody there?")
            assert silent(late)
            assert not select.select([far.listener], [], [], 0)[0]
        wire.heal()
        assert read(there, 2) == b"up"
        assert read(staying, 4) == b"down"
        assert read(there_leaving, 100) == b"my last words"  # and its end
        assert read(server_leaves, 100) == b"its last words"
        if connects == "silent":
            with far.accept() as found:
                assert read(found, 17) == b"is anybody there?"
    for _ in range(2):
        near = opened(wire)
        near.sendall(b"z")
        with far.accept() as found:
            assert read(found, 1) == b"z"
    for each in (there, there_leaving):
        each.close()


def test_a_hanging_connect_comes_through_when_it_is_healed(wire: Wire, far: Far) -> None:
    wire.stall()
    with socket.socket() as near:
        near.setblocking(False)
        near.connect_ex((wire.host, wire.port))
        assert wire.accepted == 0
        wire.heal()
        with far.accept() as there:  # SYN comes again after a second
            near.setblocking(True)
            near.sendall(b"at last")
            assert read(there, 7) == b"at last"
    assert wire.accepted == 1  # nobody else's: what filled the queue of connections is not among them


@pytest.mark.parametrize("way", ["up", "down"])
def test_one_way_is_stalled_and_the_other_passes(wire: Wire, far: Far, opened: Callable, way: Direction) -> None:
    near = opened(wire)
    with far.accept() as there:
        wire.stall(way)
        near.sendall(b"asked")
        there.sendall(b"answered")
        if way == "down":
            assert read(there, 5) == b"asked"
            assert silent(near)
        else:
            assert read(near, 8) == b"answered"
            assert silent(there)
        wire.heal()
        assert read(there if way == "up" else near, 5) == (b"asked" if way == "up" else b"answe")


def test_behind_a_stall_nobody_hears_that_the_server_died(wire: Wire, far: Far, opened: Callable) -> None:
    near = opened(wire)
    there = far.accept()
    wire.stall("down")
    near.sendall(b"x" * 1000)
    until(lambda: wire.octets["up"] == 1000)
    there.sendall(b"the answer")
    there.close()  # with octets unread: RST
    for _ in range(20):
        near.sendall(b"is lost" * 1000)
    assert silent(near)
    wire.heal()
    with pytest.raises(ConnectionResetError):
        read(near, 1000)


@pytest.mark.parametrize("stall", [False, True])
def test_what_it_holds_is_bounded(wire: Wire, far: Far, opened: Callable, stall: bool) -> None:
    """Who sends more than the other side takes is stopped by its own window; nothing is lost."""
    near = opened(wire)
    data = random.Random(1).randbytes(30_000_000)
    with far.accept() as there:
        if stall:
            wire.stall()
        near.settimeout(0.5)
        sent = 0
        with suppress(TimeoutError):
            while True:
                sent += near.send(data[sent : sent + 65536])
        assert wire.octets["up"] <= (0 if stall else 10_000_000)
        (link,) = wire.links
        assert link.up._octets <= HELD  # of what it read, at most so much is here
        wire.heal()
        near.settimeout(TIMEOUT)
        sending = threading.Thread(target=lambda: near.sendall(data[sent:]))
        sending.start()
        assert read(there, len(data)) == data
        sending.join()


def test_slow_is_late_and_in_order(wire: Wire, far: Far, opened: Callable) -> None:
    near = opened(wire)
    with far.accept() as there:
        wire.slow(delay=0.3)
        began = time.monotonic()
        near.sendall(b"one")
        assert read(there, 3) == b"one"
        assert time.monotonic() - began >= 0.3
        wire.slow(rate=50_000)
        data = random.Random(2).randbytes(25_000)
        began = time.monotonic()
        near.sendall(data)
        near.shutdown(socket.SHUT_WR)
        assert read(there, 10) == data[:10]
        assert 25_000 - wire.octets["up"] > 5_000  # it comes bit by bit
        wire.heal()  # what is on its way is not overtaken
        assert read(there, 100_000) == data[10:]
        assert time.monotonic() - began >= 0.1


def test_it_leads_elsewhere(wire: Wire, far: Far, opened: Callable) -> None:
    other = Far()
    near = opened(wire)
    with far.accept() as there:
        wire.point(other.address)
        near.sendall(b"stays")
        assert read(there, 5) == b"stays"
        moved = opened(wire)
        with other.accept() as elsewhere:
            moved.sendall(b"moves")
            assert read(elsewhere, 5) == b"moves"
    other.listener.close()


def test_nobody_there_is_a_reset(wire: Wire, far: Far, opened: Callable) -> None:
    far.listener.close()
    with pytest.raises(ConnectionResetError):  # it may come before the connect returns
        opened(wire).recv(1)
    wire.stall(connects="silent")
    near = opened(wire)
    assert silent(near)  # while it is stalled nobody can know
    wire.heal()
    with pytest.raises(ConnectionResetError):
        near.recv(1)
    assert wire.open == 0


class Swallow:
    """Ends the connection at the first answer after a question mark."""

    def __init__(self) -> None:
        self.asked = False

    def passes(self, way: Direction, data: bytes) -> bytes | None:
        self.asked |= way == "up" and b"?" in data
        return None if way == "down" and self.asked else data.upper()


def test_a_tap_sees_and_changes_and_cuts(wire: Wire, far: Far, opened: Callable) -> None:
    wire.watch(Swallow)
    near = opened(wire)
    with far.accept() as there:
        there.sendall(b"hello")
        assert read(near, 5) == b"HELLO"
        near.sendall(b"who?")
        assert read(there, 4) == b"WHO?"
        there.sendall(b"me")
        for end in (near, there):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    wire.watch(None)
    near = opened(wire)
    with far.accept() as there, suppress(OSError):
        near.sendall(b"who?")
        assert read(there, 4) == b"who?"
        there.sendall(b"me")
        assert read(near, 2) == b"me"


def test_many_wires_cost_one_thread(wires: Wires, far: Far, opened: Callable) -> None:
    before = threading.active_count()
    many = [wires.wire(far.address) for _ in range(300)]
    nears = [opened(wire) for wire in many]
    theres = [far.accept() for _ in many]
    for near in nears:
        near.sendall(b"x")
    assert all(there.recv(1) == b"x" for there in theres)
    assert threading.active_count() == before
    for there in theres:
        there.close()
    wires.close()
    for near in nears:
        with suppress(ConnectionResetError):
            assert near.recv(1) == b""
