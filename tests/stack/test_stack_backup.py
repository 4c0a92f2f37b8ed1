"""stack/backup while mail comes in, stack/restore after trouble: what was there at the dump is there again, byte for
byte, what came in meanwhile is filed, and everything goes on."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from engine import LabError
from lab import ROOT
from ledger import Steady
from swarm_deployment import MX, SUBMISSION, Deployment, send
from table import Table
from trial import a_plan

from mailfarm.sdk import Farm, Inbox, NoSuchMailbox

pytestmark = pytest.mark.stack

ODD = b"Subject: number %d\r\nX-Odd:\t tab \r\n\r\n..dots\r\n.\xff\xfe 8 bit\r\n \r\n\r\n"


def contents(farm: Farm, inbox: Inbox) -> dict[str, bytes]:
    """All messages of a mailbox, as they were received."""
    return {mail.id: farm.message(mail.id).raw for mail in inbox.messages()}


def large(number: int) -> bytes:
    """A message whose content is more than one row, packed as it may be."""
    lines = (base64.b64encode(os.urandom(57)) for _ in range(40_000))
    return b"Subject: large %d\r\n\r\n" % number + b"\r\n".join(lines) + b"\r\n"


def test_backup_and_restore(stack: Deployment, table: Table, tmp_path: Path) -> None:
    dump = tmp_path / "farm.dump"
    with stack.farm(timeout=60) as farm:
        inbox, doomed = farm.create_mailbox(), farm.create_mailbox()
        with stack.smtp(MX) as smtp:
            for number in range(20):
                send(smtp, inbox.address, ODD % number)
            send(smtp, [inbox.address, doomed.address], large(1))
        inbox.wait_for(subject="large 1", timeout=60)
        doomed.wait_for(subject="large 1", timeout=60)
        last = farm.mailbox(inbox.id).wait_for_all(21, timeout=60)[-1]
        assert len(contents(farm, inbox)) == 21
        before = contents(farm, inbox), contents(farm, doomed)

        # mail comes in while it is dumped, so the dump is of one moment and nobody waits
        other = farm.create_mailbox()
        with Steady(None, tmp_path, a_plan(stack, [other.address], label="dump")) as steady:
            steady.flowing(20)
            took = command(stack, "stack/backup", str(dump))
            steady.flowing(20)
        assert (steady.result["lost"], steady.result["unsent"]) == (0, 0), steady.result
        stack.tell(table.fact(f"stack/backup, under mail ({dump.stat().st_size / 1e6:.1f} MB)", f"{took:.0f} s"))
        assert dump.stat().st_mode & 0o777 == 0o600
        assert not list(tmp_path.glob(".*.new"))
        with pytest.raises(LabError, match="is there already"):
            command(stack, "stack/backup", str(dump))

        # trouble: mail and a mailbox are deleted, others are made
        last.delete()
        doomed.delete()
        late = farm.create_mailbox()
        with stack.smtp(MX) as smtp:
            send(smtp, late.address, b"Subject: late\r\n\r\nx\r\n")
        late.wait_for(timeout=60)

        with pytest.raises(LabError, match=r"ended with 2[^$]*Nothing was done"):
            command(stack, "stack/restore", str(dump))
        assert stack.converged()

        taken: list[bytes] = []
        took = command(stack, "stack/restore", str(dump), "--yes", meanwhile=lambda: send_while(stack, inbox, taken))
        stack.tell(table.fact("stack/restore, until all services run again", f"{took:.0f} s"))
        stack.until(stack.converged, 60, "the stack after the restore")
        assert taken

        # what was taken while nothing was filed is there now, what there was before is there again
        for content in taken:
            subject = content.partition(b"\r\n")[0].removeprefix(b"Subject: ").decode()
            assert farm.mailbox(inbox.id).wait_for(subject=subject, timeout=60).raw.endswith(content)
        after = contents(farm, inbox), contents(farm, doomed)
        assert {id: after[0].get(id) for id in before[0]} == before[0]
        assert after[1] == before[1]
        assert len(after[0]) == 21 + len(taken)
        with pytest.raises(NoSuchMailbox):
            farm.mailbox(late.address)

        # and all goes on: the same password, another mail, live
        with stack.smtp(SUBMISSION) as smtp:
            smtp.starttls(context=stack.tls())
            smtp.login(inbox.smtp.user, inbox.smtp.password)
            send(smtp, inbox.address, b"Subject: and on\r\n\r\nx\r\n")
        farm.mailbox(inbox.id).wait_for(subject="and on", timeout=60)
    stack.run(stack.replicas("inbound")[0], "mailfarm", "queue", "list")  # as operating says; it would raise
    command(stack, "stack/restore", "--forget")
    left = stack.docker("service", "ls", "--format", "{{.Name}}").split()
    assert not [name for name in left if name.startswith("mailfarm-")]


def send_while(stack: Deployment, inbox: Inbox, taken: list[bytes]) -> None:
    """A mail while nothing is filed."""
    content = b"Subject: meanwhile %d\r\n\r\nx\r\n" % len(taken)
    with stack.smtp(MX, timeout=10) as smtp:
        send(smtp, inbox.address, content)
    taken.append(content)
    with stack.farm() as farm:
        assert farm.mailbox(inbox.id).messages()  # what there is can be read


def test_postgres_loses_its_disk(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """What was taken after that, for mailboxes that are known, is filed into what the dump brings back."""
    dump = tmp_path / "farm.dump"
    with stack.farm(timeout=60) as farm:
        inbox = farm.create_mailbox()
        with stack.smtp(MX) as smtp:
            for number in range(5):
                send(smtp, inbox.address, ODD % number)
        inbox.wait_for_all(5, timeout=60)
        before = contents(farm, inbox)
        command(stack, "stack/backup", str(dump))
        for number in (1, 2, 3):  # both replicas of mx know the mailbox
            for _ in range(4):
                with stack.smtp(MX, number) as smtp:
                    smtp.ehlo()
                    smtp.mail("a@shop.example")
                    assert smtp.rcpt(inbox.address)[0] == 250
        (postgres,) = stack.replicas("postgres")
        stack.scale("postgres", 0)

        def gone() -> bool:
            return not stack.lab.docker(postgres.machine, "ps", "-aq", "--filter", "name=mailfarm_postgres")

        stack.until(gone, 60, "the end of Postgres' container")
        stack.lab.docker(postgres.machine, "volume", "rm", "mailfarm_postgres")
        stack.scale("postgres", 1)
        with stack.smtp(MX) as smtp:
            send(smtp, inbox.address, b"Subject: after the loss\r\n\r\nx\r\n")
        took = command(stack, "stack/restore", str(dump), "--yes")
        stack.tell(table.fact("stack/restore on an empty disk", f"{took:.0f} s"))
        inbox = farm.mailbox(inbox.id)
        assert inbox.wait_for(subject="after the loss", timeout=90).raw.endswith(b"\r\n\r\nx\r\n")
        after = contents(farm, inbox)
        assert {id: after.get(id) for id in before} == before
        assert len(after) == 6
    command(stack, "stack/restore", "--forget")


def test_a_dump_of_a_newer_mailfarm_is_refused(stack: Deployment, tmp_path: Path) -> None:
    dump = tmp_path / "newer.dump"
    (postgres,) = stack.replicas("postgres")

    def run(sql: str) -> None:
        stack.run(postgres, "psql", "-qAt", "-v", "ON_ERROR_STOP=1", "-U", "mailfarm", "mailfarm", "-c", sql)

    run("insert into mailfarm_schema (version, name, checksum, compatible_from) values (9999, 'tomorrow', 'x', 9999)")
    try:
        command(stack, "stack/backup", str(dump))
    finally:
        run("delete from mailfarm_schema where version = 9999")
    with pytest.raises(LabError, match=r"ended with 2[^$]*a newer mailfarm made the dump"):
        command(stack, "stack/restore", str(dump), "--yes")
    assert stack.converged()


def test_what_is_no_dump_is_refused(stack: Deployment, tmp_path: Path) -> None:
    (tmp_path / "farm.dump").write_text("select 1;")
    with pytest.raises(LabError, match=r"ended with 2[^$]*is no dump"):
        command(stack, "stack/restore", str(tmp_path / "farm.dump"), "--yes")


def command(stack: Deployment, *words: str, meanwhile: Callable[[], None] | None = None) -> float:
    """Run it on the third machine, which is not the one with Postgres, if that is another; how long it took.
    ``meanwhile`` is called while it loads. Raises LabError with what it said."""
    began = time.monotonic()
    (postgres,) = stack.replicas("postgres")
    machine = stack.lab.machines[next(number for number in stack.lab.machines if number != postgres.machine)]

    def tell(line: str) -> None:
        stack.tell(line)
        if meanwhile is not None and line.strip() == "Loading":
            meanwhile()

    code, said = machine.follow(*words, tell=tell, folder=ROOT)
    if code:
        raise LabError(f"{' '.join(words)} ended with {code}:\n{said}")
    return time.monotonic() - began
