"""A reply that is lost behind the final dot, and mail that is sent again."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mailfarm.prove.dev import Dev
from mailfarm.prove.faults import Fault, Tell
from mailfarm.prove.faults.swallowed import LETTERS, Swallow, Swallowed
from mailfarm.prove.run import Proof, Run
from mailfarm.prove.target import Door, Options, Target
from mailfarm.prove.wire import Wires
from mailfarm.prove.wire_link import Direction


def prove(folder: Path, fault: Fault, options: Options | None = None) -> Proof:
    (folder / "target").mkdir()
    return Run(Dev(folder / "target", options or fault.options or Options()), folder).prove([fault])


@pytest.mark.parametrize("fold", [False, True])
def test_both_are_kept_or_the_second_is_the_first(tmp_path: Path, fold: bool) -> None:
    proof = prove(tmp_path, Swallowed(fold=fold))
    assert not proof.broke
    assert proof.verdict.clean, proof.verdict
    ours = [fate for (name, _), fate in proof.verdict.fates.items() if name.startswith("own") and fate.unknown]
    assert [fate.copies for fate in ours] == [1 if fold else 2] * LETTERS


def test_a_copy_that_is_hidden_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailfarm.prove.faults.swallowed.READABLE", 3.0)
    folding = replace(Options(), settings={"MAILFARM_MX_FOLD": "yes"})
    proof = prove(tmp_path, Swallowed(fold=False), folding)
    assert "messages" in str(proof.verdict.wrong)
    assert not proof.verdict.clean


def test_only_the_reply_behind_the_end_of_data_is_swallowed() -> None:
    session = Swallow()
    assert session.passes("down", b"220 hello\r\n")
    assert session.passes("up", b"DATA\r\n") == b"DATA\r\n"
    assert session.passes("down", b"354 go on\r\n")
    for piece in (b"a line\r\n.", b".stuffed\r\n", b"\r", b"\n."):
        assert session.passes("up", piece) == piece
    assert session.passes("down", b"421 too slow\r\n")
    assert session.passes("up", b"\r\n") == b"\r\n"
    assert session.passes("down", b"250 2.0.0 it is ours\r\n") is None


class Interrupting(Swallow):
    """Holds back the reply, and somebody types Ctrl-C."""

    def passes(self, way: Direction, data: bytes) -> bytes | None:
        passed = super().passes(way, data)
        if passed is None:
            os.kill(os.getpid(), signal.SIGINT)
            return b""
        return passed


class Interrupted(Fault):
    name, family, says = "interrupted", "swallowed", "Ctrl-C while the reply to the final dot is awaited"
    targets = ("dev",)

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a reactor in a test takes it
        try:
            with Wires() as wires:
                wire = wires.wire(target.smtp[0])
                wire.watch(Interrupting)
                target.mail.send(target.mail.letter(), Door(wire.host, wire.port))
        finally:
            signal.signal(signal.SIGINT, before)


def test_what_was_under_way_when_it_was_interrupted_is_unknown(tmp_path: Path) -> None:
    proof = prove(tmp_path, Interrupted())
    assert proof.interrupted
    assert not proof.broke
    assert proof.verdict.clean, proof.verdict
    (ours,) = [fate for (name, _), fate in proof.verdict.fates.items() if name.startswith("own")]
    assert (ours.unknown, ours.copies) == (1, 1)
