"""From nothing to delivered mail: three machines, ``stack/prepare``, ``stack/deploy``, and each way in from outside.

One test, so that `make test` makes one lab whatever the number of its worker processes.
"""

from __future__ import annotations

import asyncio
import smtplib
import time
from pathlib import Path

import pytest
from ledger import Steady, judged
from swarm_deployment import ALTERNATIVE, HOST, MX, SUBMISSION, TLS, Deployment, send
from table import Table
from traffic import Plan

from mailfarm.prove.websocket import WebSocket
from mailfarm.sdk import Inbox

EXACT = b"Subject: %s\r\nX-Odd:\t tab \r\n\r\n..dots\r\n.\xff\xfe 8 bit\r\n \r\n\r\n"


def test_from_nothing_to_delivered_mail(stack: Deployment, table: Table, tmp_path: Path) -> None:
    with stack.farm() as farm:
        inbox = farm.create_mailbox()
        mail_to_our_mailboxes_on_25(stack, inbox)
        submission_with_a_password(stack, inbox)
        nothing_without_tls(stack, inbox)
        real_addresses(stack, inbox)
        asyncio.run(a_websocket(stack, inbox))
        nobody_else_is_let_in(stack)
        an_update_loses_nothing(stack, inbox, table, tmp_path)


def mail_to_our_mailboxes_on_25(stack: Deployment, inbox: Inbox) -> None:
    content = EXACT % b"by MX"
    with stack.smtp(MX) as smtp:
        smtp.ehlo()
        assert smtp.has_extn("starttls")
        assert not smtp.has_extn("auth")
        send(smtp, inbox.address, content)
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            send(smtp, "a@elsewhere.example", content)
    assert next(iter(refused.value.recipients.values()))[0] in (550, 551, 553, 554)
    assert inbox.wait_for(subject="by MX", timeout=20).raw.endswith(content)


def submission_with_a_password(stack: Deployment, inbox: Inbox) -> None:
    for port in (TLS, SUBMISSION, ALTERNATIVE):
        content = EXACT % f"by {port}".encode()
        with stack.smtp(port, number=2) as smtp:
            if port != TLS:
                smtp.starttls(context=stack.tls())
            smtp.login(inbox.smtp.user, inbox.smtp.password)
            send(smtp, "someone.else@elsewhere.example", content)
        mail = inbox.wait_for(subject=f"by {port}", timeout=20)
        assert mail.recipients == ("someone.else@elsewhere.example",)
        assert mail.raw.endswith(content)


def nothing_without_tls(stack: Deployment, inbox: Inbox) -> None:
    for port in (SUBMISSION, ALTERNATIVE):
        with stack.smtp(port) as smtp:
            smtp.ehlo()
            assert not smtp.has_extn("auth")
            assert smtp.docmd("AUTH", "PLAIN AGEAYg==")[0] in (502, 503, 530, 538)
            assert smtp.mail("a@shop.example")[0] == 530
        with stack.smtp(port) as smtp:
            smtp.starttls(context=stack.tls())
            smtp.ehlo()
            assert smtp.mail("a@shop.example")[0] == 530
            with pytest.raises(smtplib.SMTPAuthenticationError):
                smtp.login(inbox.smtp.user, "not the password")


def real_addresses(stack: Deployment, inbox: Inbox) -> None:
    """What mailfarm sees is who is there, whichever machine and protocol."""
    for six in (False, True):
        for number in stack.lab.machines:
            for client in (stack.lab.near, stack.lab.far):
                client.call(send_one, stack, inbox.address, six, number, f"from {client.network} {six} {number}")
                mail = inbox.wait_for(subject=f"from {client.network} {six} {number}", timeout=20)
                assert mail.detail.origin["client"] in (client.v6 if six else client.v4[:1]), (six, number)


def send_one(stack: Deployment, to: str, six: bool, number: int, subject: str) -> None:
    with stack.smtp(MX, number, six=six) as smtp:
        send(smtp, to, f"Subject: {subject}\r\n\r\nx\r\n".encode())


async def a_websocket(stack: Deployment, inbox: Inbox) -> None:
    headers = {"Authorization": f"Bearer {stack.token}"}
    after = (await asyncio.to_thread(inbox.refresh)).cursor
    socket = await WebSocket.open(f"{stack.url}/v1/events", headers, str(stack.authority), (stack.addresses[2], 443))
    assert (await asyncio.wait_for(socket.hear(), 20))["type"] == "hello"
    socket.say({"op": "subscribe", "mailbox": inbox.id, "after": after})
    assert (await asyncio.wait_for(socket.hear(), 20))["type"] == "subscribed"
    began = time.monotonic()
    await asyncio.to_thread(send_one, stack, inbox.address, False, 1, "over the WebSocket")
    heard = await asyncio.wait_for(socket.hear(), 20)
    stack.tell(f"sent, filed and heard on a WebSocket in {(time.monotonic() - began) * 1000:.0f} ms")
    assert (heard["type"], heard["message"]["subject"]) == ("filed", "over the WebSocket")
    socket.close()


def nobody_else_is_let_in(stack: Deployment) -> None:
    import httpx

    with httpx.Client(base_url=stack.url, trust_env=True) as http:
        assert http.get("/v1/mailboxes").status_code == 401
        assert http.get("/v1/mailboxes", headers={"Authorization": "Bearer nonsense"}).status_code == 401
        assert http.get(f"http://{HOST}/v1/mailboxes").status_code in (301, 308)


def an_update_loses_nothing(stack: Deployment, inbox: Inbox, table: Table, folder: Path) -> None:
    image = stack.build("journey", "LABEL lab=journey")
    plan = Plan([(stack.addresses[0], MX)], [inbox.address], kept=2, sources=stack.lab.near.v4, label="journey")
    with Steady(stack.lab.near, folder, plan) as steady:
        steady.flowing()
        updated = stack.update("mx", "--image", image)
        steady.flowing()
    tally = judged(stack.farm, steady).tally
    stack.tell(table.event("update of mx", updated.seconds, steady.result, len(tally.lost)))
    assert updated.state == "completed"
    assert (steady.result["lost"], steady.result["unsent"]) == (0, 0), steady.result
    assert tally.acknowledged
    assert tally.clean, tally
    stack.until(stack.converged, 60, "the stack after the update")
