"""The lab by hand: ``python tests/stack/lab.py …``, as root.

up [N]                  N machines (3), with the images if they are built; until Ctrl-C, then all of it is gone
docker K ARGUMENT...    the docker CLI on machine K            on K COMMAND...   any command there
near COMMAND...         a command from 203.0.113.7             far COMMAND...    from 192.88.99.7
status                  which machines are up
down                    take away what a run that was killed left
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from engine import LabError, machine_of, missing
from images import disk
from lab import LOCK, Lab, turn


def run(words: Sequence[str]) -> int:
    """Do what the words say; the exit code."""
    lab = Lab(tell=_tell)
    try:
        match list(words):
            case ["up", *rest]:
                return _up(int(rest[0]) if rest else 3)
            case ["docker", number, *rest]:
                return _exec(machine_of(lab.folder / number).inside("docker", *rest))
            case ["on", number, *rest]:
                return _exec(machine_of(lab.folder / number).inside(*rest))
            case [("near" | "far") as name, *rest]:
                return _exec(["nsenter", f"--net=/run/netns/{lab.name}-{name}", *rest])
            case ["status"]:
                for folder in sorted(lab.folder.glob("[0-9]*")):
                    print(f"node{folder.name}", "up" if machine_of(folder).up else "down")
                return 0
            case ["down"]:
                with turn(LOCK, _tell):
                    lab.down()
                return 0
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    print(__doc__)
    return 2


def _up(nodes: int) -> int:
    if why := missing():
        raise LabError(why)
    with turn(LOCK, _tell), Lab(nodes=nodes, managers=min(nodes, 3), disk=disk(), tell=_tell) as lab:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        _tell(lab.docker(1, "node", "ls"))
        _tell("up until Ctrl-C; in another terminal: python tests/stack/lab.py docker 1 service ls")
        try:
            signal.pause()
        except KeyboardInterrupt:
            _tell("down")
    return 0


def _exec(command: list[str]) -> int:
    os.execvp(command[0], command)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
