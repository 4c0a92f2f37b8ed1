"""A new version that cannot start, each for another reason: Swarm goes back, the log says why, nobody notices."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine import LabError
from swarm_deployment import MX, Deployment, send
from table import Table
from trial import trial

pytestmark = pytest.mark.stack

IMPATIENT = ("--health-start-period", "15s", "--health-interval", "2s", "--health-retries", "3")
"""A version that waits is given up sooner than in earnest."""


def refused(stack: Deployment, table: Table, folder: Path, what: str, saying: str, *options: str) -> None:
    """Update mx so that it cannot start."""
    with trial(stack, table, folder, f"update of mx: {what}") as run:
        updated = stack.update("mx", *IMPATIENT, *options)
        run.took = updated.seconds
        run.remarks = updated.state.replace("_", " ")
    log = stack.logs("mx", 400)
    assert updated.state == "rollback_completed"
    run.assert_nothing_noticed()
    assert re.search(saying, log), log[-3000:]
    assert "Traceback" not in log
    stack.until(stack.converged, 60, "the stack")


def test_deploy_names_a_secret_that_is_missing(stack: Deployment) -> None:
    secret, aside = stack.private / "queue_password", stack.private / "aside"
    secret.rename(aside)
    try:
        with pytest.raises(LabError, match=r"ended with 2:\n.*queue_password.*stack/prepare"):
            stack.deploy()
    finally:
        aside.rename(secret)
    assert stack.converged()


def test_a_secret_is_missing(stack: Deployment, table: Table, tmp_path: Path) -> None:
    form = "{{range .Spec.TaskTemplate.ContainerSpec.Secrets}}{{.SecretName}} {{end}}"
    secrets = stack.docker("service", "inspect", "--format", form, stack.full("mx")).split()
    (name,) = (each for each in secrets if "queue_password" in each)
    said = r"MAILFARM_QUEUE_PASSWORD_FILE.*/run/secrets/queue_password"
    refused(stack, table, tmp_path, "without a secret", said, "--secret-rm", name)


def test_a_password_is_wrong(stack: Deployment, table: Table, tmp_path: Path) -> None:
    wrong = "MAILFARM_QUEUE_PASSWORD_FILE=/run/secrets/cache_password"
    refused(stack, table, tmp_path, "with a wrong password", r"(?i)redis-queue.*password", "--env-add", wrong)


@contextmanager
def schema(stack: Deployment, change: str, back: str) -> Iterator[None]:
    """What the database says of its schema, for a while."""
    (postgres,) = stack.replicas("postgres")

    def run(text: str) -> None:
        stack.run(postgres, "psql", "-qAt", "-v", "ON_ERROR_STOP=1", "-U", "mailfarm", "mailfarm", "-c", text)

    run(change)
    try:
        yield
    finally:
        run(back)


def test_the_schema_is_newer(stack: Deployment, table: Table, tmp_path: Path) -> None:
    row = "(version, name, checksum, compatible_from) values (9999, 'tomorrow', 'x', 9999)"
    with schema(stack, f"insert into mailfarm_schema {row}", "delete from mailfarm_schema where version = 9999"):
        image = stack.build("newer-schema", "LABEL lab=newer")
        refused(stack, table, tmp_path, "the schema is newer", r"(?i)newer", "--image", image)


def test_the_schema_is_older(stack: Deployment, table: Table, tmp_path: Path) -> None:
    newest = "version = (select max(version) from mailfarm_schema)"
    hold = (
        f"create table held as select * from mailfarm_schema where {newest}; delete from mailfarm_schema where {newest}"
    )
    with schema(stack, hold, "insert into mailfarm_schema select * from held; drop table held"):
        image = stack.build("older-schema", "LABEL lab=older")
        refused(stack, table, tmp_path, "the schema is older", r"mailfarm schema", "--image", image)


def test_clocks_ten_minutes_off(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """mx is ahead and the worker behind. Mail flows, and a mailbox of two minutes is not ended by a clock of ours: the
    database's decides."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not on this machine: `make stack-test` installs it (package faketime)")
    shutil.copy(library, tmp_path / "libfaketime.so.1")

    def clock(offset: str) -> str:
        lines = ("COPY libfaketime.so.1 /opt/libfaketime.so.1", "ENV LD_PRELOAD=/opt/libfaketime.so.1")
        more = (f"ENV FAKETIME={offset} FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1",)
        return stack.build(f"clock{offset.strip('+-')}", *lines, *more, context=tmp_path)

    before = {word: stack.replicas(word)[0].image for word in ("mx", "inbound")}
    with trial(stack, table, tmp_path, "clocks: mx 10 min ahead, inbound 10 min behind", watch=("wait",)) as run:
        assert stack.update("mx", "--image", clock("+600")).state == "completed"
        assert stack.update("inbound", "--image", clock("-600")).state == "completed"
        ahead = stack.run(stack.replicas("mx")[0], "python3", "-c", "import time; print(time.time())")
        behind = stack.run(stack.replicas("inbound")[0], "python3", "-c", "import time; print(time.time())")
        run.remarks = f"{float(ahead) - float(behind):.0f} s apart"
        with stack.farm() as farm:
            inbox = farm.create_mailbox(kind="disposable", lifetime=120)
            with stack.smtp(MX) as smtp:
                send(smtp, inbox.address, b"Subject: not ended\r\n\r\nx\r\n")
            inbox.wait_for(subject="not ended", timeout=30)
        for word, image in before.items():
            assert stack.update(word, "--image", image).state == "completed"
    assert float(ahead) - float(behind) > 1100
    run.assert_nothing_noticed()
