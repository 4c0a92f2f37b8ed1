"""The oracle: what the ledger says was promised, compared with what the API gives back.

It stands outside: it knows the ledger, the API and what the consumers of events wrote down, and nothing of the system.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256

from mailfarm.sdk import Farm, FarmError, Message, NoSuchMailbox, NoSuchMessage
from mailfarm.sdk.errors import ApiError

from .hearing import Hearing, Told
from .ledger import Attempt
from .smtp import MARK

THREADS = 8
OWN_TRACE = (b"received:", b"return-path:", b"delivered-to:")


@dataclass(slots=True)
class Fate:
    """What became of one message for one recipient. ``began`` is when its first attempt did, ``ended`` when its last
    one did. ``read``: its mailbox was read to the end, so what was not found there is not there. ``written``: every
    attempt is in the ledger."""

    id: str
    to: str
    sha256: str
    began: float
    ended: float = 0.0
    acked: int = 0
    refused: int = 0
    unknown: int = 0
    copies: int = 0
    altered: int = 0
    read: bool = True
    written: bool = True

    @property
    def lost(self) -> bool:
        """It was acknowledged, and no copy is as it was sent."""
        return self.acked > 0 and self.copies == self.altered and self.read

    @property
    def not_judged(self) -> bool:
        """It was acknowledged, was not found, and its mailbox could not be read to the end."""
        return self.acked > 0 and self.copies == self.altered and not self.read

    @property
    def ghost(self) -> bool:
        """It is there, though every attempt was refused."""
        return self.copies > 0 and not self.acked and not self.unknown and self.written

    @property
    def duplicates(self) -> int:
        """Copies beyond the first."""
        return max(self.copies - 1, 0)

    @property
    def excess(self) -> int:
        """Copies beyond what attempts can account for: one for each that was acknowledged or is unknown."""
        return max(self.copies - self.acked - self.unknown, 0) if self.written and not self.ghost else 0


@dataclass(slots=True)
class Tally:
    """What became of many."""

    attempts: int = 0
    messages: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    duplicates: int = 0
    lost: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    ghosts: list[str] = field(default_factory=list)
    excess: list[str] = field(default_factory=list)
    not_judged: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.altered or self.ghosts or self.excess or self.not_judged)


def tally(fates: Iterable[Fate]) -> Tally:
    """Count. ``acknowledged``, ``refused`` and ``unknown`` are (message, recipient) pairs, each counted once."""
    found = Tally()
    for fate in fates:
        name = f"{fate.id} to {fate.to}"
        found.messages += 1
        found.attempts += fate.acked + fate.refused + fate.unknown
        found.acknowledged += fate.acked > 0
        found.unknown += not fate.acked and fate.unknown > 0
        found.refused += not fate.acked and not fate.unknown
        found.duplicates += fate.duplicates
        if fate.lost:
            found.lost.append(name)
        if fate.altered:
            found.altered.append(name)
        if fate.ghost:
            found.ghosts.append(name)
        if fate.excess:
            found.excess.append(name)
        if fate.not_judged:
            found.not_judged.append(name)
    return found


@dataclass(slots=True)
class Verdict:
    """What the oracle saw of one target."""

    fates: dict[tuple[str, str], Fate] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    """Messages that the ledger knows nothing of, or whose beginning cannot be recognised."""
    filed: dict[str, dict[str, int]] = field(default_factory=dict)
    """The messages that are there and their change numbers, by mailbox."""
    gaps: dict[str, list[int]] = field(default_factory=dict)
    """Change numbers that are missing, or that several messages have, by mailbox."""
    missed: dict[str, list[int]] = field(default_factory=dict)
    """Change numbers that a consumer of events did not see, by consumer."""
    mistold: dict[str, list[str]] = field(default_factory=dict)
    """What a consumer was told that is not so, a sentence each, by consumer."""
    repeats: dict[str, int] = field(default_factory=dict)
    """Events that a consumer was told again, by consumer: to be dropped by id."""
    wrong: list[str] = field(default_factory=list)
    """What else is wrong, a sentence each."""
    unread: dict[str, str] = field(default_factory=dict)
    """Why a mailbox could not be read to its end, by mailbox: what was not found there is not judged."""
    seconds: float = 0.0
    """From the end of the traffic until every acknowledged message was read."""
    _heard: dict[str, Hearing] = field(default_factory=dict)

    @property
    def tally(self) -> Tally:
        """Of all of it."""
        return tally(self.fates.values())

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        wrong = self.unread or self.strays or self.gaps or self.missed or self.mistold or self.wrong
        return self.tally.clean and not wrong

    def last(self, mailbox: str) -> int:
        """The change number of the newest message in a mailbox; 0 where there is none."""
        return max(self.filed.get(mailbox, {}).values(), default=0)

    def heard(self, consumer: str, mailbox: str, saw: Sequence[Told]) -> None:
        """Judge what a consumer of a mailbox's events was told, by the messages that are there. Of a mailbox that could
        not be read, whose events could not be had either, only what contradicts itself is."""
        hearing = self._heard.setdefault(mailbox, Hearing(self.filed.get(mailbox, {}), mailbox not in self.unread))
        missed, mistold = hearing.judge(saw)
        if missed:
            self.missed[consumer] = missed
        if mistold:
            self.mistold[consumer] = mistold
        self.repeats[consumer] = len(saw) - len({told.message for told in saw})


def fates_of(attempts: Iterable[Attempt], *, written: bool = True) -> dict[tuple[str, str], Fate]:
    """The ledger, by message and recipient; ``written`` says whether every attempt is in it."""
    fates: dict[tuple[str, str], Fate] = {}
    for attempt in attempts:
        new = Fate(attempt.id, attempt.to, attempt.sha256, attempt.began, written=written)
        fate = fates.setdefault((attempt.id, attempt.to), new)
        setattr(fate, attempt.outcome, getattr(fate, attempt.outcome) + 1)
        fate.ended = max(fate.ended, attempt.ended)
    return fates


def judge(
    attempts: Iterable[Attempt],
    api: Callable[[], Farm],
    mailboxes: Sequence[str],
    *,
    seconds: float = 60,
    still: float = math.inf,
    drained: Callable[[], bool] = lambda: True,
    written: bool = True,
) -> Verdict:
    """Read every message of the mailboxes (addresses), until all that was acknowledged is there and the queue is
    ``drained``, so that no second copy and no ghost may come later; or ``seconds`` have passed, or nothing new was
    there for ``still`` seconds. Where the ledger is not whole (``written``), who is a ghost, a copy too many or a stray
    is not known."""
    verdict = Verdict(fates_of(attempts, written=written))
    began = since = time.monotonic()
    there = 0
    read: dict[str, dict[str, tuple[int, str, str]]] = defaultdict(dict)
    with api() as farm, ThreadPoolExecutor(THREADS) as pool:
        while True:
            now = time.monotonic()  # reading takes its time: the last look begins after the deadline
            if (many := sum(map(len, read.values()))) > there:
                there, since = many, now
            last = now - began > seconds or now - since > still
            over = drained()  # what has ended by now has been filed, and is read below
            verdict.unread = _read_all(farm, mailboxes, read, pool)
            _count_copies(verdict, read)
            verdict.seconds = time.monotonic() - began
            if last or (over and not verdict.unread and not any(fate.lost for fate in verdict.fates.values())):
                break
            time.sleep(0.3)
    if not written:
        verdict.strays = []
    for address in mailboxes:
        filed = verdict.filed[address] = {id: number for id, (number, _, _) in read[address].items()}
        times = Counter(filed.values())
        least = 1 if address not in verdict.unread else 0  # what is not there may not have been read
        if wrong := [number for number in range(1, max(times, default=0) + 1) if not least <= times[number] <= 1]:
            verdict.gaps[address] = wrong
    return verdict


def _read_all(
    farm: Farm,
    mailboxes: Sequence[str],
    read: dict[str, dict[str, tuple[int, str, str]]],
    pool: ThreadPoolExecutor,
) -> dict[str, str]:
    """Read what has not been read: by mailbox and message id its change number, its name and its hash. Why that could
    not be done, by mailbox. A mailbox or a message that the API does not know has been read: it is not there."""
    unread: dict[str, str] = {}
    for place, address in enumerate(mailboxes):
        try:
            _read(farm, address, read[address], pool)
        except NoSuchMailbox:
            continue
        except ApiError as error:
            unread[address] = str(error)
        except FarmError as error:  # nobody answers, and nobody will for the others
            return unread | dict.fromkeys(mailboxes[place:], str(error))
    return unread


def _read(farm: Farm, address: str, known: dict[str, tuple[int, str, str]], pool: ThreadPoolExecutor) -> None:
    """Read what is new in one mailbox. Raises ApiError when all else of it was read, FarmError."""
    new = [message for message in farm.mailbox(address).messages() if message.id not in known]
    places = [(message.id, message.seq) for message in new]
    new.reverse()
    refused: ApiError | None = None
    # taken out of the list one by one: a message keeps what was read of it
    for (id, seq), what in zip(places, pool.map(_answered, (new.pop() for _ in places)), strict=True):
        if isinstance(what, NoSuchMessage):
            continue
        if isinstance(what, ApiError):
            refused = what
        else:
            known[id] = (seq, *what)
    if refused is not None:
        raise refused


def _answered(message: Message) -> tuple[str, str] | ApiError:
    """What it is, or what the API said instead. Raises FarmError when it said nothing."""
    try:
        return _identify(message)
    except ApiError as error:
        return error


def _identify(message: Message) -> tuple[str, str]:
    """The name in the first line below the trace, and the SHA-256 from there on; no name where none is found."""
    raw = message.read_raw()
    start = raw.find(MARK)
    if start < 0:
        return "", sha256(raw).hexdigest()
    above = [line for line in raw[:start].split(b"\r\n") if line and line[:1] not in b" \t"]
    if not all(line.lower().startswith(OWN_TRACE) for line in above):
        return "", sha256(raw).hexdigest()
    name = raw[start + len(MARK) : raw.index(b"\r\n", start)].decode("latin-1")
    return name, sha256(raw[start:]).hexdigest()


def _count_copies(verdict: Verdict, read: Mapping[str, Mapping[str, tuple[int, str, str]]]) -> None:
    for fate in verdict.fates.values():
        fate.copies = fate.altered = 0
        fate.read = fate.to not in verdict.unread
    verdict.strays = []
    for address, messages in read.items():
        for id, (_, name, digest) in messages.items():
            fate_or_none = verdict.fates.get((name, address))
            if fate_or_none is None:
                verdict.strays.append(f"{id} in {address}: {name or 'not recognised'}")
                continue
            fate_or_none.copies += 1
            fate_or_none.altered += digest != fate_or_none.sha256
