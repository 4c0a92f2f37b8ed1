"""Take the README's pictures of the web inbox: mailfarm/docs/inbox.png, and inbox-dark.png beside it.

    .venv/bin/python bench/screenshot.py [--folder mailfarm/docs]

Starts a `mailfarm dev` that keeps nothing, sends it the mails below, and looks at it with Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import formataddr
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright

from mailfarm.sdk import Farm

ROOT = Path(__file__).resolve().parent.parent
LISTENERS = ("API_LISTEN", "SUBMISSION_CAPTURE", "SUBMISSION_STARTTLS", "SUBMISSION_TLS", "MX_LISTEN")
INBOX = "inbox@mailfarm.test"
OTHERS = ("newsletter@mailfarm.test", "checkout@mailfarm.test", "signup@mailfarm.test")

HTML = """<html><head><style>
.in { background: #4b3fae; color: #fff; padding: 12px 22px; border-radius: 8px; text-decoration: none }
</style></head><body style="margin:0;background:#f4f2fb">
<table width="100%" cellpadding="0" cellspacing="0"><tr><td align="center" style="padding:28px 12px">
<table style="width:100%;max-width:500px;background:#fff;border-radius:14px;font-family:Helvetica,Arial,sans-serif;
color:#221d44"><tr><td style="padding:30px 32px">
<h1 style="margin:0 0 10px;font-size:23px">Welcome back</h1>
<p style="margin:0">Use this code to sign in to <b>Larkspur</b>. It works for ten minutes.</p>
<p style="font-size:34px;letter-spacing:.16em;font-weight:700;background:#f4f2fb;border-radius:10px;padding:12px;
text-align:center;margin:20px 0">481 516</p>
<p style="margin:0 0 22px"><a class="in" href="https://larkspur.example/signin?token=9f8a7d6c5b4a">Sign in</a></p>
<img src="https://count.larkspur.example/open.gif" width="1" height="1" alt="">
<p style="color:#77719a;font-size:13px;margin:0">If this was not you, do nothing and nobody gets in.</p>
</td></tr></table></td></tr></table></body></html>"""

MAILS: tuple[dict[str, Any], ...] = (
    {"to": OTHERS[0], "sender": ("Fen & Field", "letter@fen.example"), "subject": "What grows in November"},
    {"to": OTHERS[1], "sender": ("Shop", "orders@shop.example"), "subject": "Order 1001: thank you"},
    {"to": OTHERS[1], "sender": ("Shop", "orders@shop.example"), "subject": "Order 1001 is on its way"},
    {
        "sender": ("", "cron@build-07.internal"),
        "subject": "Cron <backup@build-07> /usr/local/bin/nightly",
        "text": "rsync: connection unexpectedly closed (0 bytes received so far) [sender]\n",
    },
    {
        "sender": ("Pipelines", "noreply@forge.example"),
        "subject": "Pipeline #8812 has failed for main",
        "text": "Job test:unit ended with exit code 1. The log is attached.\n",
        "files": {"unit.log": b"FAILED tests/test_reset.py\n" * 900},
    },
    {
        "sender": ("مركز الدعم", "support@example.test"),
        "subject": "تذكرتك رقم 4412 قيد المعالجة",
        "text": "شكرا لتواصلك معنا، سنرد عليك قريبا.\n",
    },
    {
        "sender": ("Ada Lovelace", "ada@analytical.example"),
        "subject": "Notes on the engine, second draft",
        "text": "Dear Charles, I enclose note G. The table of the Bernoulli numbers is complete; see step 21.\n",
        "files": {"note-g.pdf": b"%PDF-1.4 " + b"x" * 480_000},
        "read": True,
    },
    {
        "sender": ("Shop", "orders@shop.example"),
        "subject": "Reset your password",
        "text": "Somebody asked for a new password. https://shop.example/reset?token=5d41402abc4b2a76\n",
        "read": True,
    },
    {
        "sender": ("Larkspur", "hello@larkspur.example"),
        "subject": "Your sign-in code is 481 516",
        "text": "Your sign-in code is 481 516. It works for ten minutes.\n",
        "html": HTML,
    },
)


@contextmanager
def mailfarm() -> Iterator[tuple[str, int]]:
    """A `mailfarm dev` on free ports: its address and its capture port."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAILFARM_")}
    environ |= {f"MAILFARM_{name}": "127.0.0.1:0" for name in LISTENERS}
    process = subprocess.Popen(
        [sys.executable, "-m", "mailfarm", "dev", "--ephemeral", "--json"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        where = json.loads(process.stdout.readline())
        yield where["http"], int(where["smtp"]["capture"].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(30)


def send(port: int) -> None:
    """Send the mails, the first one first."""
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        for mail in MAILS:
            message = EmailMessage()
            message["From"] = formataddr(mail["sender"])
            message["To"] = mail.get("to", INBOX)
            message["Subject"] = mail["subject"]
            message.set_content(mail.get("text", "Hello.\n"))
            if "html" in mail:
                message.add_alternative(mail["html"], subtype="html")
            for name, data in mail.get("files", {}).items():
                message.add_attachment(data, "application", "octet-stream", filename=name)
            smtp.send_message(message, mail["sender"][1], [mail.get("to", INBOX)])


def take(browser: Browser, url: str, scheme: Any, path: Path) -> None:
    """Open the newest mail and take the picture."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 760}, color_scheme=scheme, device_scale_factor=1.5, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(url)
    page.locator(".row", has_text="sign-in code").click()
    expect(page.frame_locator("iframe").locator("h1")).to_be_visible()
    expect(page.locator("#state.up")).to_be_visible()
    page.mouse.move(640, 740)
    page.screenshot(path=path)
    context.close()


def main() -> int:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "mailfarm" / "docs")
    folder = parser.parse_args().folder
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("there is no chromium here; install Debian's package chromium", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with mailfarm() as (url, port), sync_playwright() as playwright, Farm(url) as farm:
        for address in OTHERS:
            farm.create_mailbox(address)
        send(port)
        inbox = farm.mailbox(INBOX)
        expected = [mail for mail in MAILS if "to" not in mail]
        for message in inbox.wait_for_all(len(expected), timeout=30):
            if any(mail["subject"] == message.subject and mail.get("read") for mail in expected):
                message.mark_seen()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme, name in (("light", "inbox.png"), ("dark", "inbox-dark.png")):
            take(browser, url, scheme, folder / name)
            print(folder / name)
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
