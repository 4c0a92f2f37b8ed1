"""A client that submits mail: it says EHLO, starts TLS, proves who it is, and sends."""

from __future__ import annotations

import base64

from loopback import Client, connect


def plain(user: str, secret: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{secret}".encode()).decode()


async def greeted(port: int, *, tls: bool = False, header: bytes = b"") -> tuple[Client, str]:
    client = await connect(port, tls=tls)
    if header:
        client.send(header)
    assert (await client.reply()).startswith("220 ")
    return client, await client.say("EHLO client.test")


async def secured(port: int) -> tuple[Client, str]:
    client, _ = await greeted(port)
    assert (await client.say("STARTTLS")).startswith("220 ")
    await client.start_tls()
    return client, await client.say("EHLO client.test")


async def send(client: Client, *recipients: str, text: str = "Subject: x\r\n\r\ntext") -> list[str]:
    replies = [await client.say("MAIL FROM:<app@client.test>")]
    replies += [await client.say(f"RCPT TO:<{recipient}>") for recipient in recipients]
    if replies[-1].startswith("250"):
        replies.append(await client.say("DATA"))
        replies.append(await client.say(f"{text}\r\n."))
    return [reply[:9] if reply[:3] >= "400" else reply[:3] for reply in replies]


GOOD = ["250", "250", "354", "250"]
